"""What becomes of a task, as its result tells it. One worker runs them all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.utils import translation

from django_taskq import TaskCancelled, TaskExpired, TaskFailed, task
from django_taskq.models import FinishedTask, LiveTask
from django_taskq.statuses import TaskStatus
from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import Gate, Ledger, TaskWorker, is_alive, sql, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared_worker(start_shared: Starter) -> TaskWorker:
    return start_shared(children=2)


@pytest.fixture(autouse=True)
def worker(shared_worker: TaskWorker) -> Iterator[TaskWorker]:
    yield shared_worker
    assert shared_worker.process.poll() is None, shared_worker.output
    assert not LiveTask.objects.filter(status="RUNNING").exists(), "something is stuck"


def test_a_value_comes_back_to_whoever_waits() -> None:
    assert tasks.add.enqueue(1, 2).wait(timeout=20) == 3


def test_a_result_tells_who_ran_the_task_and_when(worker: TaskWorker) -> None:
    result = tasks.add.enqueue(1, b=2)
    result.wait(timeout=20)
    assert result.row_status == TaskStatus.SUCCESSFUL
    assert result.attempts == 1
    assert result.worker_ids[0] in worker.children().values()
    assert result.enqueued_at <= result.started_at <= result.finished_at


def test_many_values_come_back_in_the_order_of_the_calls() -> None:
    results = tasks.add.enqueue_many([(i, i) for i in range(300)])
    assert [result.wait(timeout=20) for result in results] == [2 * i for i in range(300)]


def test_progress_is_seen_while_the_task_runs_and_stays_afterwards(gate: Gate) -> None:
    result = tasks.report.enqueue(gate.path)

    def progress() -> dict[str, Any] | None:
        result.refresh()
        return result.progress

    assert wait_until(progress, 20) == {"done": 1, "total": 4, "message": "a quarter"}
    assert result.row_status == TaskStatus.RUNNING
    gate.open()
    assert result.wait(timeout=20) == "done"
    assert result.progress == {"done": 4, "total": 4, "message": "all"}


def test_every_failed_attempt_leaves_its_error(ledger: Ledger) -> None:
    result = tasks.fail_until.enqueue(ledger.path, 9)
    with pytest.raises(TaskFailed) as caught:
        result.wait(timeout=20)
    assert [error.message for error in caught.value.errors] == [
        "attempt 1",
        "attempt 2",
        "attempt 3",
    ]
    assert [error.attempt for error in result.errors] == [1, 2, 3]
    for error in result.errors:
        assert error.exception_class_path == "builtins.ConnectionError"
        assert "in fail_until" in error.traceback
        assert "executor.py" not in error.traceback
        assert error.started_at <= error.finished_at


def test_a_retry_waits_its_backoff(ledger: Ledger) -> None:
    result = tasks.fail_until.enqueue(ledger.path, 3)
    assert result.wait(timeout=20) == 3
    first, second, third = (start.at for start in ledger.starts())
    assert second - first >= 0.3
    assert third - second >= 0.6
    assert len(result.errors) == 2


def test_a_raised_retry_waits_its_own_delay_and_uses_an_attempt(ledger: Ledger) -> None:
    result = tasks.ask_for_retry.enqueue(ledger.path, 0.2)
    with pytest.raises(TaskFailed, match="not yet"):
        result.wait(timeout=20)
    first, second = (start.at for start in ledger.starts())
    assert 0.2 <= second - first < 10  # not the 30 s of the decorator
    assert result.attempts == 2


def test_a_snooze_uses_no_attempt(gate: Gate) -> None:
    result = tasks.snooze_until.enqueue(gate.path)
    snoozed = """
        SELECT attempts, errors::text FROM django_taskq_livetask
        WHERE id = %s AND status = 'READY' AND run_after > enqueued_at + interval '0.1 s'
    """
    assert wait_until(lambda: sql(snoozed, result.id), 20) == [(0, "[]")]
    gate.open()
    assert result.wait(timeout=20) == 1
    assert result.attempts == 1


def test_a_task_that_cancels_itself_is_cancelled_with_its_reason() -> None:
    result = tasks.cancel_itself.enqueue("sold out")
    with pytest.raises(TaskCancelled, match="sold out"):
        result.wait(timeout=20)
    assert result.row_status == TaskStatus.CANCELLED
    assert result.attempts == 1


def test_a_waiting_task_that_is_cancelled_never_runs(ledger: Ledger) -> None:
    result = tasks.note.using(run_after=0.6).enqueue(ledger.path, "cancelled")
    assert result.cancel()
    later = tasks.note.using(run_after=0.8).enqueue(ledger.path, "later")
    later.wait(timeout=20)
    assert ledger.tags() == ["later"]
    with pytest.raises(TaskCancelled):
        result.wait(timeout=0)


def test_a_running_task_is_not_cancelled_by_its_result(ledger: Ledger, gate: Gate) -> None:
    result = tasks.note.enqueue(ledger.path, "runs", gate=gate.path)
    ledger.start_of("runs")
    assert not result.cancel()
    gate.open()
    result.wait(timeout=20)


def test_a_task_that_nobody_could_start_in_time_expires(ledger: Ledger) -> None:
    # As if all workers had been away: it comes into view when it has expired already.
    with transaction.atomic():
        result = tasks.note.using(expires_after=0.05).enqueue(ledger.path, "late")
        sql("SELECT pg_sleep(0.1)")
    with pytest.raises(TaskExpired):
        result.wait(timeout=20)
    assert result.row_status == TaskStatus.EXPIRED
    assert ledger.tags() == []


def test_a_task_runs_in_the_language_in_which_it_was_enqueued_and_so_do_its_own() -> None:
    with translation.override("pl"):
        result = tasks.ask_language.enqueue()
    language, inner = result.wait(timeout=20)
    assert language == "pl"
    assert inner is not None
    assert tasks.say_language.get_result(inner).wait(timeout=20) == "pl"
    assert tasks.say_language.enqueue().wait(timeout=20) == "en-us"


def test_a_task_that_was_to_end_is_not_started_again(ledger: Ledger) -> None:
    # As if its process had died before it could obey.
    with transaction.atomic():
        result = tasks.note.enqueue(ledger.path, "not again")
        sql(
            "UPDATE django_taskq_livetask SET cancel_requested_at = enqueued_at WHERE id = %s",
            result.id,
        )
    with pytest.raises(TaskCancelled, match="before it was started again"):
        result.wait(timeout=20)
    assert result.row_status == TaskStatus.CANCELLED
    assert result.attempts == 0
    assert ledger.tags() == []


def test_the_soft_limit_lets_a_task_tidy_up(ledger: Ledger) -> None:
    assert tasks.tidy_up_when_late.enqueue(ledger.path).wait(timeout=20) == "late"
    assert ledger.tags() == ["tidied"]


def test_the_soft_limit_fails_a_task_that_does_not_care() -> None:
    result = tasks.run_past_the_soft_limit.enqueue()
    with pytest.raises(TaskFailed):
        result.wait(timeout=20)
    (error,) = result.errors
    assert error.exception_class_path == "django_taskq.exceptions.SoftTimeLimit"
    run = error.finished_at - error.started_at
    assert timedelta(seconds=0.29) <= run < timedelta(seconds=2)


def test_the_hard_limit_ends_a_task_and_the_program_that_it_started(
    ledger: Ledger, worker: TaskWorker
) -> None:
    result = tasks.run_past_the_hard_limit.enqueue(ledger.path)
    (start,) = wait_until(ledger.starts)
    program = int(start.tag.partition(":")[2])
    with pytest.raises(TaskFailed):
        result.wait(timeout=20)
    wait_until(lambda: not is_alive(start.pid) and not is_alive(program), 5)
    (error,) = result.errors
    assert error.exception_class_path == "django_taskq.exceptions.HardTimeLimit"
    assert timedelta(seconds=1) <= error.finished_at - error.started_at < timedelta(seconds=3)
    # A time limit is a failed attempt, no crash.
    assert (result.attempts, FinishedTask.objects.get(pk=result.id).crashes) == (1, 0)
    worker.wait_until_ready(2)
    # And it has its line, like every task that ran.
    worker.wait_for("run_past_the_hard_limit  default")
    (line,) = (line for line in worker.output.splitlines() if "hard_limit  default" in line)
    assert line.endswith("HardTimeLimit")


def test_a_task_killed_by_the_hard_limit_is_retried_like_any_failed_one(ledger: Ledger) -> None:
    result = tasks.hang_once.enqueue(ledger.path)
    assert result.wait(timeout=20) == "second time"
    assert result.attempts == 2
    assert [e.exception_class_path.rpartition(".")[2] for e in result.errors] == ["HardTimeLimit"]


def test_a_limit_of_one_call_goes_before_that_of_the_task(ledger: Ledger) -> None:
    result = tasks.note.using(timeout=0.4).enqueue(ledger.path, "hangs", seconds=30)
    with pytest.raises(TaskFailed, match=r"0\.4 s"):
        result.wait(timeout=20)


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt"])
def test_a_task_cannot_end_its_process_by_an_exception(kind: str, worker: TaskWorker) -> None:
    children = set(worker.children())
    result = tasks.raise_as.enqueue(kind)
    with pytest.raises(TaskFailed):
        result.wait(timeout=20)
    assert result.errors[0].exception_class_path == f"builtins.{kind}"
    assert set(worker.children()) == children


@pytest.mark.parametrize("sample", [tasks.unstorable, tasks.unstorable_text])
def test_a_value_that_cannot_be_stored_is_a_recorded_error(sample: Any) -> None:
    neighbours = tasks.add.enqueue_many([(i, 0) for i in range(50)])
    result = sample.enqueue()
    with pytest.raises(TaskFailed):
        result.wait(timeout=20)
    assert result.errors[-1].exception_class_path == "django_taskq.exceptions.UnstorableResult"
    assert [n.wait(timeout=20) for n in neighbours] == list(range(50))


def test_a_task_can_terminate_a_program_that_it_started() -> None:
    assert tasks.start_and_terminate.enqueue().wait(timeout=20) == -15


def test_what_a_task_enqueues_in_a_transaction_that_fails_never_runs(ledger: Ledger) -> None:
    result = tasks.enqueue_and_fail.enqueue(ledger.path)
    with pytest.raises(TaskFailed, match="rolled back"):
        result.wait(timeout=20)
    like = f"%{ledger.path}%"
    assert sql("SELECT 1 FROM django_taskq_livetask WHERE args::text LIKE %s", like) == []
    assert ledger.tags() == []


def test_a_task_of_an_open_transaction_waits_for_its_commit(ledger: Ledger) -> None:
    with transaction.atomic():
        held = tasks.note.enqueue(ledger.path, "held")
        sql("SELECT pg_sleep(1.2)")  # longer than a tick
        assert ledger.tags() == []
        committed = time.monotonic()
    held.wait(timeout=20)
    assert ledger.start_of("held").at > committed


def test_a_delayed_task_runs_when_its_time_has_come() -> None:
    result = tasks.add.using(run_after=0.5).enqueue(1, 1)
    result.wait(timeout=20)
    assert result.started_at >= result.run_after
    assert result.started_at - result.run_after < timedelta(seconds=2)


@task(name="tests.processes.unknown_to_the_worker")
def unknown() -> None:
    """Be known to this process only."""


def test_a_task_that_no_worker_knows_is_held_and_visible() -> None:
    result = unknown.enqueue()

    def is_held() -> bool:
        result.refresh()
        return result.row_status == TaskStatus.HELD

    wait_until(is_held, 20)
    assert (result.attempts, result.errors) == (0, [])
    row = LiveTask.objects.get(pk=result.id)
    assert row.held_for == "unknown:tests.processes.unknown_to_the_worker"
    row.delete()


OLD_NAME = "tests.processes.old_tasks.moved"


@pytest.mark.parametrize(
    "columns", [{}, {"status": "HELD", "held_for": f"unknown:{OLD_NAME}"}], ids=["ready", "held"]
)
def test_a_row_with_the_former_name_of_a_task_runs_with_the_new_function(
    columns: dict[str, str],
) -> None:
    # A HELD one was met by a worker of a version in which the name was unknown.
    row = LiveTask.objects.create(task=OLD_NAME, **columns)
    row.refresh_from_db()

    assert tasks.moved.get_result(str(row.pk)).wait(timeout=20) == "new"


def test_no_task_line_shows_arguments(worker: TaskWorker, tmp_path: Path) -> None:
    secret = str(tmp_path / "a-secret-argument")
    result = tasks.note.enqueue(secret, "secret")
    result.wait(timeout=20)
    wait_until(lambda: "tests.processes.tasks.note" in worker.output, 20)
    with pytest.raises(TaskFailed):
        tasks.fail.enqueue("a-secret-message").wait(timeout=20)
    wait_until(lambda: "tests.processes.tasks.fail" in worker.output, 20)
    assert "secret" not in worker.output
