"""expire: what was to start by a certain time, and waits although that has passed."""

from __future__ import annotations

from django_taskq.db import Connection
from django_taskq.transitions.finish import KEPT, OVER_ANOTHER

# A transaction ends no more tasks than this.
MOST = 1000

_WITH_ERROR = """
  CASE WHEN jsonb_array_length(errors) < 20 THEN errors ELSE errors - 1 END
    || (%(error)s::jsonb || jsonb_build_object(
         'attempt', attempts, 'finished_at', statement_timestamp()))
"""
_KEPT_WITH_ERROR = KEPT.replace("errors", _WITH_ERROR)

# Oldest first, along their index. What somebody has locked is about to be claimed, or cancelled. It
# has had no claim, so nothing of an attempt is returned.
EXPIRE_WAITING = f"""
/* django_taskq:expire_waiting */
WITH late AS MATERIALIZED (
  SELECT id FROM django_taskq_livetask
  WHERE expires_at <= statement_timestamp() AND status <> 'RUNNING' AND NOT has_successors
  ORDER BY expires_at
  LIMIT {MOST}
  FOR UPDATE SKIP LOCKED
),
gone AS (
  DELETE FROM django_taskq_livetask
  WHERE id = ANY (ARRAY(SELECT id FROM late))
  RETURNING *
)
INSERT INTO django_taskq_finishedtask ({KEPT}, status, finished_at)
SELECT {_KEPT_WITH_ERROR}, 'EXPIRED', statement_timestamp()
FROM gone
{OVER_ANOTHER}
"""


def expire_waiting(connection: Connection, *, error: str) -> int:
    """End tasks that expired while they waited, at most MOST; say how many."""
    return connection.execute(EXPIRE_WAITING, {"error": error}).rowcount
