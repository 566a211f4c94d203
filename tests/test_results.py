"""The handle of a task: wait, refresh, cancel, return_value."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction

from django_taskq import (
    TaskCancelled,
    TaskCrashed,
    TaskExpired,
    TaskFailed,
    TaskStatus,
    WaitInsideTransaction,
    current,
    results,
)
from django_taskq.models import FinishedTask, LiveTask
from django_taskq.statuses import FINISHED
from django_taskq.tasks_api import TaskResultStatus
from django_taskq.transitions import operate
from tests import tasks
from tests.rows import finish, live, make_error, make_row

waits = pytest.mark.django_db(transaction=True)


class OtherWorker:
    """Finish tasks from another thread, on its own connection, at a look of wait()."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pauses: list[float] = []
        self.act: Callable[[], None] = lambda: None
        self.at = 1
        monkeypatch.setattr(results.time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if len(self.pauses) == self.at:
            thread = threading.Thread(target=self._in_thread)
            thread.start()
            thread.join()

    def _in_thread(self) -> None:
        try:
            self.act()
        finally:
            connection.close()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> OtherWorker:
    return OtherWorker(monkeypatch)


# wait()


@waits
def test_wait_returns_the_value_when_the_task_has_finished(worker: OtherWorker) -> None:
    result = tasks.add.enqueue(1, 2)
    worker.act = lambda: finish(result, 3)
    assert result.wait(timeout=30) == 3
    assert result.status == TaskResultStatus.SUCCESSFUL
    assert result.return_value == 3
    assert result.finished_at is not None


@waits
def test_wait_without_a_limit_waits_until_the_end(worker: OtherWorker) -> None:
    result = tasks.add.enqueue(1, 2)
    worker.at = 12
    worker.act = lambda: finish(result, None)
    assert result.wait() is None
    # Looks become rarer, from 5 ms to 200 ms.
    assert worker.pauses[:4] == pytest.approx([0.005, 0.01, 0.02, 0.04])
    assert worker.pauses[-1] == pytest.approx(0.2)
    assert len(worker.pauses) == 12


@waits
def test_a_finished_task_is_not_waited_for(worker: OtherWorker) -> None:
    result = tasks.add.enqueue(1, 2)
    finish(result, 3)
    assert result.wait(timeout=0) == 3
    assert worker.pauses == []


@waits
def test_waiting_too_long_is_a_timeout_error() -> None:
    result = tasks.add.enqueue(1)
    with pytest.raises(TimeoutError, match=rf"add {result.id} is READY after 0\.01 s"):
        result.wait(timeout=0.01)
    with pytest.raises(TimeoutError):
        result.wait(timeout=0)


@waits
@pytest.mark.parametrize(
    ("status", "path", "kind"),
    [
        (TaskStatus.FAILED, "builtins.ValueError", TaskFailed),
        (TaskStatus.FAILED, "django_taskq.exceptions.TaskCrashed", TaskCrashed),
        (TaskStatus.CANCELLED, "django_taskq.exceptions.TaskCancelled", TaskCancelled),
        (TaskStatus.EXPIRED, "django_taskq.exceptions.TaskExpired", TaskExpired),
    ],
)
def test_wait_raises_what_became_of_a_task_that_ended_without_a_value(
    status: TaskStatus, path: str, kind: type[TaskFailed]
) -> None:
    result = tasks.add.enqueue(1)
    first = make_error("builtins.OSError", "first try")
    finish(result, status=status, errors=[first, make_error(path, "no luck", attempt=2)])
    with pytest.raises(TaskFailed, match=rf"add {result.id} ended as {status}.*no luck") as caught:
        result.wait(timeout=30)
    assert type(caught.value) is kind
    assert [error.message for error in caught.value.errors] == ["first try", "no luck"]
    assert [error.attempt for error in caught.value.errors] == [1, 2]


@waits
def test_wait_inside_the_transaction_that_enqueued_is_refused_at_once(worker: OtherWorker) -> None:
    with transaction.atomic():
        result = tasks.add.enqueue(1)
        with pytest.raises(WaitInsideTransaction, match=r"'default'.*Wait after the atomic block"):
            result.wait(timeout=30)
        with pytest.raises(WaitInsideTransaction):
            result.wait()
        with pytest.raises(WaitInsideTransaction):
            async_to_sync(result.async_wait)()
    assert worker.pauses == []


@waits
def test_wait_in_a_transaction_that_was_opened_by_hand_is_refused_too() -> None:
    transaction.set_autocommit(False)
    try:
        result = tasks.add.enqueue(1)
        with pytest.raises(WaitInsideTransaction):
            result.wait(timeout=0.01)
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


@pytest.mark.django_db
def test_a_finished_task_can_be_read_in_a_transaction() -> None:
    result = tasks.add.enqueue(1, 2)
    finish(result, 3)
    assert result.wait() == 3


@waits
def test_wait_inside_a_task_needs_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(current, "in_worker", True)
    result = tasks.add.enqueue(1)
    with pytest.raises(WaitInsideTransaction, match="timeout="):
        result.wait()
    with pytest.raises(TimeoutError):
        result.wait(timeout=0)


@waits
def test_the_async_twin_waits_without_blocking() -> None:
    result = tasks.add.enqueue(1, 2)

    async def both() -> Any:
        import asyncio

        from asgiref.sync import sync_to_async

        waiting = asyncio.create_task(result.async_wait(timeout=30))
        await sync_to_async(finish)(result, 3)
        return await waiting

    assert async_to_sync(both)() == 3


@waits
def test_the_async_twin_times_out_and_fails_alike() -> None:
    result = tasks.add.enqueue(1)
    with pytest.raises(TimeoutError, match="READY"):
        async_to_sync(result.async_wait)(timeout=0.01)
    finish(result, status=TaskStatus.FAILED, errors=[make_error("builtins.ValueError", "no luck")])
    with pytest.raises(TaskFailed, match="no luck"):
        async_to_sync(result.async_wait)(timeout=30)


# refresh() and return_value


@pytest.mark.django_db
def test_refresh_reads_everything_anew() -> None:
    result = tasks.add.enqueue(1, 2)
    with pytest.raises(ValueError, match="not finished"):
        _ = result.return_value
    progress = {"done": 1, "total": 2, "message": ""}
    LiveTask.objects.filter(pk=result.id).update(attempts=1, progress=progress, max_attempts=9)
    result.refresh()
    assert (result.attempts, result.max_attempts) == (1, 9)
    assert result.progress == progress
    finish(result, 3, errors=[make_error("builtins.OSError", "first try")])
    async_to_sync(result.arefresh)()
    assert result.row_status == TaskStatus.SUCCESSFUL
    assert result.attempts == 2
    assert result.return_value == 3
    assert [error.message for error in result.errors] == ["first try"]
    assert result.started_at is not None
    assert len(result.worker_ids) == 2


@pytest.mark.django_db
@pytest.mark.parametrize("value", [None, 0, False, "", [], {}, 1e16, "é", {"a": [1, None]}])
def test_values_come_back_as_they_were_stored(value: Any) -> None:
    result = tasks.echo.enqueue()
    finish(result, value)
    result.refresh()
    assert result.return_value == value
    assert type(result.return_value) is type(value)


@pytest.mark.django_db
def test_a_task_without_a_stored_value_returns_none() -> None:
    row = make_row(TaskStatus.SUCCESSFUL, task="tests.tasks.forgetful")
    FinishedTask.objects.filter(pk=row.pk).update(return_value=None)
    assert tasks.forgetful.get_result(str(row.id)).wait() is None


@pytest.mark.django_db
def test_refreshing_a_task_that_was_deleted_says_so() -> None:
    result = tasks.add.enqueue(1)
    LiveTask.objects.all().delete()
    with pytest.raises(Exception, match=result.id):
        result.refresh()


# cancel()


@pytest.mark.django_db
@pytest.mark.parametrize("status", [TaskStatus.READY, TaskStatus.HELD])
def test_a_waiting_task_can_be_cancelled(status: TaskStatus) -> None:
    row = make_row(
        status, kwargs={"c": 1e16}, attempts=1, errors=[make_error("builtins.OSError", "x")]
    )
    result = tasks.add.get_result(str(row.id))
    assert result.cancel() is True
    assert result.row_status == TaskStatus.CANCELLED
    assert result.status == TaskResultStatus.FAILED
    assert [e.exception_class_path for e in result.errors] == [
        "builtins.OSError",
        "django_taskq.exceptions.TaskCancelled",
    ]
    assert result.errors[-1].exception_class is TaskCancelled
    assert not LiveTask.objects.exists()
    finished = FinishedTask.objects.get(pk=row.id)
    assert (finished.args, finished.kwargs) == ([1, 2], {"c": 1e16})
    assert finished.enqueued_at == row.enqueued_at
    assert finished.finished_at >= row.enqueued_at
    with pytest.raises(TaskCancelled):
        result.wait()


@pytest.mark.django_db
@pytest.mark.parametrize("status", [TaskStatus.RUNNING, *sorted(FINISHED)])
def test_a_task_that_runs_or_has_finished_does_not_end_there_and_then(status: TaskStatus) -> None:
    row = make_row(status)
    result = tasks.add.get_result(str(row.id))
    assert result.cancel() is False
    assert result.row_status == status
    row.refresh_from_db()
    assert row.status == status


class Wanderer:
    """A task that starts before each look for one that waits, and goes back before the next."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
        self.row = make_row(TaskStatus.RUNNING)
        self.left = times
        self.run = {
            name: getattr(self.row, name) for name in ("status", "claim", "worker_id", "started_at")
        }
        cancel_waiting, request_cancel = operate.cancel_waiting, operate.request_cancel

        def look_where_it_waits(*args: Any, **kwargs: Any) -> bool:
            if self.left:
                self.left -= 1
                LiveTask.objects.filter(pk=self.row.pk).update(**self.run)
            return cancel_waiting(*args, **kwargs)

        def look_where_it_runs(*args: Any) -> bool:
            LiveTask.objects.filter(pk=self.row.pk).update(
                **dict.fromkeys(self.run, None) | {"status": "READY"}
            )
            return request_cancel(*args)

        monkeypatch.setattr(operate, "cancel_waiting", look_where_it_waits)
        monkeypatch.setattr(operate, "request_cancel", look_where_it_runs)


@pytest.mark.django_db
@pytest.mark.parametrize("times", [1, 4])
def test_a_task_that_goes_back_to_its_queue_between_two_looks_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    moved = Wanderer(monkeypatch, times=times)
    result = tasks.add.get_result(str(moved.row.pk))

    assert result.cancel() is True

    assert moved.left == 0
    assert result.row_status == TaskStatus.CANCELLED
    assert not LiveTask.objects.exists()


@pytest.mark.django_db
def test_a_task_that_is_never_where_one_looks_is_not_looked_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moved = Wanderer(monkeypatch, times=1000)
    result = tasks.add.get_result(str(moved.row.pk))

    assert result.cancel() is False

    assert moved.left == 995
    assert (result.row_status, result.cancel_requested) == (TaskStatus.READY, False)


@pytest.mark.django_db
def test_a_running_task_is_asked_to_end() -> None:
    row = make_row(TaskStatus.RUNNING, task="tests.tasks.add")
    result = tasks.add.get_result(str(row.id))
    assert result.cancel_requested is False

    assert result.cancel() is False

    assert (result.row_status, result.cancel_requested) == (TaskStatus.RUNNING, True)
    assert tasks.add.get_result(str(row.id)).cancel_requested is True


@pytest.mark.django_db
def test_workers_hear_that_a_task_is_to_end_after_the_commit(
    django_capture_on_commit_callbacks: Any,
) -> None:
    row = make_row(TaskStatus.RUNNING, task="tests.tasks.add")
    with django_capture_on_commit_callbacks() as callbacks:
        tasks.add.get_result(str(row.id)).cancel()
    assert len(callbacks) == 1


@pytest.mark.django_db
def test_cancelling_twice_works_once() -> None:
    result = tasks.add.enqueue(1)
    assert (result.cancel(), result.cancel()) == (True, False)
    assert FinishedTask.objects.count() == 1


@pytest.mark.django_db
def test_a_task_that_others_wait_for_is_not_cancelled_alone() -> None:
    row = make_row(TaskStatus.READY, has_successors=True)
    assert tasks.add.get_result(str(row.id)).cancel() is False
    row.refresh_from_db()


@pytest.mark.django_db
def test_the_async_twin_cancels_too() -> None:
    result = tasks.add.enqueue(1)
    assert async_to_sync(result.acancel)() is True
    assert result.row_status == TaskStatus.CANCELLED


@pytest.mark.django_db(transaction=True)
def test_a_cancellation_that_is_rolled_back_never_happened() -> None:
    result = tasks.add.enqueue(1)
    with transaction.atomic():
        assert result.cancel() is True
        transaction.set_rollback(True)
    assert live(result).status == TaskStatus.READY
    result.refresh()
    assert result.row_status == TaskStatus.READY


@pytest.mark.django_db
def test_of_many_errors_the_first_and_the_last_19_are_kept() -> None:
    errors = [make_error("builtins.OSError", str(number)) for number in range(20)]
    row = make_row(TaskStatus.READY, errors=errors, attempts=20)
    result = tasks.add.get_result(str(row.id))
    result.cancel()
    kept = [error.message for error in result.errors]
    assert kept == ["0", *map(str, range(2, 20)), "Cancelled before it ran."]
