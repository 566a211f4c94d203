"""enqueue: a row appears, READY, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db import Error

from django_taskq.db import Connection, leave_transaction, user_connection, user_cursor
from django_taskq.ids import TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What all rows of one call have in common."""

    task: str
    queue_name: str
    priority: int
    max_attempts: int
    # An absolute time, or seconds from the database's now; neither is "now".
    run_after: datetime | None
    delay: float
    # Seconds from the later of enqueue and run_after.
    expires_after: float | None
    # JSON text of what .using() changed and no column holds.
    options: str | None
    # JSON text of what the task carries along.
    headers: str | None

    @property
    def starts_now(self) -> bool:
        """Say whether the columns' own times will do."""
        return self.run_after is None and not self.delay and self.expires_after is None


class NewRow(NamedTuple):
    """What differs from row to row: JSON texts."""

    id: TaskId
    args: str
    kwargs: str


class Enqueued(NamedTuple):
    """What the database said of a new row."""

    enqueued_at: datetime
    run_after: datetime


ENQUEUE = """
/* django_taskq:enqueue */
INSERT INTO django_taskq_livetask (
  id, task, queue_name, priority, args, kwargs, max_attempts, options, headers,
  enqueued_at, run_after, expires_at)
SELECT
  %(id)s::uuid, %(task)s, %(queue_name)s, %(priority)s, %(args)s::json, %(kwargs)s::json,
  %(max_attempts)s, %(options)s::jsonb, %(headers)s::jsonb,
  clock, start, greatest(clock, start) + make_interval(secs => %(expires_after)s::float8)
FROM (
  SELECT clock, coalesce(
    %(run_after)s::timestamptz, clock + make_interval(secs => %(delay)s::float8)) AS start
  -- Read once: a volatile function keeps this from being merged into the outer query.
  FROM (SELECT clock_timestamp() AS clock) AS c
) AS m
RETURNING enqueued_at, run_after
"""


# The common case. Django's cursor does not prepare, so every word of a statement costs each time.
ENQUEUE_NOW = """
/* django_taskq:enqueue */
INSERT INTO django_taskq_livetask (
  id, task, queue_name, priority, args, kwargs, max_attempts, options, headers)
VALUES (
  %(id)s, %(task)s, %(queue_name)s, %(priority)s, %(args)s, %(kwargs)s, %(max_attempts)s,
  %(options)s, %(headers)s)
RETURNING enqueued_at, run_after
"""


def enqueue(alias: str, settled: Settled, row: NewRow) -> Enqueued:
    """Insert one task and return its times."""
    statement = ENQUEUE_NOW if settled.starts_now else ENQUEUE
    with user_cursor(alias) as cursor:
        cursor.execute(statement, _values(settled, row))
        return Enqueued(*cursor.fetchone())


def _values(settled: Settled, row: NewRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "task": settled.task,
        "queue_name": settled.queue_name,
        "priority": settled.priority,
        "args": row.args,
        "kwargs": row.kwargs,
        "max_attempts": settled.max_attempts,
        "options": settled.options,
        "headers": settled.headers,
        "run_after": settled.run_after,
        "delay": settled.delay,
        "expires_after": settled.expires_after,
    }


# The channel on which workers listen.
CHANNEL = "django_taskq"

HINT = f"""
/* django_taskq:hint */
SELECT pg_notify('{CHANNEL}', '')
"""

# For a caller in no transaction: all of it goes to the server at once.
_ALONE = f"BEGIN;{ENQUEUE};COMMIT;{HINT}"
_NOW_ALONE = f"BEGIN;{ENQUEUE_NOW};COMMIT;{HINT}"


class HintNotSent(Exception):
    """A task was committed, and workers were not told."""

    def __init__(self, stored: Enqueued, why: Exception) -> None:
        super().__init__(str(why))
        self.stored = stored


FIND_ENQUEUED = """
/* django_taskq:find_enqueued */
SELECT enqueued_at, run_after FROM django_taskq_livetask WHERE id = %(id)s
"""

# For a task that somebody has claimed and finished within the same moment.
FIND_ENDED = """
/* django_taskq:find_ended */
SELECT enqueued_at, run_after FROM django_taskq_finishedtask WHERE id = %(id)s
"""


def find_enqueued(alias: str, id: str) -> Enqueued | None:
    """Return the times of a task that was committed; None if nothing is known of such a task."""
    with suppress(Error):
        return find(alias, FIND_ENQUEUED, id) or find(alias, FIND_ENDED, id)
    return None


def find(alias: str, statement: str, id: str) -> Enqueued | None:
    """Look for a task in one of the tables."""
    with user_cursor(alias) as cursor:
        cursor.execute(statement, {"id": id})
        row = cursor.fetchone()
    return Enqueued(*row) if row is not None else None


def enqueue_alone(alias: str, settled: Settled, row: NewRow) -> Enqueued:
    """Insert one task in a transaction of its own, and tell listening workers after its commit.

    A worker is told while the caller still waits for the answer. Only for a connection for which
    `is_alone` holds. Raise HintNotSent if the task is committed, and only the hint was refused.
    """
    statement = _NOW_ALONE if settled.starts_now else _ALONE
    connection = user_connection(alias)
    with connection.cursor() as cursor:
        try:
            cursor.execute(statement, _values(settled, row))
        except BaseException as error:
            # What was begun must not stay open on a connection in autocommit.
            if leave_transaction(connection) or not isinstance(error, Error):
                raise
            # Nothing was begun, or the COMMIT failed, or what comes after it.
            stored = find_enqueued(alias, row.id) if connection.is_usable() else None
            if stored is not None:
                raise HintNotSent(stored, error) from error
            raise
        cursor.nextset()  # the first is BEGIN's
        return Enqueued(*cursor.fetchone())


# COPY cannot compute: the times that all rows share are worked out first. The time of enqueueing
# is left to the column's default, so that rows of one call run in their order.
SHARED_TIMES = """
/* django_taskq:enqueue */
SELECT
  clock,
  start,
  greatest(clock, start) + make_interval(secs => %(expires_after)s::float8)
FROM (
  SELECT clock, coalesce(
    %(run_after)s::timestamptz, clock + make_interval(secs => %(delay)s::float8)) AS start
  FROM (SELECT clock_timestamp() AS clock) AS c
) AS m
"""

COPY = """
/* django_taskq:enqueue */
COPY django_taskq_livetask (
  id, args, kwargs, task, queue_name, priority, max_attempts, options, headers{more}) FROM STDIN
"""

# Rows per block that is handed to the driver.
_BLOCK = 1000


def enqueue_many(alias: str, settled: Settled, rows: Sequence[NewRow]) -> Enqueued:
    """Insert many tasks by one COPY and return the times of the first."""
    connection = user_connection(alias)
    with user_cursor(alias) as cursor:
        cursor.execute(
            SHARED_TIMES,
            {
                "run_after": settled.run_after,
                "delay": settled.delay,
                "expires_after": settled.expires_after,
            },
        )
        now, start, expires_at = cursor.fetchone()
        shared: list[Any] = [
            settled.task,
            settled.queue_name,
            settled.priority,
            settled.max_attempts,
            settled.options,
            settled.headers,
        ]
        columns = ""
        if settled.run_after is not None or settled.delay:
            columns += ", run_after"
            shared.append(start.isoformat())
        if expires_at is not None:
            columns += ", expires_at"
            shared.append(expires_at.isoformat())
        tail = "".join(f"\t{_copy_text(value)}" for value in shared) + "\n"
        connection.validate_no_broken_transaction()
        with (
            connection.wrap_database_errors,
            cursor.copy(COPY.format(more=columns)) as copy,
        ):
            for block in _blocks(rows, tail):
                copy.write(block)
    return Enqueued(now, start)


def _blocks(rows: Sequence[NewRow], tail: str) -> Iterator[str]:
    """Yield the rows in COPY's text format; JSON text holds no control character to escape."""
    for first in range(0, len(rows), _BLOCK):
        text = "".join(
            [f"{id}\t{args}\t{kwargs}{tail}" for id, args, kwargs in rows[first : first + _BLOCK]]
        )
        if "\\" in text:
            text = "".join(
                [
                    f"{id}\t{_escape(args)}\t{_escape(kwargs)}{tail}"
                    for id, args, kwargs in rows[first : first + _BLOCK]
                ]
            )
        yield text


def _copy_text(value: Any) -> str:
    if value is None:
        return "\\N"
    return _escape(str(value)).replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\")


def hint(alias: str) -> None:
    """Tell listening workers to look; it says nothing else."""
    with user_cursor(alias) as cursor:
        cursor.execute(HINT)


PROBE = f"""
/* django_taskq:probe */
SELECT pg_notify('{CHANNEL}', %(payload)s)
"""


def probe(connection: Connection, payload: str) -> None:
    """Send what is no hint: a worker tries whether notifications reach it."""
    connection.execute(PROBE, {"payload": payload})
