"""A task that takes long does not keep others waiting behind it."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from django.db import transaction

from django_taskq.models import FinishedTask
from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import Gate, Ledger, statuses, stay_free, wait_until, warm_up

pytestmark = pytest.mark.slow

# Beats every 0.5 s, and dead after 5.
BRISK = "tests.processes.brisk_settings"


@pytest.mark.parametrize(
    "long",
    [
        pytest.param(lambda ledger: tasks.note.enqueue(
            ledger.path, "long", seconds=4), id="that-sleeps"),
        pytest.param(lambda ledger: tasks.hold_the_gil.enqueue(
            ledger.path, "long", 4), id="that-holds-the-gil"),
    ],
)  # fmt: skip
def test_tasks_claimed_behind_a_long_one_start_elsewhere_within_two_seconds(
    long: Any, start: Starter, ledger: Ledger, gate: Gate
) -> None:
    start(children=2)
    warm_up(ledger, 2)
    # One child is kept busy, so that the other one claims all that follows.
    busy = tasks.note.enqueue(ledger.path, "busy", gate=gate.path)
    ledger.start_of("busy")
    with transaction.atomic():
        result = long(ledger)
        behind = tasks.note.enqueue_many([(ledger.path, f"n{i}") for i in range(15)])
    began = ledger.start_of("long").at
    # The busy one, the long one, and as many as were worth claiming ahead.
    wait_until(lambda: statuses()["RUNNING"] >= 4, 0.8, "some are claimed behind the long task")
    gate.open()
    busy.wait(timeout=20)
    for one in behind:
        one.wait(timeout=20)
    result.refresh()
    assert result.row_status == "RUNNING", "the long task is no more"
    others = [s for s in ledger.starts() if s.tag.startswith("n")]
    assert len({s.tag for s in others}) == len(others) == 15, "some have started twice"
    assert max(s.at for s in others) - began < 2.0
    assert {one.attempts for one in behind} == {1}
    result.wait(timeout=20)
    assert ledger.tags().count("long") == 1


def test_a_long_task_claims_nothing_to_wait_behind_it(
    start: Starter, ledger: Ledger, gate: Gate
) -> None:
    start(children=1)
    warm_up(ledger, 1)
    with transaction.atomic():
        long = tasks.note.enqueue(ledger.path, "long", gate=gate.path)
        # More than it claims at once: it knows that there are others.
        waiting = tasks.note.enqueue_many([(ledger.path, f"n{i}") for i in range(1000)])
    began = ledger.start_of("long").at
    wait_until(lambda: statuses()["RUNNING"] > 1, 0.9, "some are claimed behind it at first")
    wait_until(lambda: time.monotonic() > began + 2.0)
    assert statuses() == {"RUNNING": 1, "READY": 1000}
    assert stay_free(2.0), "they are claimed again and again"
    gate.open()
    for result in [long, *waiting]:
        result.wait(timeout=20)
    assert len(ledger.starts()) == 1001


def test_tasks_given_back_are_not_late_when_nobody_else_is_idle(
    start: Starter, ledger: Ledger
) -> None:
    start(children=1)
    warm_up(ledger, 1)
    results = tasks.note.enqueue_many([(ledger.path, "long", 2.5), (ledger.path, "next")])
    for result in results:
        result.wait(timeout=20)
    long, following = ledger.start_of("long"), ledger.start_of("next")
    assert following.at - long.at < 2.5 + 1.5


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_tasks_behind_c_code_in_a_process_of_many_tasks_start_elsewhere_too(
    pool: str, start: Starter, ledger: Ledger
) -> None:
    start(pool=pool, children=4)
    idle = start(pool=pool, children=4)
    (suspended,) = idle.children()
    os.kill(suspended, signal.SIGSTOP)  # so that the other one claims
    try:
        with transaction.atomic():
            long = tasks.hold_the_gil.enqueue(ledger.path, "long", 5)
            behind = tasks.note.enqueue_many([(ledger.path, f"n{i}") for i in range(15)])
        first = ledger.start_of("long")
    finally:
        os.kill(suspended, signal.SIGCONT)
    # The long one, and at most as many beside it as have places: those have started.
    left = first.at + 2.0 - time.monotonic()
    wait_until(lambda: sum(statuses().values()) <= 4, left, "what could not start went elsewhere")
    elsewhere = [s for s in ledger.starts() if s.tag.startswith("n") and s.pid != first.pid]
    assert len({s.tag for s in elsewhere}) >= 12
    for one in behind:
        one.wait(timeout=20)
    long.wait(timeout=20)
    assert len(ledger.tags()) == len(set(ledger.tags())) == 16, "some have started twice"


@pytest.mark.parametrize(
    "pool",
    [
        "processes",
        pytest.param("threads", marks=pytest.mark.chaos),
        pytest.param("asyncio", marks=pytest.mark.chaos),
    ],
)
def test_c_code_that_holds_the_interpreter_for_long_is_no_death(
    pool: str, start: Starter, ledger: Ledger
) -> None:
    start(pool=pool, children=1, settings=BRISK)
    other = start("-Q", "elsewhere", pool=pool, children=1, settings=BRISK)
    result = tasks.hold_the_gil.enqueue(ledger.path, "in-c-code", 8)  # 5 s are a death
    ledger.start_of("in-c-code")
    result.wait(timeout=30)
    assert ledger.tags() == ["in-c-code"]
    assert (result.attempts, FinishedTask.objects.get(pk=result.id).crashes) == (1, 0)
    assert "The worker" not in other.output
