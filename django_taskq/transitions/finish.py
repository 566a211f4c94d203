"""complete, retry, snooze, fail, cancel, expire, park: what a running task can come to.

Batches of outcomes, a statement per kind. Each names its rows by id **and claim token**: a task
that was rescued meanwhile has another token, and the late outcome changes nothing. The status does
not stand in the WHERE: it would let the planner take a small partial index instead of the primary
key (measured: 69 µs a row instead of 12).

Rows are locked as the batch brings them, in no order of their own: to sort would cost every batch
something, and two that want the same rows are rare. It takes one batch twice (sent again after its
answer was lost, while the first is still at work) or somebody's own transaction, for all that
operators and sweeps send skips what is locked. Of two that wait for one another PostgreSQL ends one
within a second, and the feeder sends that again, for the rows that nobody holds (`find_held`).

Moments arrive as seconds ago, because a process knows durations and only the database tells time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from django_taskq.db import Connection, Cursor, Sender, array, quoted_array
from django_taskq.outcomes import (
    Cancelled,
    CancelledUnstarted,
    Completed,
    Expired,
    Failed,
    Parked,
    Retrying,
    Snoozed,
    Unanswered,
    Unstored,
)

# Every column that a task keeps when it ends.
KEPT = (
    "id, task, queue_name, priority, args, kwargs, run_after, enqueued_at, attempts, max_attempts, "
    "crashes, claim, worker_id, errors, progress, options, headers"
)
KEPT_OF_T = ", ".join(f"t.{column.strip()}" for column in KEPT.split(","))

# Tasks with successors finish another way, together with the release of those: NOT has_successors
# makes sure of it even when the successor was added while this statement waited.
COMPLETE = f"""
/* django_taskq:complete */
WITH mine AS (
  SELECT * FROM unnest(%(ids)s::uuid[], %(claims)s::uuid[], %(values)s::text[],
                       %(began)s::float8[], %(ended)s::float8[])
    AS m (id, claim, value, began, ended)
),
gone AS (
  DELETE FROM django_taskq_livetask AS t USING mine AS m
  WHERE t.id = m.id AND t.claim = m.claim AND NOT t.has_successors
  RETURNING {KEPT_OF_T}, m.value, m.began, m.ended
)
INSERT INTO django_taskq_finishedtask ({KEPT}, status, return_value, started_at, finished_at)
SELECT {KEPT}, 'SUCCESSFUL', value::json,
  statement_timestamp() - began * interval '1 second',
  statement_timestamp() - ended * interval '1 second'
FROM gone
"""


def complete(connection: Sender, outcomes: Sequence[Completed]) -> Cursor:
    """Store return values; the cursor's row count says how many tasks were still ours."""
    return connection.execute(COMPLETE, _ended_well(outcomes), prepare=True)


def _ended_well(outcomes: Sequence[Completed]) -> dict[str, str]:
    ids, claims, values, began, ended = map(list, zip(*outcomes, strict=True))
    now = time.monotonic()
    return {
        "ids": array(ids),
        "claims": array(claims),
        "values": quoted_array(values),
        "began": array([f"{now - moment:.6f}" for moment in began]),
        "ended": array([f"{now - moment:.6f}" for moment in ended]),
    }


# An error record gets its times from the database. Of many, the first and the last 19 are kept.
_ERROR = """
  m.error::jsonb || jsonb_build_object(
    'started_at', statement_timestamp() - m.began * interval '1 second',
    'finished_at', statement_timestamp() - m.ended * interval '1 second')
"""
_ERRORS = f"""
  CASE WHEN jsonb_array_length(t.errors) < 20 THEN t.errors ELSE t.errors - 1 END || ({_ERROR})
"""

_END = f"""
WITH mine AS (
  SELECT * FROM unnest(%(ids)s::uuid[], %(claims)s::uuid[], %(errors)s::text[],
                       %(began)s::float8[], %(ended)s::float8[])
    AS m (id, claim, error, began, ended)
),
gone AS (
  DELETE FROM django_taskq_livetask AS t USING mine AS m
  WHERE t.id = m.id AND t.claim = m.claim AND NOT t.has_successors
  RETURNING {KEPT_OF_T.replace("t.errors", f"({_ERRORS}) AS errors")}, m.began, m.ended
)
INSERT INTO django_taskq_finishedtask ({KEPT}, status, started_at, finished_at)
SELECT {KEPT}, '%(status)s',
  statement_timestamp() - began * interval '1 second',
  statement_timestamp() - ended * interval '1 second'
FROM gone
"""

FAIL = "/* django_taskq:fail */" + _END.replace("%(status)s", "FAILED")
CANCEL = "/* django_taskq:cancel */" + _END.replace("%(status)s", "CANCELLED")
# These were claimed but never started: that claim is no attempt.
_END_UNSTARTED = _END.replace("t.attempts", "t.attempts - 1 AS attempts")
EXPIRE = "/* django_taskq:expire */" + _END_UNSTARTED.replace("%(status)s", "EXPIRED")
CANCEL_UNSTARTED = "/* django_taskq:cancel_unstarted */" + _END_UNSTARTED.replace(
    "%(status)s", "CANCELLED"
)


def fail(connection: Connection, outcomes: Sequence[Failed]) -> Cursor:
    """End tasks whose last attempt failed."""
    return connection.execute(FAIL, _ended_badly(outcomes))


def cancel(connection: Connection, outcomes: Sequence[Cancelled]) -> Cursor:
    """End tasks that raised Cancel."""
    return connection.execute(CANCEL, _ended_badly(outcomes))


def expire(connection: Connection, outcomes: Sequence[Expired]) -> Cursor:
    """End tasks that were claimed too late."""
    return connection.execute(EXPIRE, _ended_badly(outcomes))


def cancel_unstarted(connection: Connection, outcomes: Sequence[CancelledUnstarted]) -> Cursor:
    """End tasks that were to be cancelled and came back to their queue first."""
    return connection.execute(CANCEL_UNSTARTED, _ended_badly(outcomes))


def _ended_badly(
    outcomes: Sequence[Failed | Cancelled | CancelledUnstarted | Expired | Retrying],
) -> dict[str, str]:
    now = time.monotonic()
    return {
        **_mine(outcomes),
        "errors": quoted_array([outcome.error for outcome in outcomes]),
        "began": array([f"{now - outcome.began:.6f}" for outcome in outcomes]),
        "ended": array([f"{now - outcome.ended:.6f}" for outcome in outcomes]),
    }


def _mine(outcomes: Sequence[Unstored]) -> dict[str, str]:
    """Return what names rows: their ids, and the claims under which they are ours."""
    return {
        "ids": array([outcome.id for outcome in outcomes]),
        "claims": array([outcome.claim for outcome in outcomes]),
    }


# What was asked to end while it ran is claimed again at once, and ends there.
_DELAY = "CASE WHEN t.cancel_requested_at IS NULL THEN m.delay ELSE 0 END"

RETRY = f"""
/* django_taskq:retry */
UPDATE django_taskq_livetask AS t
SET status = 'READY', claim = NULL, worker_id = NULL, started_at = NULL, progress = NULL,
    run_after = statement_timestamp() + {_DELAY} * interval '1 second',
    errors = {_ERRORS}
FROM unnest(%(ids)s::uuid[], %(claims)s::uuid[], %(errors)s::text[],
            %(began)s::float8[], %(ended)s::float8[], %(delays)s::float8[])
  AS m (id, claim, error, began, ended, delay)
WHERE t.id = m.id AND t.claim = m.claim
"""


def retry(connection: Connection, outcomes: Sequence[Retrying]) -> Cursor:
    """Let failed tasks wait for their next attempt."""
    delays = array([f"{outcome.delay:.6f}" for outcome in outcomes])
    return connection.execute(RETRY, {**_ended_badly(outcomes), "delays": delays})


SNOOZE = f"""
/* django_taskq:snooze */
UPDATE django_taskq_livetask AS t
SET status = 'READY', claim = NULL, worker_id = NULL, started_at = NULL,
    run_after = statement_timestamp() + {_DELAY} * interval '1 second',
    attempts = t.attempts - 1
FROM unnest(%(ids)s::uuid[], %(claims)s::uuid[], %(delays)s::float8[]) AS m (id, claim, delay)
WHERE t.id = m.id AND t.claim = m.claim
"""


def snooze(connection: Connection, outcomes: Sequence[Snoozed]) -> Cursor:
    """Let tasks wait on their own word, with the attempt returned."""
    delays = array([f"{outcome.delay:.6f}" for outcome in outcomes])
    return connection.execute(SNOOZE, {**_mine(outcomes), "delays": delays})


# For an atomic task whose COMMIT was not answered. If it has committed, there is no such row any
# more. The lost connection's transaction may still be open: it holds the row, and this waits.
RUN_AGAIN = """
/* django_taskq:run_again */
UPDATE django_taskq_livetask AS t
SET status = 'READY', claim = NULL, worker_id = NULL, started_at = NULL, progress = NULL,
    attempts = t.attempts - 1
FROM unnest(%(ids)s::uuid[], %(claims)s::uuid[]) AS m (id, claim)
WHERE t.id = m.id AND t.claim = m.claim
"""


def run_again(connection: Connection, outcomes: Sequence[Unanswered]) -> Cursor:
    """Let tasks run again that have not committed after all, with the attempt returned."""
    return connection.execute(RUN_AGAIN, _mine(outcomes))


PARK = """
/* django_taskq:park */
UPDATE django_taskq_livetask AS t
SET status = 'HELD', held_for = m.held_for,
    claim = NULL, worker_id = NULL, started_at = NULL, attempts = t.attempts - 1
FROM unnest(%(ids)s::uuid[], %(claims)s::uuid[], %(held_for)s::text[]) AS m (id, claim, held_for)
WHERE t.id = m.id AND t.claim = m.claim
"""


def park(connection: Connection, outcomes: Sequence[Parked]) -> Cursor:
    """Put tasks aside that may not run here, with the attempt returned."""
    held_for = quoted_array([outcome.held_for for outcome in outcomes])
    return connection.execute(PARK, {**_mine(outcomes), "held_for": held_for})


REPORT_PROGRESS = """
/* django_taskq:progress */
UPDATE django_taskq_livetask AS t
SET progress = m.progress::jsonb
FROM unnest(%(ids)s::uuid[], %(claims)s::uuid[], %(progress)s::text[]) AS m (id, claim, progress)
WHERE t.id = m.id AND t.claim = m.claim
"""


def report_progress(connection: Sender, reports: Sequence[tuple[str, str, str]]) -> Cursor:
    """Store how far running tasks are: (id, claim, JSON text) each."""
    ids, claims, texts = map(list, zip(*reports, strict=True))
    return connection.execute(
        REPORT_PROGRESS,
        {"ids": array(ids), "claims": array(claims), "progress": quoted_array(texts)},
    )


# A row that stands in FinishedTask already (its id was enqueued twice by somebody who re-sent, or
# came back from a backup): the last outcome wins. Only sent for one task at a time, after the
# ordinary statement had failed.
COMPLETE_ANYWAY = (
    COMPLETE.replace("django_taskq:complete", "django_taskq:complete_anyway").rstrip()
    + """
ON CONFLICT (id) DO UPDATE SET
  status = excluded.status, return_value = excluded.return_value, errors = excluded.errors,
  attempts = excluded.attempts, claim = excluded.claim, worker_id = excluded.worker_id,
  started_at = excluded.started_at, finished_at = excluded.finished_at
"""
)

# The same for a task that ends without a value. At the end of a process, where nobody would send it
# again, it stands in the ordinary statement. (Not at an operator's word: he may not UPDATE here.)
OVER_ANOTHER = """
ON CONFLICT (id) DO UPDATE SET
  status = excluded.status, return_value = NULL, errors = excluded.errors,
  attempts = excluded.attempts, crashes = excluded.crashes, claim = excluded.claim,
  worker_id = excluded.worker_id, started_at = excluded.started_at,
  finished_at = excluded.finished_at
"""

FAIL_ANYWAY = FAIL.replace("django_taskq:fail", "django_taskq:fail_anyway").rstrip() + OVER_ANOTHER


def complete_anyway(connection: Sender, outcome: Completed) -> Cursor:
    """Store one return value, over a finished row with the same id if there is one."""
    return connection.execute(COMPLETE_ANYWAY, _ended_well([outcome]))


def fail_anyway(connection: Connection, outcome: Failed) -> Cursor:
    """End one task as FAILED, over a finished row with the same id if there is one."""
    return connection.execute(FAIL_ANYWAY, _ended_badly([outcome]))


CONFIRM = """
/* django_taskq:confirm */
SELECT f.id FROM django_taskq_finishedtask AS f
JOIN unnest(%(ids)s::uuid[], %(claims)s::uuid[]) AS m (id, claim)
  ON f.id = m.id AND f.claim = m.claim
"""


def confirm(connection: Connection, sent: Sequence[tuple[str, str]]) -> set[str]:
    """Return which of these (id, claim) pairs have finished under this very claim.

    An outcome that matched nothing may be ours all the same: its answer was lost and it was sent
    again.
    """
    if not sent:
        return set()
    ids, claims = map(list, zip(*sent, strict=True))
    cursor = connection.execute(CONFIRM, {"ids": array(ids), "claims": array(claims)})
    return {row[0] for row in cursor.fetchall()}


# Of these, which are still ours and held by somebody else? It locks the others, so that whatever is
# sent behind it in the same transaction need not wait.
FIND_HELD = """
/* django_taskq:find_held */
WITH mine AS MATERIALIZED (
  SELECT * FROM unnest(%(ids)s::uuid[], %(claims)s::uuid[]) AS m (id, claim)
),
free AS MATERIALIZED (
  SELECT found.id
  FROM (SELECT id, claim FROM mine ORDER BY id) AS m
  CROSS JOIN LATERAL (
    SELECT t.id FROM django_taskq_livetask AS t
    WHERE t.id = m.id AND t.claim = m.claim
    LIMIT 1
    FOR UPDATE SKIP LOCKED
  ) AS found
)
SELECT m.id FROM mine AS m
WHERE m.id <> ALL (ARRAY(SELECT id FROM free))
  AND EXISTS (
    SELECT FROM django_taskq_livetask AS t WHERE t.id = m.id AND t.claim = m.claim OFFSET 0)
"""


def find_held(connection: Connection, pairs: Sequence[tuple[str, str]]) -> set[str]:
    """Lock these tasks, by (id, claim); return the ids of those that somebody else has locked."""
    ids, claims = map(list, zip(*pairs, strict=True))
    cursor = connection.execute(FIND_HELD, {"ids": array(ids), "claims": array(claims)})
    return {row[0] for row in cursor.fetchall()}
