"""Retry, cancel and prune: some tasks by their ids, or all that a filter leaves.

At most 1,000 tasks go in a transaction, each its own unless the caller has one open. What somebody
else holds at that moment is skipped and reported, never waited for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from django_taskq import conf, db
from django_taskq.control.databases import ControlError, database_of
from django_taskq.control.listing import every_line, known_status
from django_taskq.exceptions import TaskCancelled
from django_taskq.hints import hint_after_commit
from django_taskq.ids import parse_id
from django_taskq.serialization import class_path, error_record
from django_taskq.statuses import FINISHED, TaskStatus
from django_taskq.transitions import operate
from django_taskq.transitions.prune import prune as delete_old

# What retry() takes without force: a second run of these repeats nothing that had succeeded.
_ENDED_BADLY = (TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.EXPIRED)

# Those that run come last: what waits is not to be claimed meanwhile.
_UNFINISHED = (TaskStatus.READY, TaskStatus.HELD, TaskStatus.RUNNING)

# Skipped tasks that are reported one by one; beyond, they are counted.
_REPORTED = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A task that was left as it was."""

    id: str
    why: str


@dataclass(kw_only=True, slots=True)
class Changed:
    """What a verb did to many tasks."""

    # How many tasks it changed.
    count: int = 0
    # How many that run were asked to end; they may end normally all the same.
    asked: int = 0
    # How many it left as they were, and the first 1,000 of them.
    skipped_count: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    def __add__(self, other: Changed) -> Changed:
        return Changed(
            count=self.count + other.count,
            asked=self.asked + other.asked,
            skipped_count=self.skipped_count + other.skipped_count,
            skipped=(self.skipped + other.skipped)[:_REPORTED],
        )


def retry(ids: Iterable[str], *, force: bool = False, database: str | None = None) -> Changed:
    """Put finished tasks back into their queues, under their ids.

    Takes those that are FAILED, CANCELLED or EXPIRED; with `force` also SUCCESSFUL ones, whose
    return value is lost. Attempts and crashes are counted anew, past errors stay, nothing expires.
    """
    alias = database_of(database)
    changed = Changed()
    for batch, unreadable in _batches(ids):
        changed += unreadable
        changed += _retry_batch(alias, batch, force=force)
    return changed


def retry_all(
    *,
    status: str = TaskStatus.FAILED,
    queue_name: str | None = None,
    task: str | None = None,
    since: datetime | None = None,
    force: bool = False,
    database: str | None = None,
) -> Changed:
    """Retry every finished task that the filters of `list_tasks` leave.

    Those that fail again meanwhile are not retried once more. Raise ControlError for a status that
    is not a finished one, or SUCCESSFUL without `force`.
    """
    alias = database_of(database)
    known = to_retry(status)
    if known == TaskStatus.SUCCESSFUL and not force:
        raise ControlError("SUCCESSFUL tasks run a second time only with force.")
    changed = Changed()
    for lines in every_line(alias, status=known, queue_name=queue_name, task=task, since=since):
        changed += _retry_batch(alias, [line.id for line in lines], force=force)
    return changed


def cancel(
    ids: Iterable[str], *, reason: str = "Cancelled before it ran.", database: str | None = None
) -> Changed:
    """End tasks that wait, READY or HELD, as CANCELLED; `reason` is kept in their errors.

    Those that run are asked to end, as by `TaskResult.cancel()`.
    """
    alias = database_of(database)
    changed = Changed()
    for batch, unreadable in _batches(ids):
        changed += unreadable
        changed += _cancel_batch(alias, batch, reason)
    return changed


def cancel_all(
    *,
    status: str | None = None,
    queue_name: str | None = None,
    task: str | None = None,
    since: datetime | None = None,
    reason: str = "Cancelled before it ran.",
    database: str | None = None,
) -> Changed:
    """Cancel every unfinished task that the filters of `list_tasks` leave; `status` None is all.

    Raise ControlError for a finished status.
    """
    alias = database_of(database)
    changed = Changed()
    for each in to_cancel(status):
        for lines in every_line(alias, status=each, queue_name=queue_name, task=task, since=since):
            changed += _cancel_batch(alias, [line.id for line in lines], reason)
    return changed


def to_retry(status: str) -> TaskStatus:
    """Return the status of this name. Raise ControlError if it is not a finished one."""
    known = known_status(status)
    if known not in FINISHED:
        raise ControlError(f"{known} tasks have not finished: there is nothing to retry.")
    return known


def to_cancel(status: str | None) -> tuple[TaskStatus, ...]:
    """Return the statuses that this name stands for, None for all that are not finished.

    Raise ControlError for a finished one.
    """
    if status is None:
        return _UNFINISHED
    known = known_status(status)
    if known in FINISHED:
        raise ControlError(f"{known} tasks have finished: there is nothing to cancel.")
    return (known,)


def prune(
    *,
    older_than: timedelta | float | None = None,
    limit: int | None = None,
    database: str | None = None,
) -> int:
    """Delete tasks that ended longer ago than that; return how many.

    `older_than` is seconds or a timedelta, by default the setting RETENTION. At most `limit` tasks
    are deleted, if it is given. Raise ControlError if RETENTION keeps everything and no age is
    given, or for a negative one.
    """
    alias = database_of(database)
    age = conf.get().retention if older_than is None else older_than
    if age is None:
        raise ControlError("RETENTION keeps finished tasks for ever: say how old they have to be.")
    seconds = age.total_seconds() if isinstance(age, timedelta) else float(age)
    if not 0 <= seconds < float("inf"):
        raise ControlError(f"{older_than!r} is no age: it takes seconds from 0 up or a timedelta.")
    return delete_old(alias, seconds, limit)


@db.tried_again
def _retry_batch(alias: str, ids: Sequence[str], *, force: bool) -> Changed:
    allowed = sorted(FINISHED) if force else _ENDED_BADLY
    with transaction.atomic(using=alias):
        done = operate.requeue(alias, ids, statuses=[status.value for status in allowed])
        if done:
            hint_after_commit(alias)
    left = [id for id in ids if id not in done]
    return _changed(done, _reasons(alias, left, _why_not_retried))


@db.tried_again
def _cancel_batch(alias: str, ids: Sequence[str], reason: str) -> Changed:
    record = error_record(
        class_path=class_path(TaskCancelled),
        message=reason,
        traceback_text="",
        attempt=0,
        worker="",
    )
    with transaction.atomic(using=alias):
        done = operate.cancel_many(alias, ids, error=record)
        left = [id for id in ids if id not in done]
        asked = operate.request_cancel_many(alias, left) if left else set()
        if asked:
            hint_after_commit(alias)
    left = [id for id in left if id not in asked]
    changed = _changed(done, _reasons(alias, left, _why_not_cancelled))
    changed.asked = len(asked)
    return changed


def _changed(done: set[str], skipped: list[Skipped]) -> Changed:
    return Changed(count=len(done), skipped_count=len(skipped), skipped=skipped)


def _batches(ids: Iterable[str]) -> Iterator[tuple[list[str], Changed]]:
    """Yield ids in the form in which rows have them, 1,000 at a time, and those that are none."""
    if isinstance(ids, str):
        raise ControlError(f"ids takes a list of ids, such as [{ids!r}], not one text.")
    known: dict[str, None] = {}
    unreadable: list[Skipped] = []
    for text in ids:
        id = parse_id(text)
        if id is None:
            unreadable.append(Skipped(id=str(text), why="is not an id"))
        else:
            known[id] = None
    texts = list(known)
    yield texts[: operate.BULK_LIMIT], _changed(set(), unreadable)
    for first in range(operate.BULK_LIMIT, len(texts), operate.BULK_LIMIT):
        yield texts[first : first + operate.BULK_LIMIT], Changed()


# Where tasks stand that a statement has left alone.
STANDING = """
/* django_taskq:standing */
SELECT id::text, status, has_successors
FROM django_taskq_livetask WHERE id = ANY (%(ids)s::uuid[])
UNION ALL
SELECT id::text, status, false
FROM django_taskq_finishedtask WHERE id = ANY (%(ids)s::uuid[])
"""


def _reasons(alias: str, ids: Sequence[str], why: Any) -> list[Skipped]:
    if not ids:
        return []
    with db.reading_cursor(alias) as cursor:
        cursor.execute(STANDING, {"ids": list(ids)})
        found = cursor.fetchall()
    standing = {row[0]: why(TaskStatus(row[1]), row[2]) for row in found}
    for id, count in Counter(row[0] for row in found).items():
        if count > 1:
            standing[id] = "its id stands twice, unfinished and finished"
    return [Skipped(id=id, why=standing.get(id, "there is no such task")) for id in ids]


def _why_not_retried(status: TaskStatus, has_successors: bool) -> str:
    if status not in FINISHED:
        return f"is {status}, it has not finished"
    if status == TaskStatus.SUCCESSFUL:
        return "was SUCCESSFUL; only force runs it a second time"
    return "somebody else holds it at this moment"


def _why_not_cancelled(status: TaskStatus, has_successors: bool) -> str:
    if status in FINISHED:
        return f"has ended already, as {status}"
    return "other tasks wait for it" if has_successors else "somebody else holds it at this moment"
