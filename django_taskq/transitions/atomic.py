"""What an `atomic` task asks on its own connection, beside the completion of `finish`."""

from __future__ import annotations

from django_taskq.db import Sender

# Sent right before the completion, which is the last statement of the transaction. Local to it: a
# process that is stopped before its COMMIT must not hold the row for long, nor wait for it long;
# and the completion is planned as on a worker's connection, through indexes (see db.py).
LIMIT_END = """
/* django_taskq:limit_end */
SELECT set_config('idle_in_transaction_session_timeout', '10s', true),
  set_config('lock_timeout', '5s', true),
  set_config('plan_cache_mode', 'force_generic_plan', true),
  set_config('enable_seqscan', 'off', true),
  set_config('enable_hashjoin', 'off', true),
  set_config('enable_mergejoin', 'off', true),
  set_config('enable_bitmapscan', 'off', true),
  set_config('jit', 'off', true)
"""


def limit_end(connection: Sender) -> None:
    """Bound how long the end of the present transaction may take."""
    connection.execute(LIMIT_END, prepare=True)


STILL_MINE = """
/* django_taskq:still_mine */
SELECT cancel_requested_at IS NOT NULL FROM django_taskq_livetask
WHERE id = %(id)s::uuid AND claim = %(claim)s::uuid
"""


def still_mine(connection: Sender, *, id: str, claim: str) -> tuple[bool, bool]:
    """Say whether a running task is still its worker's, and whether it was asked to end.

    Read after its transaction was rolled back.
    """
    row = connection.execute(STILL_MINE, {"id": id, "claim": claim}).fetchone()
    return row is not None, row is not None and bool(row[0])
