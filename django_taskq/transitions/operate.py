"""cancel, requeue and resume: what people and the framework do to tasks that do not run."""

from __future__ import annotations

from collections.abc import Sequence

from django_taskq.db import Connection, tried_again, user_cursor

# More characters than the name of a task may have.
_LONGEST_NAME = 200

# As in all that operators send, what cannot be inserted (a finished task has its id, by whatever
# mistake) is not deleted either: it stays, and the others of its batch go on.
CANCEL_WAITING = """
/* django_taskq:cancel_waiting */
WITH mine AS MATERIALIZED (
  SELECT t.* FROM django_taskq_livetask AS t
  WHERE t.id = %(id)s::uuid AND t.status IN ('READY', 'HELD') AND NOT t.has_successors
  FOR UPDATE
),
ended AS (
  INSERT INTO django_taskq_finishedtask (
    id, task, queue_name, priority, args, kwargs, run_after, enqueued_at, attempts, max_attempts,
    crashes, errors, progress, options, headers, status, finished_at)
  SELECT id, task, queue_name, priority, args, kwargs, run_after, enqueued_at, attempts,
    max_attempts, crashes,
    CASE WHEN jsonb_array_length(errors) < 20 THEN errors ELSE errors - 1 END
      || (%(error)s::jsonb || jsonb_build_object('finished_at', statement_timestamp())),
    progress, options, headers, 'CANCELLED', statement_timestamp()
  FROM mine
  ON CONFLICT DO NOTHING
  RETURNING id
)
DELETE FROM django_taskq_livetask
WHERE id = ANY (ARRAY(SELECT id FROM ended))
RETURNING id
"""


@tried_again
def cancel_waiting(alias: str, task_id: str, *, error: str) -> bool:
    """End a task that waits, in the caller's transaction; say whether there was one to end."""
    with user_cursor(alias) as cursor:
        cursor.execute(CANCEL_WAITING, {"id": task_id, "error": error})
        return cursor.fetchone() is not None


# A running task is not touched: it is asked to end. Its worker sees that within a second, and tells
# it; a claim that comes later ends it instead of starting it again.
REQUEST_CANCEL = """
/* django_taskq:request_cancel */
UPDATE django_taskq_livetask AS t
SET cancel_requested_at = coalesce(t.cancel_requested_at, statement_timestamp())
WHERE t.id = %(id)s::uuid AND t.status = 'RUNNING'
RETURNING t.id
"""


@tried_again
def request_cancel(alias: str, task_id: str) -> bool:
    """Ask a running task to end, in the caller's transaction; say whether there was one to ask."""
    with user_cursor(alias) as cursor:
        cursor.execute(REQUEST_CANCEL, {"id": task_id})
        return cursor.fetchone() is not None


# What the bulk statements take at a time: a transaction that holds more locks would be in the way.
BULK_LIMIT = 1000

# Rows that somebody else holds (a claim, another operator) are left to him, not waited for. They
# are looked up one by one: asked for 1,000 ids at once, a planner without statistics reads the
# whole table.
CANCEL_MANY = """
/* django_taskq:cancel_many */
WITH mine AS MATERIALIZED (
  SELECT found.*
  FROM (SELECT unnest(%(ids)s::uuid[]) AS id ORDER BY id) AS asked
  CROSS JOIN LATERAL (
    SELECT t.* FROM django_taskq_livetask AS t
    WHERE t.id = asked.id AND t.status IN ('READY', 'HELD') AND NOT t.has_successors
    LIMIT 1
    FOR UPDATE SKIP LOCKED
  ) AS found
),
ended AS (
  INSERT INTO django_taskq_finishedtask (
    id, task, queue_name, priority, args, kwargs, run_after, enqueued_at, attempts, max_attempts,
    crashes, errors, progress, options, headers, status, finished_at)
  SELECT id, task, queue_name, priority, args, kwargs, run_after, enqueued_at, attempts,
    max_attempts, crashes,
    CASE WHEN jsonb_array_length(errors) < 20 THEN errors ELSE errors - 1 END
      || (%(error)s::jsonb || jsonb_build_object(
           'attempt', attempts, 'finished_at', statement_timestamp())),
    progress, options, headers, 'CANCELLED', statement_timestamp()
  FROM mine
  ON CONFLICT DO NOTHING
  RETURNING id
)
DELETE FROM django_taskq_livetask
WHERE id = ANY (ARRAY(SELECT id FROM ended))
RETURNING id::text
"""


@tried_again
def cancel_many(alias: str, ids: Sequence[str], *, error: str) -> set[str]:
    """End tasks that wait, at most BULK_LIMIT, in the caller's transaction; return which."""
    with user_cursor(alias) as cursor:
        cursor.execute(CANCEL_MANY, {"ids": list(ids), "error": error})
        return {row[0] for row in cursor.fetchall()}


REQUEST_CANCEL_MANY = """
/* django_taskq:request_cancel_many */
WITH mine AS MATERIALIZED (
  SELECT found.id
  FROM (SELECT unnest(%(ids)s::uuid[]) AS id ORDER BY id) AS asked
  CROSS JOIN LATERAL (
    SELECT t.id FROM django_taskq_livetask AS t
    WHERE t.id = asked.id AND t.status || '' = 'RUNNING'
    LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED
  ) AS found
)
UPDATE django_taskq_livetask AS t
SET cancel_requested_at = coalesce(t.cancel_requested_at, statement_timestamp())
WHERE t.id = ANY (ARRAY(SELECT id FROM mine))
RETURNING t.id::text
"""


@tried_again
def request_cancel_many(alias: str, ids: Sequence[str]) -> set[str]:
    """Ask running tasks to end, at most BULK_LIMIT, in the caller's transaction; return which."""
    with user_cursor(alias) as cursor:
        cursor.execute(REQUEST_CANCEL_MANY, {"ids": list(ids)})
        return {row[0] for row in cursor.fetchall()}


# Back under the same id. What could not be inserted (its place is taken) is not deleted either, so
# a task stands in one table, whatever meets here. The status is an expression so that it cannot
# lead into the index of what ended badly. Past errors stay; attempts and crashes are counted anew.
REQUEUE = """
/* django_taskq:requeue */
WITH mine AS MATERIALIZED (
  SELECT found.*
  FROM (SELECT unnest(%(ids)s::uuid[]) AS id ORDER BY id) AS asked
  CROSS JOIN LATERAL (
    SELECT t.* FROM django_taskq_finishedtask AS t
    WHERE t.id = asked.id AND t.status || '' = ANY (%(statuses)s::text[])
    LIMIT 1
    FOR UPDATE SKIP LOCKED
  ) AS found
),
back AS (
  INSERT INTO django_taskq_livetask (
    id, task, queue_name, priority, args, kwargs, run_after, enqueued_at, max_attempts, errors,
    options, headers)
  SELECT id, task, queue_name, priority, args, kwargs,
    greatest(run_after, statement_timestamp()), enqueued_at, max_attempts, errors, options,
    headers
  FROM mine
  ON CONFLICT DO NOTHING
  RETURNING id
)
DELETE FROM django_taskq_finishedtask
WHERE id = ANY (ARRAY(SELECT id FROM back))
RETURNING id::text
"""


@tried_again
def requeue(alias: str, ids: Sequence[str], *, statuses: Sequence[str]) -> set[str]:
    """Put finished tasks of these statuses back into their queues, in the caller's transaction.

    Takes at most BULK_LIMIT ids; return which of them were moved.
    """
    with user_cursor(alias) as cursor:
        cursor.execute(REQUEUE, {"ids": list(ids), "statuses": list(statuses)})
        return {row[0] for row in cursor.fetchall()}


# A worker that knows these names has come. What waited goes on from now: not before tasks that
# became due meanwhile, and not below the floors that claims start from.
RESUME = """
/* django_taskq:resume */
WITH known AS MATERIALIZED (
  SELECT id FROM django_taskq_livetask
  WHERE status = 'HELD' AND held_for = ANY (%(held_for)s::text[])
  ORDER BY id
  LIMIT 1000
  FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE django_taskq_livetask AS t
SET status = 'READY', held_for = NULL,
    run_after = greatest(t.run_after, statement_timestamp())
FROM known
WHERE t.id = known.id
"""


def resume_known(connection: Connection, names: Sequence[str]) -> int:
    """Put tasks back that were parked because no worker knew their name; at most 1,000."""
    held_for = [held_for_unknown(name) for name in names]
    return connection.execute(RESUME, {"held_for": held_for}).rowcount


def held_for_unknown(name: str) -> str:
    """Return what `held_for` says of a task with an unknown name.

    It is indexed. A name that is longer than any task's can never be known, and is cut.
    """
    return f"unknown:{name[:_LONGEST_NAME]}"
