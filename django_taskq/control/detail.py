"""Everything about one task, and why it does not run now."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from django_taskq import db
from django_taskq.control.databases import ControlError, database_of
from django_taskq.control.listing import moment, utc
from django_taskq.control.overview import WorkerLine, workers
from django_taskq.redact import MASK, Hide, hider_of, shown_call
from django_taskq.statuses import TaskStatus
from django_taskq.task import find_discovered
from django_taskq.tasks_api import TaskResultDoesNotExist

# How many tasks of one prefix are named, and how many before a task are counted.
_NAMED, _AHEAD = 5, 1000

FIND_IDS = f"""
/* django_taskq:find_ids */
SELECT id::text FROM (
  (SELECT id FROM django_taskq_livetask
   WHERE id >= %(first)s::uuid AND id <= %(last)s::uuid ORDER BY id LIMIT {_NAMED + 1})
  UNION ALL
  (SELECT id FROM django_taskq_finishedtask
   WHERE id >= %(first)s::uuid AND id <= %(last)s::uuid ORDER BY id LIMIT {_NAMED + 1})
) AS t
ORDER BY id LIMIT {_NAMED + 1}
"""

_COMMON = f"""id::text, status, task, queue_name, priority, args::text, kwargs::text, attempts,
  max_attempts, crashes, {utc("enqueued_at")}, {utc("run_after")}, {utc("started_at")},
  worker_id::text, errors::text, progress::text, options::text, headers::text"""

# One statement over both tables: two could miss a task that moves between them.
SHOW = f"""
/* django_taskq:show */
SELECT {_COMMON}, {utc("expires_at")}, {utc("cancel_requested_at")}, held_for, has_successors,
  NULL::text, NULL::text, extract(epoch FROM run_after - statement_timestamp())::float8
FROM django_taskq_livetask WHERE id = %(id)s::uuid
UNION ALL
SELECT {_COMMON}, NULL, NULL, NULL, false, {utc("finished_at")}, return_value::text, 0
FROM django_taskq_finishedtask WHERE id = %(id)s::uuid
"""

# In its lane, and in the lanes of its queue that come before it; each as far as is worth telling.
AHEAD = f"""
/* django_taskq:ahead */
SELECT
  (SELECT count(*) FROM (
    SELECT FROM django_taskq_livetask AS t
    WHERE t.status = 'READY' AND t.queue_name = %(queue)s AND t.priority = %(priority)s
      AND t.run_after <= %(run_after)s::timestamptz
      AND (t.run_after < %(run_after)s::timestamptz OR t.id < %(id)s::uuid)
    LIMIT {_AHEAD}) AS lane)
  +
  (SELECT count(*) FROM (
    SELECT t.run_after FROM django_taskq_livetask AS t
    WHERE t.status = 'READY' AND t.queue_name = %(queue)s AND t.priority > %(priority)s
    ORDER BY t.priority DESC, t.run_after
    LIMIT {_AHEAD}) AS higher
   WHERE higher.run_after <= statement_timestamp())
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskDetail:
    """A task's row, from whichever table holds it; the arguments are masked."""

    id: str
    status: TaskStatus
    task: str
    queue_name: str
    priority: int
    # MASK instead, if the task is not known here.
    args: list[Any] | str
    kwargs: dict[str, Any] | str
    attempts: int
    max_attempts: int | None
    crashes: int
    enqueued_at: datetime
    run_after: datetime
    started_at: datetime | None
    worker_id: str | None
    # A record per failed attempt: exception_class_path, message, traceback, attempt, worker, times.
    errors: list[dict[str, Any]]
    progress: dict[str, Any] | None
    # What .using() changed and no column holds.
    options: dict[str, Any] | None
    # What the project carries along: a language, a tenant.
    headers: dict[str, Any] | None
    expires_at: datetime | None
    cancel_requested_at: datetime | None
    held_for: str | None
    has_successors: bool
    finished_at: datetime | None
    return_value: Any
    # Why it does not run now, in words; or since when and where it does.
    why: str


_FIELDS = [f.name for f in fields(TaskDetail)][:-1]
_TIMES = ("enqueued_at", "run_after", "started_at", "expires_at", "cancel_requested_at")
_JSON = ("args", "kwargs", "errors", "progress", "options", "headers", "return_value")


def find_id(text: str, *, database: str | None = None) -> str:
    """Return the id of the one task whose id begins with this text.

    Raise TaskResultDoesNotExist if there is none, and ControlError if there are several.
    """
    digits = text.strip().lower().replace("-", "")
    if not re.fullmatch("[0-9a-f]{1,32}", digits):
        raise ControlError(f"{text!r} is not an id, nor the beginning of one.")
    with db.reading_cursor(database_of(database)) as cursor:
        cursor.execute(FIND_IDS, {"first": digits.ljust(32, "0"), "last": digits.ljust(32, "f")})
        found = [row[0] for row in cursor.fetchall()]
    if not found:
        raise TaskResultDoesNotExist(text)
    if len(found) > 1:
        more = ", …" if len(found) > _NAMED else ""
        raise ControlError(
            f"Several ids begin with {text}: {', '.join(found[:_NAMED])}{more}. Write more of it."
        )
    return str(found[0])


def show(id: str, *, database: str | None = None) -> TaskDetail:
    """Return everything about a task, by its id or the beginning of it.

    Raise TaskResultDoesNotExist if there is none, and ControlError if there are several.
    """
    alias = database_of(database)
    known = find_id(id, database=alias)
    found = _read(alias, known)
    if found is None:
        raise TaskResultDoesNotExist(id)
    *values, due_in = found
    made = dict(zip(_FIELDS, values, strict=True))
    made["status"] = TaskStatus(made["status"])
    for name in (*_TIMES, "finished_at"):
        made[name] = moment(made[name])
    for name in _JSON:
        made[name] = _decoded(made[name])
    made["errors"] = _records(made["errors"])
    detail = TaskDetail(**_masked(made), why="")
    return _with(detail, why=" ".join(_reasons(alias, detail, due_in)))


def _decoded(text: str | None) -> Any:
    """Read JSON; what was made by SQL, and Python cannot read, is said to be so."""
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"(unreadable: {type(error).__name__})"


def _records(errors: Any) -> list[dict[str, Any]]:
    """Return what records of failed attempts a row holds."""
    return [record for record in errors if isinstance(record, dict)] if errors else []


def _read(alias: str, id: str) -> Any:
    with db.reading_cursor(alias) as cursor:
        cursor.execute(SHOW, {"id": id})
        return cursor.fetchone()


def _masked(made: dict[str, Any]) -> dict[str, Any]:
    """Mask secret arguments, and what they hold wherever else it shows.

    Which arguments are secret is written in the code: of a task that is not known here all are.
    """
    task = find_discovered(made["task"])
    args, kwargs = shown_call(task, made["args"], made["kwargs"])
    hide = hider_of(task, made["args"], made["kwargs"])
    if hide is None:  # no secret, or one like None that says nothing in a text
        return {**made, "args": args, "kwargs": kwargs}
    errors = [
        {**record, **{name: hide(str(record.get(name, ""))) for name in ("message", "traceback")}}
        for record in made["errors"]
    ]
    elsewhere = {name: _hidden(made[name], hide) for name in ("progress", "return_value")}
    return {**made, "args": args, "kwargs": kwargs, "errors": errors, **elsewhere}


def _hidden(value: Any, hide: Hide) -> Any:
    """Mask what a JSON value holds of secrets."""
    match value:
        case dict():
            return {hide(key): _hidden(item, hide) for key, item in value.items()}
        case list():
            return [_hidden(item, hide) for item in value]
        case str():
            return hide(value)
        case int() | float() if not isinstance(value, bool) and hide(repr(value)) != repr(value):
            return MASK
        case _:
            return value


def _with(detail: TaskDetail, **changes: Any) -> TaskDetail:
    values = {f.name: getattr(detail, f.name) for f in fields(detail)}
    return TaskDetail(**{**values, **changes})


def _reasons(alias: str, detail: TaskDetail, due_in: float) -> Iterator[str]:
    """Yield sentences that say where the task stands."""
    match detail.status:
        case TaskStatus.READY:
            yield from _why_waiting(alias, detail, due_in)
        case TaskStatus.HELD:
            yield _why_held(detail)
        case TaskStatus.RUNNING:
            yield _where_running(detail, workers(database=alias))
            if detail.cancel_requested_at:
                yield f"It was asked to end at {_time(detail.cancel_requested_at)}."
        case ended:
            yield f"It has ended as {ended}, at {_time(detail.finished_at)}."


def _why_waiting(alias: str, detail: TaskDetail, due_in: float) -> Iterator[str]:
    if due_in > 0:
        cause = f" after attempt {detail.attempts}" if detail.attempts else ""
        yield f"It is due later{cause}: at {_time(detail.run_after)}, in {due_in:.0f} s."
    if detail.crashes >= 2:
        yield (
            f"The process that ran it died {detail.crashes} times: it waits for a worker that runs "
            "it alone."
        )
    living = [worker for worker in workers(database=alias) if not worker.is_silent]
    serving = [worker for worker in living if worker.serves(detail.queue_name)]
    if not serving:
        others = sorted({_served(worker) for worker in living})
        known = f" Workers that run serve {'; '.join(others)}." if others else ""
        yield f'No worker serves the queue "{detail.queue_name}".{known}'
        return
    if due_in > 0:
        return
    count = _ahead(alias, detail.queue_name, detail.priority, detail.run_after, detail.id)
    slots, busy = sum(w.concurrency for w in serving), sum(w.busy for w in serving)
    if count:
        several = f"{count:,} or more" if count >= _AHEAD else f"{count:,}"
        yield f"{several} of its queue come before it."
    yield f"{busy} of {slots} places of the workers that serve its queue are busy."
    if not count and busy < slots:
        yield "It starts within a second."


def _ahead(alias: str, queue_name: str, priority: int, run_after: datetime, id: str) -> int:
    """Count the due tasks of a queue that are claimed before this one, up to about 2,000."""
    parameters = {"queue": queue_name, "priority": priority, "run_after": run_after, "id": id}
    with db.reading_cursor(alias) as cursor:
        cursor.execute(AHEAD, parameters)
        return int(cursor.fetchone()[0])


def _why_held(detail: TaskDetail) -> str:
    reason, _, name = (detail.held_for or "").partition(":")
    if reason == "unknown":
        return (
            f'It is put aside: no worker that met it knows a task called "{name}". It goes on when '
            "one that does has started. If it was renamed, give the new one the old name as one of "
            "its aliases."
        )
    return f"It is put aside for {detail.held_for}."


def _where_running(detail: TaskDetail, known: Sequence[WorkerLine]) -> str:
    for worker in known:
        pids = {child.id: child.pid for child in worker.children} | {worker.id: worker.pid}
        if detail.worker_id in pids:
            where = f"process {pids[detail.worker_id]} on {worker.host}"
            if worker.is_silent:
                return (
                    f"It was claimed by {where}, which was not heard of for "
                    f"{worker.last_seen_seconds:.0f} s."
                )
            return f"It runs, or is about to, in {where}, since {_time(detail.started_at)}."
    return (
        "The process that ran it is not in the list of workers any more. A worker that knows this "
        "task takes it back within seconds."
    )


def _served(worker: WorkerLine) -> str:
    names = ", ".join(worker.queues) or "all queues"
    return f"{names} but {', '.join(worker.excluded)}" if worker.excluded else names


def _time(moment: datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else "an unknown time"
