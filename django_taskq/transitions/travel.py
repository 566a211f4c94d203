"""Move the times of waiting tasks: how tests let time pass. Nothing else uses it."""

from __future__ import annotations

from datetime import timedelta

from django_taskq.db import Connection

MOVE_TIMES = """
/* django_taskq:move_times */
UPDATE django_taskq_livetask
SET run_after = run_after + %(by)s::interval, expires_at = expires_at + %(by)s::interval
WHERE status <> 'RUNNING'
"""


def move_times(connection: Connection, by: timedelta) -> int:
    """Move the times of every task that does not run; a negative `by` makes them due earlier."""
    return connection.execute(MOVE_TIMES, {"by": by}).rowcount
