"""The pools that run many tasks in one process, and the one that runs them in the worker itself."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from django.utils import timezone

from django_taskq import TaskResult
from django_taskq.exceptions import HardTimeLimit, SoftTimeLimit, TaskCrashed
from django_taskq.models import FinishedTask, Worker
from django_taskq.serialization import class_path
from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import Gate, Ledger, is_alive, sql, statuses, wait_until

pytestmark = pytest.mark.slow

POOLS = ["threads", "asyncio", "solo"]
CONCURRENT = ["threads", "asyncio"]


def last_error(result: TaskResult[object]) -> str:
    result.refresh()
    return str(result.errors[-1].exception_class_path)


@pytest.mark.parametrize("pool", POOLS)
def test_each_pool_runs_functions_and_coroutines_and_stores_what_they_return(
    pool: str, start: Starter, ledger: Ledger
) -> None:
    start(pool=pool, children=4)
    added = tasks.add.enqueue(1, 2)
    noted = tasks.note_async.enqueue(ledger.path, "coroutine")
    failed = tasks.fail.enqueue("no")
    retried = tasks.fail_until.enqueue(ledger.path, 2)
    assert added.wait(timeout=30) == 3
    assert noted.wait(timeout=30) > 0
    assert retried.wait(timeout=30) == 2
    wait_until(lambda: failed.refresh() or failed.is_finished)
    assert last_error(failed) == "builtins.ValueError"


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt"])
def test_what_a_task_raises_ends_no_pool(pool: str, kind: str, start: Starter) -> None:
    start(pool=pool)
    failed = tasks.raise_as.enqueue(kind)
    wait_until(lambda: failed.refresh() or failed.is_finished)
    assert last_error(failed) == f"builtins.{kind}"
    assert tasks.add.enqueue(1, 1).wait(timeout=30) == 2


@pytest.mark.parametrize("pool", CONCURRENT)
def test_as_many_run_at_once_as_were_asked_for_and_no_more_are_claimed(
    pool: str, start: Starter, ledger: Ledger, gate: Gate
) -> None:
    start(pool=pool, children=20)
    waiting = tasks.note_async if pool == "asyncio" else tasks.note
    calls = [{"ledger": ledger.path, "tag": f"n{i}", "gate": gate.path} for i in range(30)]
    results = waiting.enqueue_many(calls)
    wait_until(lambda: len(ledger.starts()) == 20)
    time.sleep(1.5)  # a tick, and more than the time after which waiting tasks are taken away
    assert len(ledger.starts()) == 20
    assert statuses() == {"RUNNING": 20, "READY": 10}
    gate.open()
    pids = {result.wait(timeout=30) for result in results}
    assert len(pids) == 1
    assert sorted(ledger.tags()) == sorted(f"n{i}" for i in range(30))


def test_synchronous_tasks_of_an_asyncio_worker_do_not_block_its_loop(
    start: Starter, ledger: Ledger, gate: Gate
) -> None:
    start(pool="asyncio", children=4)
    blocked = [tasks.note.enqueue(ledger.path, f"s{i}", gate=gate.path) for i in range(3)]
    wait_until(lambda: len(ledger.starts()) == 3)
    assert tasks.note_async.enqueue(ledger.path, "coroutine").wait(timeout=5) > 0
    gate.open()
    for result in blocked:
        result.wait(timeout=30)


@pytest.mark.parametrize("pool", CONCURRENT)
def test_thousands_of_tasks_run_exactly_once(pool: str, start: Starter, ledger: Ledger) -> None:
    worker = start(pool=pool, children=8)
    note = tasks.note_async if pool == "asyncio" else tasks.note
    results = note.enqueue_many([(ledger.path, f"n{i}") for i in range(3000)])
    results[-1].wait(timeout=60)
    wait_until(lambda: statuses() == {})
    assert sorted(ledger.tags()) == sorted(f"n{i}" for i in range(3000))
    worker.send(signal.SIGTERM)
    assert worker.wait(10) == 0


@pytest.mark.parametrize("pool", POOLS)
def test_nothing_of_a_task_is_left_for_the_next(pool: str, start: Starter) -> None:
    start("-v", "0", pool=pool, children=1)
    tasks.leave_things_behind.enqueue("left").wait(timeout=30)
    tasks.leave_an_atomic_block_open.enqueue("open").wait(timeout=30)
    tasks.leave_a_transaction_open.enqueue("async").wait(timeout=30)
    for look in (tasks.look_around, tasks.look_around_async):
        seen = look.enqueue().wait(timeout=30)
        assert seen["language"] == "en-us"
        assert seen["timezone"] == timezone.get_default_timezone_name()
        assert seen["whoever"] == "nobody"
        assert seen["autocommit"] and not seen["in_atomic_block"]
        assert seen["groups"] == []


def test_each_coroutine_has_a_connection_of_its_own_until_it_ends(
    start: Starter, ledger: Ledger, gate: Gate
) -> None:
    start(pool="asyncio", children=5)
    calls = [(ledger.path, f"g{i}", gate.path) for i in range(5)]
    results = tasks.use_one_connection.enqueue_many(calls)
    wait_until(lambda: len(ledger.starts()) == 5)
    gate.open()
    pairs = [result.wait(timeout=30) for result in results]
    assert all(first == second for first, second in pairs)
    assert len({first for first, _ in pairs}) == 5
    again = tasks.use_one_connection.enqueue(ledger.path, "again", gate.path).wait(timeout=30)
    assert again[0] in {first for first, _ in pairs}, "connections are kept for the next task"


# --- time limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["processes", *POOLS])
def test_a_coroutine_that_is_late_is_told_so_in_each_pool(
    pool: str, start: Starter, ledger: Ledger
) -> None:
    start(pool=pool)
    late = tasks.tidy_up_when_late_async.enqueue(ledger.path)
    wait_until(lambda: late.refresh() or late.is_finished, 15)
    assert last_error(late) == class_path(SoftTimeLimit)
    assert ledger.tags() == ["tidied"]


def test_in_a_thread_the_soft_limit_comes_between_two_steps_of_python(
    start: Starter, ledger: Ledger
) -> None:
    start(pool="threads")
    late = tasks.spin_until_late.enqueue(ledger.path)
    assert late.wait(timeout=15) == "late"
    # And it hits nobody else: the same threads run on.
    for number in range(20):
        assert tasks.add.enqueue(number, 1).wait(timeout=15) == number + 1


def test_a_thread_past_its_hard_limit_costs_neither_other_tasks_nor_capacity(
    start: Starter, ledger: Ledger, gate: Gate
) -> None:
    worker = start(pool="threads", children=3)
    (first,) = worker.children()
    other = tasks.note.enqueue(ledger.path, "other", gate=gate.path)
    hangs = tasks.wait_past_the_hard_limit.enqueue(ledger.path, gate.path + "-never")
    wait_until(lambda: hangs.refresh() or hangs.is_finished, 10)
    assert last_error(hangs) == class_path(HardTimeLimit)
    # A new process takes over at once, the old one goes on with what it has.
    assert tasks.note.enqueue(ledger.path, "new").wait(timeout=10) != first
    assert is_alive(first)
    gate.open()
    assert other.wait(timeout=10) == first
    wait_until(lambda: not is_alive(first), 10)
    assert statuses() == {}
    assert not FinishedTask.objects.filter(crashes__gt=0).exists()
    assert "too-late" not in ledger.tags()


def test_a_thread_that_ends_after_its_hard_limit_changes_nothing(
    start: Starter, ledger: Ledger, gate: Gate, tmp_path: Path
) -> None:
    start(pool="threads", children=3)
    exit_gate = Gate(tmp_path / "exit")
    other = tasks.note.enqueue(ledger.path, "other", gate=exit_gate.path)
    late = tasks.wait_past_the_hard_limit.enqueue(ledger.path, gate.path)
    wait_until(lambda: late.refresh() or late.is_finished, 10)
    gate.open()
    ledger.start_of("too-late")
    exit_gate.open()
    other.wait(timeout=10)
    assert last_error(late) == class_path(HardTimeLimit)
    assert late.attempts == 1


def test_a_coroutine_past_its_hard_limit_is_cancelled_and_its_process_goes_on(
    start: Starter, ledger: Ledger
) -> None:
    worker = start(pool="asyncio", children=3)
    (child,) = worker.children()
    late = tasks.run_past_the_hard_limit_async.enqueue(ledger.path)
    wait_until(lambda: late.refresh() or late.is_finished, 10)
    assert last_error(late) == class_path(HardTimeLimit)
    assert ledger.tags() == ["started", "ended"]
    assert tasks.note_async.enqueue(ledger.path, "next").wait(timeout=10) == child


def test_a_task_that_blocks_the_loop_is_ended_with_its_process_and_others_run_again(
    start: Starter, ledger: Ledger, gate: Gate
) -> None:
    worker = start(pool="asyncio", children=3)
    (first,) = worker.children()
    other = tasks.note_async.enqueue(ledger.path, "other", gate=gate.path)
    ledger.start_of("other")
    blocks = tasks.block_the_loop.enqueue(ledger.path)
    wait_until(lambda: blocks.refresh() or blocks.is_finished, 10)
    assert last_error(blocks) == class_path(HardTimeLimit)
    assert tasks.note_async.enqueue(ledger.path, "new").wait(timeout=5) != first
    wait_until(lambda: not is_alive(first), 15)
    gate.open()
    assert other.wait(timeout=10) != first
    assert (other.attempts, other.errors) == (1, [])
    assert not FinishedTask.objects.filter(crashes__gt=0).exists()


# --- death and stop ------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", CONCURRENT)
def test_when_the_process_dies_all_that_ran_in_it_runs_again(
    pool: str, start: Starter, ledger: Ledger, gate: Gate
) -> None:
    worker = start(pool=pool, children=5)
    (child,) = worker.children()
    note = tasks.note_async if pool == "asyncio" else tasks.note
    calls = [{"ledger": ledger.path, "tag": f"n{i}", "gate": gate.path} for i in range(8)]
    results = note.enqueue_many(calls)
    wait_until(lambda: len(ledger.starts()) == 5)
    killed = time.monotonic()
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: len(ledger.starts()) == 10, 10)
    assert min(start.at for start in ledger.starts()[5:]) - killed < 5
    gate.open()
    for result in results:
        assert result.wait(timeout=30) != child
        assert result.attempts == 1
    assert sum(FinishedTask.objects.values_list("crashes", flat=True)) == 5


@pytest.mark.parametrize("pool", CONCURRENT)
def test_an_error_of_the_pools_own_costs_the_process_and_no_place(
    pool: str, start: Starter, ledger: Ledger
) -> None:
    worker = start(pool=pool, children=1)
    (first,) = worker.children()
    broken = tasks.break_the_pool.enqueue(ledger.path)
    broken.wait(timeout=30)
    assert ledger.tags() == ["broken", "broken"]
    assert "an error of the worker's own" in worker.output
    assert tasks.note.enqueue(ledger.path, "next").wait(timeout=10) != first


def test_the_task_that_kills_its_process_is_found_among_the_innocent(
    start: Starter, ledger: Ledger
) -> None:
    start(pool="threads", children=6)
    innocent = tasks.note.enqueue_many([(ledger.path, f"n{i}", 0.2) for i in range(30)])
    guilty = tasks.die.enqueue(ledger.path)
    wait_until(lambda: guilty.refresh() or guilty.is_finished, 60)
    assert last_error(guilty) == class_path(TaskCrashed)
    for result in innocent:
        result.wait(timeout=30)
    assert ledger.tags().count("died") == 3


@pytest.mark.parametrize("pool", POOLS)
def test_a_stop_lets_what_runs_finish_and_gives_the_rest_back(
    pool: str, start: Starter, ledger: Ledger, gate: Gate
) -> None:
    worker = start(pool=pool, children=3)
    size = 1 if pool == "solo" else 3
    note = tasks.note_async if pool == "asyncio" else tasks.note
    calls = [{"ledger": ledger.path, "tag": f"n{i}", "gate": gate.path} for i in range(6)]
    results = note.enqueue_many(calls)
    wait_until(lambda: len(ledger.starts()) == size)
    worker.send(signal.SIGTERM)
    time.sleep(0.5)
    assert worker.process.poll() is None
    gate.open()
    assert worker.wait(10) == 0
    assert statuses() == {"READY": 6 - size}
    assert len(ledger.starts()) == size
    assert sum(1 for r in results if r.refresh() or r.row_status == "SUCCESSFUL") == size
    assert not Worker.objects.exists()


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("how", ["twice", "grace"])
def test_a_stop_that_may_not_wait_gives_everything_back(
    pool: str, how: str, start: Starter, ledger: Ledger, gate: Gate
) -> None:
    worker = start("--shutdown-timeout", "1" if how == "grace" else "60", pool=pool, children=3)
    size = 1 if pool == "solo" else 3
    note = tasks.note_async if pool == "asyncio" else tasks.note
    note.enqueue_many(
        [{"ledger": ledger.path, "tag": f"n{i}", "gate": gate.path} for i in range(4)]
    )
    wait_until(lambda: len(ledger.starts()) == size)
    worker.send(signal.SIGTERM)
    if how == "twice":
        time.sleep(0.3)
        worker.send(signal.SIGTERM)
    assert worker.wait(10) == 0
    assert statuses() == {"READY": 4}
    assert sql("SELECT DISTINCT attempts, crashes FROM django_taskq_livetask") == [(0, 0)]
    assert not Worker.objects.exists()


# --- solo ----------------------------------------------------------------------------------------


def test_a_solo_worker_is_one_process(start: Starter, ledger: Ledger) -> None:
    worker = start(pool="solo")
    assert tasks.note.enqueue(ledger.path, "here").wait(timeout=30) == worker.pid
    assert tasks.note_async.enqueue(ledger.path, "here").wait(timeout=30) == worker.pid
    assert list(worker.children()) == [worker.pid]


def test_a_solo_worker_ends_with_a_task_past_its_hard_limit(start: Starter, ledger: Ledger) -> None:
    worker = start(pool="solo")
    late = tasks.wait_past_the_hard_limit.enqueue(ledger.path, "/nowhere")
    assert worker.wait(15) == 1
    assert last_error(late) == class_path(HardTimeLimit)
    assert "its only process" in worker.output
    assert not Worker.objects.exists()


def test_a_solo_worker_ends_a_burst(start: Starter, ledger: Ledger) -> None:
    tasks.note.enqueue_many([(ledger.path, f"n{i}") for i in range(50)])
    worker = start("--burst", pool="solo", ready=False)
    assert worker.wait(30) == 0
    assert len(ledger.tags()) == 50


def test_a_solo_worker_does_one_thing_at_a_time(start: Starter) -> None:
    worker = start("-c", "2", pool="solo", ready=False)
    assert worker.wait(30) == 2
    assert "-P solo runs one task at a time, not -c 2" in worker.output
