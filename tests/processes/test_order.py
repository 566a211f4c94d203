"""Which task is next."""

from __future__ import annotations

import pytest
from django.db import transaction

from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import Gate, Ledger, sql, statuses, wait_until

pytestmark = pytest.mark.slow


def test_higher_priorities_go_first_and_equal_ones_in_the_order_of_enqueueing(
    start: Starter, ledger: Ledger
) -> None:
    for number in range(30):
        for priority in (-5, 0, 100):
            tasks.note.using(priority=priority).enqueue(ledger.path, f"{priority}/{number}")
    assert start("--burst", children=1, ready=False).wait() == 0
    assert ledger.tags() == [f"{p}/{number}" for p in (100, 0, -5) for number in range(30)]


def test_an_idle_worker_starts_with_the_higher_priority(start: Starter, ledger: Ledger) -> None:
    start(children=1)
    for turn in range(5):
        # It has just served the lower one, and remembers it.
        tasks.note.enqueue(ledger.path, f"before:{turn}").wait(timeout=20)
        with transaction.atomic():
            low = tasks.note.enqueue(ledger.path, f"low:{turn}")
            high = tasks.note.using(priority=10).enqueue(ledger.path, f"high:{turn}")
        low.wait(timeout=20)
        high.wait(timeout=20)
        assert ledger.tags()[-2:] == [f"high:{turn}", f"low:{turn}"]


def test_a_later_task_of_a_higher_priority_goes_ahead_of_those_that_wait(
    start: Starter, ledger: Ledger, gate: Gate
) -> None:
    start(children=1)
    # The first is still unknown to the worker, so nothing is claimed behind it.
    running = tasks.note.enqueue(ledger.path, "runs", gate=gate.path)
    ledger.start_of("runs")
    low = tasks.note.enqueue(ledger.path, "low")
    high = tasks.note.using(priority=1).enqueue(ledger.path, "high")
    # Whoever works for long looks around before it claims the next one.
    sql("SELECT pg_sleep(1.5)")
    assert statuses() == {"RUNNING": 1, "READY": 2}
    gate.open()
    for result in (running, low, high):
        result.wait(timeout=20)
    assert ledger.tags() == ["runs", "high", "low"]


def test_queues_are_served_in_the_order_of_the_option(start: Starter, ledger: Ledger) -> None:
    for number in range(10):
        for queue in ("reports", "default", "mail-out", "mail-in"):
            # Their order goes before any priority.
            priority = 50 if queue == "reports" else 0
            tasks.note.using(queue_name=queue, priority=priority).enqueue(
                ledger.path, f"{queue}:{number}"
            )
    worker = start("--burst", "-Q", "mail-*,default", children=1, ready=False)
    assert worker.wait() == 0
    queues = [tag.partition(":")[0] for tag in ledger.tags()]
    assert set(queues[:20]) == {"mail-in", "mail-out"}
    assert queues[20:] == ["default"] * 10
    assert statuses() == {"READY": 10}


def test_queues_without_an_order_take_turns(start: Starter, ledger: Ledger) -> None:
    for queue in ("a", "b", "c"):
        tasks.note.using(queue_name=queue).enqueue_many(
            [(ledger.path, queue, 0.02) for _ in range(30)]
        )
    start(children=1)
    wait_until(lambda: len(ledger.starts()) >= 45)
    assert set(ledger.tags()[:45]) == {"a", "b", "c"}


def test_excluded_queues_are_left_alone(start: Starter, ledger: Ledger) -> None:
    for queue in ("default", "slow-1", "slow-2"):
        tasks.note.using(queue_name=queue).enqueue(ledger.path, queue)
    assert start("--burst", "-X", "slow-*", children=1, ready=False).wait() == 0
    assert ledger.tags() == ["default"]
    assert statuses() == {"READY": 2}


def test_a_delayed_task_does_not_keep_later_ones_waiting(start: Starter, ledger: Ledger) -> None:
    tasks.note.using(run_after=3600, priority=100).enqueue_many(
        [(ledger.path, "tomorrow") for _ in range(200)]
    )
    tasks.note.enqueue(ledger.path, "now")
    assert start("--burst", children=1, ready=False).wait() == 0
    assert ledger.tags() == ["now"]
    assert statuses() == {"READY": 200}
