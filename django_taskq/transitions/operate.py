"""cancel and resume: what people and the framework do to tasks that wait."""

from __future__ import annotations

from collections.abc import Sequence

from django_taskq.db import Connection, user_cursor

CANCEL_WAITING = """
/* django_taskq:cancel_waiting */
WITH gone AS (
  DELETE FROM django_taskq_livetask AS t
  WHERE t.id = %(id)s::uuid AND t.status IN ('READY', 'HELD') AND NOT t.has_successors
  RETURNING t.*
)
INSERT INTO django_taskq_finishedtask (
  id, task, queue_name, priority, args, kwargs, run_after, enqueued_at, attempts, max_attempts,
  crashes, errors, progress, options, headers, status, finished_at)
SELECT id, task, queue_name, priority, args, kwargs, run_after, enqueued_at, attempts, max_attempts,
  crashes,
  CASE WHEN jsonb_array_length(errors) < 20 THEN errors ELSE errors - 1 END
    || (%(error)s::jsonb || jsonb_build_object('finished_at', statement_timestamp())),
  progress, options, headers, 'CANCELLED', statement_timestamp()
FROM gone
RETURNING id
"""


def cancel_waiting(alias: str, task_id: str, *, error: str) -> bool:
    """End a task that waits, in the caller's transaction; say whether there was one to end."""
    with user_cursor(alias) as cursor:
        cursor.execute(CANCEL_WAITING, {"id": task_id, "error": error})
        return cursor.fetchone() is not None


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
    """Return what `held_for` says of a task with an unknown name."""
    return f"unknown:{name}"
