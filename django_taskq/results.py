"""The handle of an enqueued task: what became of it, wait for it, cancel it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from asgiref.sync import sync_to_async

from django_taskq import carried, current
from django_taskq.db import tried_again, user_connection, user_cursor
from django_taskq.exceptions import (
    TaskCancelled,
    TaskCrashed,
    TaskExpired,
    TaskFailed,
    WaitInsideTransaction,
)
from django_taskq.hints import hint_after_commit
from django_taskq.ids import parse_id
from django_taskq.redact import shown_call
from django_taskq.serialization import class_path, error_record
from django_taskq.statuses import TaskStatus
from django_taskq.tasks_api import (
    TASK_REFRESH_ATTRS,
    BaseTaskResult,
    DjangoTaskResult,
    TaskError,
    TaskResultDoesNotExist,
    TaskResultStatus,
)
from django_taskq.transitions import operate

if TYPE_CHECKING:
    from django_taskq.task import Task

R = TypeVar("R")

# Django knows four words; the row's own is `row_status`.
_DJANGO_STATUS = {
    TaskStatus.READY: TaskResultStatus.READY,
    TaskStatus.HELD: TaskResultStatus.READY,
    TaskStatus.RUNNING: TaskResultStatus.RUNNING,
    TaskStatus.SUCCESSFUL: TaskResultStatus.SUCCESSFUL,
    TaskStatus.FAILED: TaskResultStatus.FAILED,
    TaskStatus.CANCELLED: TaskResultStatus.FAILED,
    TaskStatus.EXPIRED: TaskResultStatus.FAILED,
}

# What retry() takes: a task that has succeeded runs again only by control.retry(force=True).
_RETRIED = [TaskStatus.FAILED.value, TaskStatus.CANCELLED.value, TaskStatus.EXPIRED.value]

# wait() looks after this many seconds, then after twice as long, up to the second figure.
_FIRST_LOOK = 0.005
_LAST_LOOK = 0.2
# How often cancel() looks for a task that waits, then for one that runs.
_CANCEL_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class AttemptError(TaskError):  # type: ignore[misc]  # the stub is not frozen
    """A failed attempt: Django's TaskError, and who ran it when."""

    message: str = ""
    attempt: int = 0
    worker: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def exception_class(self) -> type[BaseException]:
        """Return the class of the exception, if this process has loaded it.

        Django would import the path: to import is to run code, and the path is from a row. Raise
        ImportError if it is not loaded, ValueError if it is no class of exceptions.
        """
        found = _loaded(self.exception_class_path)
        if not isinstance(found, type) or not issubclass(found, BaseException):
            raise ValueError(f"{self.exception_class_path!r} is no class of exceptions.")
        return found


def _loaded(path: str) -> Any:
    """Return what a dotted path leads to in the modules that are loaded, asking no `__getattr__`.

    Raise ImportError if there is no such thing.
    """
    names = path.split(".")
    for count in range(len(names) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(names[:count]))
        if found is None:
            continue
        try:
            for name in names[count:]:
                found = vars(found)[name]
            return found
        except (KeyError, TypeError):
            break
    raise ImportError(
        f"{path!r} is not loaded in this process, and nothing is imported because a row names it. "
        "Compare exception_class_path, or import its module first."
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class TaskResult(BaseTaskResult[..., R], Generic[R]):  # type: ignore[misc]  # the stub is not frozen
    """What became of an enqueued task; `refresh()` reads it anew."""

    # Where the row stands, in this package's own words.
    row_status: TaskStatus = TaskStatus.READY
    # How often the task was started.
    attempts: int = 0
    max_attempts: int = 1
    # When a waiting task may start.
    run_after: datetime | None = None
    # Somebody has asked the task to end while it runs.
    cancel_requested: bool = False
    # What the task last said with context.progress().
    progress: dict[str, Any] | None = None
    # What it carries along from where it was enqueued, by carrier.
    headers: dict[str, Any] = field(default_factory=dict)
    _return_value: Any = field(default=None, repr=False)

    def __repr__(self) -> str:
        args, kwargs = shown_call(self.task, self.args, self.kwargs)
        return (
            f"<TaskResult {self.task.name} {self.id} {self.row_status} "
            f"args={args!r} kwargs={kwargs!r}>"
        )

    def wait(self, timeout: float | None = None) -> R:
        """Wait until the task has finished and return its value.

        Raise TaskFailed (TaskCancelled, TaskExpired, TaskCrashed) with the errors if it ended
        without one, TimeoutError after `timeout` seconds, and WaitInsideTransaction where it could
        only wait for ever.
        """
        for pause in self._pauses(timeout):
            if not self.is_finished:
                self.refresh()
            if self.is_finished:
                break
            self._check_wait(timeout)
            time.sleep(pause)
        return self._value()

    async def async_wait(self, timeout: float | None = None) -> R:
        """Do what `wait` does, without blocking the event loop. (`await` is taken.)"""
        for pause in self._pauses(timeout):
            if not self.is_finished:
                await self.arefresh()
            if self.is_finished:
                break
            await sync_to_async(self._check_wait)(timeout)
            await asyncio.sleep(pause)
        return self._value()

    def cancel(self) -> bool:
        """End the task if it still waits, in the caller's transaction; say whether it did.

        A task that runs is asked to end (`cancel_requested` tells), and sees that within 2 s in
        `context.is_cancelled`; it may end normally all the same. One that has finished is left
        alone.
        """
        alias = self._database()
        if alias is None:
            return False  # one of Django's own backends: nothing waits there
        record = error_record(
            class_path=class_path(TaskCancelled),
            message="Cancelled before it ran.",
            traceback_text="",
            attempt=self.attempts,
            worker="",
        )
        # It may be claimed, or put back, between the two looks.
        for _ in range(_CANCEL_TRIES):
            if operate.cancel_waiting(alias, self.id, error=record):
                self.refresh()
                return True
            if operate.request_cancel(alias, self.id):
                hint_after_commit(alias)
                break
            self.refresh()
            if self.is_finished:
                break
        self.refresh()
        return False

    async def acancel(self) -> bool:
        """See cancel()."""
        return await sync_to_async(self.cancel)()

    def retry(self) -> bool:
        """Put the task back into its queue if it ended FAILED, CANCELLED or EXPIRED; say whether.

        In the caller's transaction, under the same id; attempts are counted anew. One that has
        succeeded, waits or runs is left alone.
        """
        alias = self._database()
        if alias is None:
            return False  # one of Django's own backends: nothing is kept there
        moved = operate.requeue(alias, [self.id], statuses=_RETRIED)
        if moved:
            hint_after_commit(alias)
        self.refresh()
        return bool(moved)

    async def aretry(self) -> bool:
        """See retry()."""
        return await sync_to_async(self.retry)()

    def refresh(self) -> None:
        """Read anew what became of the task, in one statement."""
        self._adopt(self._backend().get_result(self.id))

    async def arefresh(self) -> None:
        """See refresh()."""
        self._adopt(await self._backend().aget_result(self.id))

    def _adopt(self, fresh: Any) -> None:
        for name in _REFRESHED:
            if hasattr(fresh, name):
                object.__setattr__(self, name, getattr(fresh, name))
        if not isinstance(fresh, TaskResult):
            object.__setattr__(self, "row_status", TaskStatus(fresh.status))

    def _value(self) -> R:
        if self.row_status == TaskStatus.SUCCESSFUL:
            return cast(R, self._return_value)
        last = self.errors[-1] if self.errors else None
        kind = _FAILURES.get(last.exception_class_path if last else "", TaskFailed)
        why = getattr(last, "message", "") or (last.exception_class_path if last else "")
        tries = f"{self.attempts} attempt(s)"
        if kind is TaskCrashed:  # which uses no attempt
            crashed = class_path(TaskCrashed)
            crashes = sum(error.exception_class_path == crashed for error in self.errors)
            tries = f"{crashes} crash{'es' if crashes > 1 else ''}"
        raise kind(
            f"{self.task.name} {self.id} ended as {self.row_status}"
            + (f" ({why})" if why else "")
            + f" after {tries}.",
            self.errors,
        )

    def _pauses(self, timeout: float | None) -> Iterator[float]:
        """Yield the pause after each look; raise TimeoutError when the look at the end is over."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_LOOK
        while True:
            left = pause if deadline is None else deadline - time.monotonic()
            yield max(0.0, min(pause, left))
            if left <= 0:
                raise TimeoutError(
                    f"{self.task.name} {self.id} is {self.row_status} after {timeout} s."
                )
            pause = min(pause * 2, _LAST_LOOK)

    def _check_wait(self, timeout: float | None) -> None:
        if timeout is None and current.in_worker:
            raise WaitInsideTransaction(
                "wait() inside a task holds a worker's slot, perhaps for ever: pass timeout=."
            )
        alias = self._database()
        if alias is None:
            return
        connection = user_connection(alias)
        if connection.in_atomic_block or not connection.get_autocommit():
            raise WaitInsideTransaction(
                f"wait() inside a transaction on {alias!r}: a task enqueued in it is not visible "
                "to any worker before it commits. Wait after the atomic block; in a TestCase call "
                "drain() first."
            )

    def _backend(self) -> Any:
        return self.task.get_backend()

    def _database(self) -> Any:
        return getattr(self._backend(), "database", None)


_REFRESHED = frozenset(TASK_REFRESH_ATTRS) | {
    "row_status",
    "attempts",
    "max_attempts",
    "run_after",
    "progress",
    "cancel_requested",
}

_FAILURES = {class_path(kind): kind for kind in (TaskCancelled, TaskExpired, TaskCrashed)}


def adopt(result: DjangoTaskResult[..., Any], task: Task[..., R]) -> TaskResult[R]:
    """Give a result of Django's own backends (Immediate, Dummy) our methods."""
    if isinstance(result, TaskResult):
        return result
    own = {f.name: getattr(result, f.name) for f in fields(result)}
    return TaskResult(
        **own,
        row_status=TaskStatus(result.status),
        attempts=len(result.worker_ids),
        max_attempts=task.max_attempts,
        run_after=task.run_after,
    )


# One statement over both tables: two could miss a task that moves between them.
READ = """
/* django_taskq:read */
SELECT id::text, status, task, queue_name, priority, args::text, kwargs::text, run_after,
  enqueued_at, attempts, max_attempts, started_at, NULL::timestamptz, worker_id::text,
  errors::text, progress::text, NULL::text, held_for, headers::text,
  cancel_requested_at IS NOT NULL
FROM django_taskq_livetask WHERE id = %(id)s
UNION ALL
SELECT id::text, status, task, queue_name, priority, args::text, kwargs::text, run_after,
  enqueued_at, attempts, max_attempts, started_at, finished_at, worker_id::text,
  errors::text, progress::text, return_value::text, NULL, headers::text,
  false
FROM django_taskq_finishedtask WHERE id = %(id)s
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A task's row, from whichever table holds it, decoded."""

    id: str
    status: TaskStatus
    task: str
    queue_name: str
    priority: int
    args: list[Any]
    kwargs: dict[str, Any]
    run_after: datetime
    enqueued_at: datetime
    attempts: int
    max_attempts: int | None
    started_at: datetime | None
    finished_at: datetime | None
    worker_id: str | None
    errors: list[AttemptError]
    progress: dict[str, Any] | None
    return_value: Any
    held_for: str | None
    headers: dict[str, Any]
    cancel_requested: bool


_ROW_FIELDS = [f.name for f in fields(Row)]


@tried_again
def read_row(alias: str, task_id: object) -> Row:
    """Read a task by id. Raise TaskResultDoesNotExist, also for what is no id at all."""
    known = parse_id(task_id)
    found = None
    if known is not None:
        with user_cursor(alias) as cursor:
            cursor.execute(READ, {"id": known})
            found = cursor.fetchone()
    if found is None:
        raise TaskResultDoesNotExist(str(task_id))
    return Row(**dict(zip(_ROW_FIELDS, _decode(found), strict=True)))


def result_values(row: Row) -> dict[str, Any]:
    """Return the fields of a TaskResult that a row gives."""
    workers = [error.worker for error in row.errors if error.worker]
    if row.worker_id is not None and row.worker_id not in workers:
        workers.append(row.worker_id)
    return {
        "id": row.id,
        "status": _DJANGO_STATUS[row.status],
        "row_status": row.status,
        "enqueued_at": row.enqueued_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "last_attempted_at": row.started_at or _last_start(row.errors),
        "args": row.args,
        "kwargs": row.kwargs,
        "errors": list(row.errors),
        "worker_ids": workers,
        "attempts": row.attempts,
        "run_after": row.run_after,
        "progress": row.progress,
        "cancel_requested": row.cancel_requested,
        "headers": row.headers,
        "_return_value": row.return_value,
    }


def decode_errors(text: str | None) -> list[AttemptError]:
    """Read error records from their JSON text."""
    return [
        AttemptError(
            exception_class_path=record["exception_class_path"],
            traceback=record["traceback"],
            message=record.get("message", ""),
            attempt=record.get("attempt", 0),
            worker=record.get("worker", ""),
            started_at=_moment(record.get("started_at")),
            finished_at=_moment(record.get("finished_at")),
        )
        for record in json.loads(text or "[]")
    ]


def _decode(found: tuple[Any, ...]) -> list[Any]:
    """Decode what READ returned, in its order, which is that of Row's fields."""
    values = list(found)
    values[1] = TaskStatus(values[1])
    values[5], values[6] = json.loads(values[5]), json.loads(values[6])
    values[14] = decode_errors(values[14])
    values[15] = json.loads(values[15]) if values[15] else None
    values[16] = json.loads(values[16]) if values[16] else None
    values[18] = carried.decode(values[18])
    return values


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _last_start(errors: list[AttemptError]) -> datetime | None:
    return errors[-1].started_at if errors else None
