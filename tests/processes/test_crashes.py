"""A process dies: what it ran is run again, what it held goes elsewhere, nothing outlives it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction

from django_taskq import TaskCrashed, TaskFailed, TaskResult
from django_taskq.models import FinishedTask, LiveTask, Worker
from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import Gate, Ledger, is_alive, sql, statuses, wait_until, warm_up

pytestmark = pytest.mark.slow


def test_a_task_whose_process_is_killed_runs_again(start: Starter, ledger: Ledger) -> None:
    worker = start(children=2)
    result = tasks.die.enqueue(ledger.path, times=1)
    assert result.wait(timeout=20) == "survived"
    assert (result.attempts, len(ledger.starts())) == (1, 2)
    assert FinishedTask.objects.get(pk=result.id).crashes == 1
    worker.wait_until_ready(2)  # the capacity is restored
    assert "was killed by SIGKILL" in worker.output


@pytest.mark.parametrize("how", ["hard-limit", "crash"])
def test_the_attempt_of_a_task_that_was_killed_has_begun_with_its_function(
    start: Starter, ledger: Ledger, how: str
) -> None:
    start(children=1)
    warm_up(ledger, 1)
    with transaction.atomic():
        tasks.note.enqueue(ledger.path, "before", 0.8)
        killed: TaskResult[Any] = (
            tasks.run_past_the_hard_limit.enqueue(ledger.path)
            if how == "hard-limit"
            else tasks.die.enqueue(ledger.path, times=1)
        )
    ledger.start_of("before")
    wait_until(lambda: statuses()["RUNNING"] == 2, 0.7, "one waits behind the other")
    with suppress(TaskFailed):
        killed.wait(timeout=20)
    ((clock,),) = sql("SELECT extract(epoch FROM clock_timestamp())::float8")
    since_boot = clock - time.monotonic()
    (began, *_) = (s.at + since_boot for s in ledger.starts() if s.tag != "before")
    # Not when it was claimed, 0.8 s earlier.
    assert killed.errors[0].started_at.timestamp() == pytest.approx(began, abs=0.4)
    if how == "hard-limit":
        assert killed.started_at is not None
        assert killed.started_at.timestamp() == pytest.approx(began, abs=0.4)


def test_tasks_that_a_killed_process_had_not_started_are_free_within_a_second(
    start: Starter, ledger: Ledger, gate: Gate
) -> None:
    worker = start(children=1)
    warm_up(ledger, 1)
    rows = [(ledger.path, "first", 0.0, gate.path)] + [(ledger.path, f"n{i}") for i in range(30)]
    results = tasks.note.enqueue_many(rows)
    victim = ledger.start_of("first").pid
    wait_until(lambda: statuses()["RUNNING"] == 31, 0.9, "the others wait behind the first")
    ((worker_id, count),) = sql(
        "SELECT worker_id, count(*) FROM django_taskq_livetask "
        "WHERE status = 'RUNNING' GROUP BY worker_id"
    )
    ((killed_at,),) = sql("SELECT clock_timestamp()")
    os.kill(victim, signal.SIGKILL)

    def seconds_until_free() -> float | None:
        ((held, moment),) = sql(
            "SELECT count(*), clock_timestamp() FROM django_taskq_livetask WHERE worker_id = %s",
            worker_id,
        )
        return None if held else (moment - killed_at).total_seconds()

    assert count == 31
    assert wait_until(seconds_until_free, 10) < 1.0
    gate.open()
    for result in results:
        result.wait(timeout=20)
    assert sorted(ledger.tags()) == sorted(["first", "first", *(f"n{i}" for i in range(30))])
    crashes = dict(FinishedTask.objects.values_list("id", "crashes"))
    assert {str(id): n for id, n in crashes.items() if n} == {results[0].id: 1}
    assert all(result.attempts == 1 for result in results)
    worker.wait_until_ready(1)


def test_a_task_that_kills_three_processes_fails_and_no_other_is_blamed(
    start: Starter, ledger: Ledger
) -> None:
    start(children=2)
    warm_up(ledger, 2)
    before = FinishedTask.objects.count()
    killer = tasks.die.using(priority=1).enqueue(ledger.path, "killer")
    innocents = tasks.note.enqueue_many(
        [(ledger.path, f"n{i}", 0.002) for i in range(400)],
    )
    with pytest.raises(TaskCrashed, match="after 3 crashes"):
        killer.wait(timeout=30)
    for result in innocents:
        result.wait(timeout=30)
    row = FinishedTask.objects.get(pk=killer.id)
    assert (row.status, row.crashes) == ("FAILED", 3)
    assert [e.exception_class_path.rpartition(".")[2] for e in killer.errors] == ["TaskCrashed"] * 3
    assert all("SIGKILL" in error.message for error in killer.errors)
    assert ledger.tags().count("killer") == 3
    assert FinishedTask.objects.count() == before + 401
    assert not FinishedTask.objects.exclude(pk=killer.id).filter(crashes__gt=0).exists()


def test_a_task_that_exits_its_process_is_a_crash_whatever_the_code(
    start: Starter, ledger: Ledger
) -> None:
    start(children=1)
    result = tasks.die.enqueue(ledger.path, code=0)
    with pytest.raises(TaskCrashed):
        result.wait(timeout=15)
    assert len(ledger.starts()) == 3


def test_a_suspect_runs_alone(start: Starter, ledger: Ledger, gate: Gate) -> None:
    start(children=1)
    warm_up(ledger, 1)
    with transaction.atomic():
        suspect = tasks.note.enqueue(ledger.path, "suspect", gate=gate.path)
        LiveTask.objects.filter(pk=suspect.id).update(crashes=2)
    ledger.start_of("suspect")
    # Work and hints do not tempt its process to claim more.
    others = [tasks.note.enqueue(ledger.path, f"n{i}") for i in range(20)]
    sql("SELECT pg_sleep(0.5)")
    assert statuses() == {"RUNNING": 1, "READY": 20}
    gate.open()
    for result in [suspect, *others]:
        result.wait(timeout=20)
    assert ledger.tags()[0] == "suspect"


def test_a_suspect_waits_neither_for_a_backlog_nor_for_a_task_of_hours(
    start: Starter, ledger: Ledger, gate: Gate, tmp_path: Path
) -> None:
    worker = start(children=2)
    second_gate = Gate(tmp_path / "second-gate")
    tasks.note.enqueue(ledger.path, "first-long", gate=gate.path)
    tasks.note.enqueue(ledger.path, "second-long", gate=second_gate.path)
    pids = [ledger.start_of(f"{which}-long").pid for which in ("first", "second")]
    assert set(pids) == set(worker.children())
    backlog = Ledger(tmp_path / "backlog")
    tasks.note.enqueue_many([(backlog.path, f"n{i}", 0.005) for i in range(6000)])

    def run_one(tag: str, pid: int) -> None:
        with transaction.atomic():
            suspect = tasks.note.enqueue(ledger.path, tag)
            LiveTask.objects.filter(pk=suspect.id).update(crashes=2)
        wait_until(lambda: tag in ledger.tags(), 6, "the suspect starts")
        assert ledger.start_of(tag).pid == pid

    # One child has the backlog to itself, then the other: whichever is asked first.
    gate.open()
    run_one("first-suspect", pids[0])
    tasks.note.using(priority=1).enqueue(ledger.path, "third-long", gate=gate.path + "-never")
    assert ledger.start_of("third-long").pid == pids[0]
    second_gate.open()
    run_one("second-suspect", pids[1])
    assert statuses()["READY"] > 100, "no backlog was left"


def test_a_suspect_behind_a_task_of_hours_does_not_keep_the_other_places_of_a_process_empty(
    start: Starter, ledger: Ledger, gate: Gate
) -> None:
    start(pool="threads", children=3)
    tasks.note.enqueue(ledger.path, "long", gate=gate.path)
    ledger.start_of("long")
    with transaction.atomic():
        suspect = tasks.note.enqueue(ledger.path, "suspect")
        LiveTask.objects.filter(pk=suspect.id).update(crashes=2)
    sql("SELECT pg_sleep(2)")  # it is asked every second
    others = [tasks.note.enqueue(ledger.path, f"n{i}") for i in range(20)]
    for other in others:
        other.wait(timeout=20)
    assert "suspect" not in ledger.tags()
    gate.open()
    suspect.wait(timeout=40)
    assert ledger.tags()[-1] == "suspect"


def test_nothing_outlives_a_killed_worker(start: Starter, ledger: Ledger, gate: Gate) -> None:
    worker = start(children=2)
    tasks.note.enqueue(ledger.path, "sleeps", seconds=30)
    tasks.hold_the_gil.enqueue(ledger.path, "in-c-code", 30)
    wait_until(lambda: len(ledger.starts()) == 2)
    processes = {*worker.children(), worker.nursery()}
    worker.process.kill()
    wait_until(lambda: not any(map(is_alive, processes)), 1.0, "nursery and children die")


def test_a_killed_nursery_takes_its_children_along_and_the_worker_goes_on(
    start: Starter, ledger: Ledger, gate: Gate
) -> None:
    worker = start(children=2)
    running = tasks.note.enqueue(ledger.path, "runs", gate=gate.path)
    ledger.start_of("runs")
    before, nursery = set(worker.children()), worker.nursery()
    os.kill(nursery, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, before)), 1.0, "its children die")
    wait_until(lambda: ledger.tags() == ["runs", "runs"], 20, "the task runs again")
    gate.open()
    running.wait(timeout=20)
    # Nobody knows which task was to blame for the nursery's death: none is.
    assert FinishedTask.objects.get(pk=running.id).crashes == 0
    worker.wait_until_ready(2)
    assert before.isdisjoint(worker.children())
    assert tasks.add.enqueue(1, 1).wait(timeout=20) == 2


def test_a_dead_child_leaves_no_row_behind(start: Starter) -> None:
    worker = start(children=2)
    victim = next(iter(worker.children()))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not Worker.objects.filter(pid=victim).exists(), 5)
    worker.wait_until_ready(2)
    assert Worker.objects.count() == 3


def test_a_suspended_child_does_not_keep_tasks_from_the_others(
    start: Starter, ledger: Ledger
) -> None:
    worker = start(children=2)
    warm_up(ledger, 2)
    # The one that the supervisor would wake first.
    victim = Worker.objects.get(info__slot=0).pid
    os.kill(victim, signal.SIGSTOP)
    try:
        results = tasks.note.enqueue_many([(ledger.path, f"n{i}") for i in range(100)])
        for result in results:
            result.wait(timeout=20)
    finally:
        os.kill(victim, signal.SIGCONT)
    assert len(set(ledger.tags())) == len(ledger.tags()) == 100
    assert victim in worker.children()


def test_children_that_die_all_the_time_lose_nothing(start: Starter, ledger: Ledger) -> None:
    worker = start("-v", "0", children=2)
    results = tasks.note.enqueue_many([(ledger.path, f"n{i}", 0.001) for i in range(1500)])
    for number in range(1, 6):
        wait_until(lambda least=number * 200: len(ledger.starts()) > least)  # type: ignore[misc]
        os.kill(ledger.starts()[-1].pid, signal.SIGKILL)
    for result in results:
        result.wait(timeout=60)
    assert statuses() == {}
    assert len(set(ledger.tags())) == 1500
    assert sum(FinishedTask.objects.values_list("crashes", flat=True)) <= 5
    assert not FinishedTask.objects.exclude(attempts=1).exists()
    worker.wait_until_ready(2)
