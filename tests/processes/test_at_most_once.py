"""at_most_once=True: once it has started it is never started again, whatever happens."""

from __future__ import annotations

import os
import signal

import pytest
from django.db import transaction

from django_taskq import TaskCrashed, TaskFailed
from django_taskq.models import LiveTask
from django_taskq.statuses import TaskStatus
from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import Gate, Ledger, sql, statuses, stay_free, wait_until, warm_up

pytestmark = pytest.mark.slow


def test_many_are_started_exactly_once_each(start: Starter, ledger: Ledger) -> None:
    start(children=2)
    results = tasks.note_once.enqueue_many([(ledger.path, f"n{i}") for i in range(200)])
    for result in results:
        result.wait(timeout=60)
    assert sorted(ledger.tags()) == sorted(f"n{i}" for i in range(200))


def test_a_crash_ends_it(start: Starter, ledger: Ledger) -> None:
    worker = start(children=1)
    result = tasks.die_once.enqueue(ledger.path)
    with pytest.raises(TaskCrashed, match=r"SIGKILL.*not started again"):
        result.wait(timeout=20)
    assert (result.row_status, result.attempts) == (TaskStatus.FAILED, 1)
    worker.wait_until_ready(1)
    assert tasks.add.enqueue(1, 2).wait(timeout=20) == 3
    assert ledger.tags() == ["started"]


def test_a_hard_time_limit_ends_it(start: Starter, ledger: Ledger) -> None:
    start(children=1)
    result = tasks.hang_only_once.enqueue(ledger.path)
    with pytest.raises(TaskFailed, match=r"timeout of 0\.5 s"):
        result.wait(timeout=20)
    assert tasks.add.enqueue(1, 2).wait(timeout=20) == 3
    assert ledger.tags() == ["started"]


def test_a_death_before_its_outcome_is_stored_ends_it(
    start: Starter, ledger: Ledger, gate: Gate
) -> None:
    worker = start(children=1)
    result = tasks.note_once.enqueue(ledger.path, "n", gate.path)
    pid = ledger.start_of("n").pid
    with transaction.atomic():
        LiveTask.objects.select_for_update().get(pk=result.id)
        gate.open()  # it runs to its end, but its row is locked
        worker.wait_for("trying again")
        os.kill(pid, signal.SIGKILL)
        worker.wait_for("was killed by SIGKILL")
    with pytest.raises(TaskCrashed, match=r"before its outcome was stored\. The task may have"):
        result.wait(timeout=20)
    assert ledger.tags() == ["n"]


def test_the_end_of_a_stops_grace_ends_what_runs_and_gives_the_rest_back(
    start: Starter, ledger: Ledger, gate: Gate
) -> None:
    worker = start("--shutdown-timeout", "0.5", children=1)
    first, *_ = tasks.note_once.enqueue_many([(ledger.path, f"n{i}", gate.path) for i in range(3)])
    ledger.start_of("n0")
    worker.send(signal.SIGTERM)
    assert worker.wait(10) == 0
    with pytest.raises(TaskCrashed, match="grace time of a stop was over"):
        first.wait(timeout=5)
    assert statuses() == {"READY": 2}
    assert sql("SELECT DISTINCT attempts, crashes FROM django_taskq_livetask") == [(0, 0)]
    assert ledger.tags() == ["n0"]


@pytest.mark.parametrize(("pool", "size"), [("processes", 1), ("threads", 3)])
def test_no_more_of_them_are_held_than_can_run(
    start: Starter, ledger: Ledger, gate: Gate, pool: str, size: int
) -> None:
    options = {} if pool == "processes" else {"pool": pool}
    start(children=size, **options)
    warm_up(ledger, 1)  # many are claimed at once from now on
    results = tasks.note_once.enqueue_many([(ledger.path, f"n{i}", gate.path) for i in range(30)])
    wait_until(lambda: len(ledger.tags()) == size)
    wait_until(lambda: statuses() == {"RUNNING": size, "READY": 30 - size}, 0.9)
    assert stay_free(2.0), "they are claimed again and again"
    held = LiveTask.objects.filter(status="READY")
    assert set(held.values_list("attempts", "crashes")) == {(0, 0)}
    gate.open()
    for result in results:
        result.wait(timeout=30)
    assert sorted(ledger.tags()) == sorted(f"n{i}" for i in range(30))
