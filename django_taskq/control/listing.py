"""List tasks of both tables, newest first, page by page.

A page walks along an index from a place (the end of the page before) and looks at 100,000 rows at
the most; it says so when it stopped there. Nothing is counted and no table is read as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from django_taskq import db
from django_taskq.control.databases import ControlError, database_of
from django_taskq.ids import parse_id
from django_taskq.statuses import FINISHED, TaskStatus
from django_taskq.suggestions import did_you_mean
from django_taskq.transitions import operate

# Rows that one statement looks at when only some of them are wanted, and that a page looks at.
_WINDOW, _PAGE_WINDOW = 5_000, 100_000
_LAST_ID, _FIRST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff", "00000000-0000-0000-0000-000000000000"
# Ids are made by clients: how far their clocks may be from the database's.
_CLOCK_SLACK = timedelta(hours=1)

_COMMON = """id, status, task, queue_name, priority, attempts, max_attempts, enqueued_at,
      run_after, started_at, worker_id, errors"""
_LIVE = f"{_COMMON}, held_for, NULL::timestamptz AS finished_at"
_FINISHED = f"{_COMMON}, NULL::text AS held_for, finished_at"


def utc(column: str) -> str:
    """Write SQL that gives a time as exact ISO 8601 text, whatever the session's time zone."""
    return f"""to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""


# One row at least: how many rows were walked over, and the place of the last one.
_FOUND = f"""
, found AS (
  SELECT * FROM walked
  WHERE (%(queue)s::text IS NULL OR queue_name LIKE %(queue)s)
    AND (%(task)s::text IS NULL OR task LIKE %(task)s)
    AND (%(status)s::text IS NULL OR status = %(status)s)
)
SELECT
  (SELECT count(*) FROM walked),
  last.id::text, {utc("last.finished_at")},
  found.id::text, found.status, found.task, found.queue_name, found.priority, found.attempts,
  found.max_attempts, {utc("found.enqueued_at")}, {utc("found.run_after")},
  {utc("found.started_at")}, {utc("found.finished_at")}, found.held_for, found.worker_id::text,
  found.errors -> -1 ->> 'exception_class_path'
FROM (SELECT) AS one
"""

# By id, which is by the time of enqueueing.
_BY_ID = f"""{_FOUND}LEFT JOIN (SELECT * FROM walked ORDER BY id LIMIT 1) AS last ON true
LEFT JOIN (SELECT * FROM found ORDER BY id DESC LIMIT %(limit)s) AS found ON true
ORDER BY found.id DESC
"""

# By the time of the end; tasks that ended in one batch have the same.
_BY_END = f"""{_FOUND}
LEFT JOIN (SELECT * FROM walked ORDER BY finished_at, id LIMIT 1) AS last ON true
LEFT JOIN (SELECT * FROM found ORDER BY finished_at DESC, id DESC LIMIT %(limit)s) AS found ON true
ORDER BY found.finished_at DESC, found.id DESC
"""

_IDS = """id < %(before)s::uuid AND id >= %(oldest)s::uuid
    AND enqueued_at >= %(since)s::timestamptz"""

# Each table has its limit: with one for both, all of both is sorted.
LIST_ALL = f"""
/* django_taskq:list */
WITH walked AS MATERIALIZED (
  SELECT * FROM (
    (SELECT {_LIVE}
    FROM django_taskq_livetask WHERE {_IDS}
    ORDER BY id DESC
    LIMIT %(window)s)
    UNION ALL
    (SELECT {_FINISHED}
    FROM django_taskq_finishedtask WHERE {_IDS}
    ORDER BY id DESC
    LIMIT %(window)s)
  ) AS t
  ORDER BY id DESC
  LIMIT %(window)s
){_BY_ID}"""

LIST_READY = f"""
/* django_taskq:list */
WITH walked AS MATERIALIZED (
  SELECT {_LIVE}
  FROM django_taskq_livetask WHERE {_IDS}
  ORDER BY id DESC
  LIMIT %(window)s
){_BY_ID}"""

# What runs and what is held are few among what waits: taken by their own indexes, then sorted.
LIST_RUNNING = f"""
/* django_taskq:list */
WITH running AS MATERIALIZED (
  SELECT {_LIVE}
  FROM django_taskq_livetask WHERE worker_id IS NOT NULL
  LIMIT 100000
),
walked AS (
  SELECT * FROM running WHERE {_IDS}
  ORDER BY id DESC
  LIMIT %(window)s
){_BY_ID}"""

LIST_HELD = f"""
/* django_taskq:list */
WITH held AS MATERIALIZED (
  SELECT {_LIVE}
  FROM django_taskq_livetask WHERE status = 'HELD'
  LIMIT 100000
),
walked AS (
  SELECT * FROM held WHERE {_IDS}
  ORDER BY id DESC
  LIMIT %(window)s
){_BY_ID}"""

_ENDS = """finished_at <= %(until)s::timestamptz AND finished_at >= %(since)s::timestamptz
    AND (finished_at < %(until)s::timestamptz OR id < %(before)s::uuid)
  ORDER BY finished_at DESC, id DESC"""

LIST_SUCCESSFUL = f"""
/* django_taskq:list */
WITH walked AS MATERIALIZED (
  SELECT {_FINISHED}
  FROM django_taskq_finishedtask
  WHERE {_ENDS}
  LIMIT %(window)s
){_BY_END}"""

# The literal is for the planner: the index is partial.
LIST_BADLY = f"""
/* django_taskq:list */
WITH walked AS MATERIALIZED (
  SELECT {_FINISHED}
  FROM django_taskq_finishedtask
  WHERE status = %(status)s AND status <> 'SUCCESSFUL' AND {_ENDS}
  LIMIT %(window)s
){_BY_END}"""

_STATEMENTS = {
    None: LIST_ALL,
    TaskStatus.READY: LIST_READY,
    TaskStatus.RUNNING: LIST_RUNNING,
    TaskStatus.HELD: LIST_HELD,
    TaskStatus.SUCCESSFUL: LIST_SUCCESSFUL,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskLine:
    """A task in a list: what can be shown to everybody, so no arguments and no messages."""

    id: str
    status: TaskStatus
    # The name under which it is registered.
    task: str
    queue_name: str
    priority: int
    attempts: int
    # None (a row made by plain SQL) is what @task says.
    max_attempts: int | None
    enqueued_at: datetime
    run_after: datetime
    started_at: datetime | None
    finished_at: datetime | None
    held_for: str | None
    worker_id: str | None
    # The class of the last error.
    error: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Some tasks, newest first."""

    tasks: list[TaskLine]
    # What `before` takes to go on; None at the end.
    next: str | None
    # Whether rows were left out of sight: the page ended after 100,000 rows, not at its limit.
    is_cut: bool = False


_LINE_FIELDS = [f.name for f in fields(TaskLine)]


def list_tasks(
    *,
    status: str | None = None,
    queue_name: str | None = None,
    task: str | None = None,
    since: datetime | None = None,
    limit: int = 50,
    before: str | None = None,
    database: str | None = None,
) -> Page:
    """List tasks, newest first: by when they ended if `status` is a finished one, else by id.

    `queue_name` and `task` may hold `*` and `?`. `since` is about the end of tasks if `status` is a
    finished one, else about when they were enqueued. `before` is the `next` of the page before.
    Raise ControlError for an unknown status, a `before` that no page gave, a `since` that is no
    datetime or a `limit` below 1.
    """
    alias = database_of(database)
    if limit < 1:
        raise ControlError(f"limit={limit}: a list has room for one task at least.")
    if since is not None and not isinstance(since, datetime):
        raise ControlError(f"since={since!r} is no datetime, such as timezone.now() gives.")
    known = None if status is None else known_status(status)
    until, before_id = _place(before, by_end=known in FINISHED)
    parameters = {
        "status": known.value if known else None,
        "queue": like(queue_name),
        "task": like(task),
        "since": since or "-infinity",
        "oldest": _FIRST_ID if since is None else _id_of_time(since - _CLOCK_SLACK),
        "until": until,
        "before": before_id,
    }
    # Otherwise all that is walked over is shown.
    is_filtered = queue_name or task or known in {TaskStatus.READY, TaskStatus.SUCCESSFUL}
    window = _WINDOW if is_filtered else limit
    return _page(alias, known, parameters, limit=limit, window=window)


def _page(
    alias: str, known: TaskStatus | None, parameters: dict[str, Any], *, limit: int, window: int
) -> Page:
    """Walk over windows of rows until the page is full, or enough were walked over."""
    lines: list[TaskLine] = []
    walked = 0
    until = parameters["until"]
    while True:
        asked = {**parameters, "window": window, "limit": limit - len(lines)}
        with db.reading_cursor(alias) as cursor:
            cursor.execute(_STATEMENTS.get(known, LIST_BADLY), asked)
            rows = cursor.fetchall()
        count, last_id, last_end = rows[0][:3]
        walked += count
        lines += [_line(row[3:]) for row in rows if row[3] is not None]
        if len(lines) >= limit:
            return Page(tasks=lines, next=_next(lines[-1].id, rows[-1][13], known))
        if count < window:
            return Page(tasks=lines, next=None)
        if walked >= _PAGE_WINDOW:
            return Page(tasks=lines, next=_next(last_id, last_end, known), is_cut=True)
        parameters = {**parameters, "before": last_id, "until": last_end or until}


def known_status(text: str) -> TaskStatus:
    """Return the status of this name, in any case. Raise ControlError if there is none."""
    try:
        return TaskStatus(str(text).upper())
    except ValueError:
        raise ControlError(
            f'There is no status "{text}".{did_you_mean(str(text).upper(), TaskStatus.values)} '
            f"Known: {', '.join(TaskStatus.values)}."
        ) from None


def like(pattern: str | None) -> str | None:
    """Turn a pattern with `*` and `?` into one of SQL's LIKE."""
    if pattern is None:
        return None
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%").replace("?", "_")


def every_line(alias: str, **filters: Any) -> Iterator[list[TaskLine]]:
    """Yield all tasks that the filters leave, as many at a time as a bulk statement takes."""
    before = None
    while True:
        page = list_tasks(**filters, limit=operate.BULK_LIMIT, before=before, database=alias)
        if page.tasks:
            yield page.tasks
        if page.next is None:
            return
        before = page.next


def _line(values: tuple[Any, ...]) -> TaskLine:
    made = dict(zip(_LINE_FIELDS, values, strict=True))
    made["status"] = TaskStatus(made["status"])
    for name in ("enqueued_at", "run_after", "started_at", "finished_at"):
        made[name] = moment(made[name])
    return TaskLine(**made)


def moment(text: str | None) -> datetime | None:
    """Read a time that `utc()` wrote."""
    return datetime.fromisoformat(text) if text else None


def _next(id: str, end: str | None, status: TaskStatus | None) -> str:
    return f"{end},{id}" if status in FINISHED else id


def _place(before: str | None, *, by_end: bool) -> tuple[str, str]:
    """Read where the page before has ended: a time and an id."""
    if before is None:
        return "infinity", _LAST_ID
    end, comma, id = before.rpartition(",")
    known = parse_id(id)
    try:
        if known is None or by_end != bool(comma):
            raise ValueError(before)
        if by_end:
            datetime.fromisoformat(end)
    except ValueError:
        raise ControlError(
            f"{before!r} is not the end of a page of this list. Pass what the page before gave as "
            "next, with the same status."
        ) from None
    return end or "infinity", known


def _id_of_time(time: datetime) -> str:
    """Return the first id that could have been made at this time, or later."""
    milliseconds = max(0, int(time.astimezone(UTC).timestamp() * 1000))
    head = f"{milliseconds:012x}"
    return f"{head[:8]}-{head[8:]}-0000-0000-000000000000"
