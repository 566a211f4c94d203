"""give back and rescue: what happens to tasks whose process cannot, or can no longer, run them."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import NamedTuple

from django_taskq.db import Connection, array, quoted_array
from django_taskq.transitions.finish import OVER_ANOTHER

# What a process held is taken from it by statements that wait for locks and have no LIMIT, unlike
# those of a sweep, below, which skip what is locked and take 1,000 rows at a time:
#
# - Whoever holds such a row decides what becomes of it: an atomic task of that process, about to
#   commit, or the last batch of its feeder. Behind him it is gone, or taken here. What was skipped
#   would be left to a sweep, which does not know any more what had started: it blames every task,
#   and ends those of at_most_once. A wait ends after lock_timeout, 1 s; the supervisor then beats
#   and ticks, and tries again after 2 s (worker/aftermath.py).
# - A process holds what its executors run, at most 499 more that are to start (worker/prefetch.py),
#   outcomes on their way, and what a claim brought whose answer was lost: more than 1,000 rows only
#   where it runs hundreds of tasks at once. They are its own, and nobody waits for them but an
#   operator who asks one of them to end; requests for many skip what is locked.
# - What ends for a crash and what goes back is one transaction. If it came in parts, and the
#   supervisor died between two of them, the rest would be left to a sweep, too.

# One statement for many causes: a stop, a dead child, a claim whose answer was lost. Whoever sends
# it knows that nobody claims for this worker meanwhile: it is the worker itself, or it is dead.
# The caller says what is kept; everything else that this worker holds goes back, its attempt
# returned, and first in line again (run_after stays).
# Kept by id and not by claim: of one claim some may be kept and others not. A task that was taken
# from a child and came to it again by a claim whose answer was lost is kept too, while its id is in
# hand under the earlier claim. That ends with what runs before it, and the child looks again.
GIVE_BACK = """
/* django_taskq:give_back */
WITH mine AS MATERIALIZED (
  SELECT id, claim FROM django_taskq_livetask
  WHERE worker_id = %(worker)s::uuid AND id <> ALL (%(kept)s::uuid[])
  ORDER BY id
  FOR NO KEY UPDATE
)
UPDATE django_taskq_livetask AS t
SET status = 'READY', claim = NULL, worker_id = NULL, started_at = NULL,
    attempts = t.attempts - 1
FROM mine
WHERE t.id = mine.id AND t.claim = mine.claim
RETURNING t.id
"""


def give_back(connection: Connection, worker_id: str, *, kept: Sequence[str]) -> int:
    """Return a worker's claimed tasks to their queues, but for the `kept` ids; say how many."""
    cursor = connection.execute(GIVE_BACK, {"worker": worker_id, "kept": array(list(kept))})
    return cursor.rowcount


# For a living child that cannot speak for itself, or is too busy to. What it claims meanwhile has
# other tokens and is not touched.
GIVE_BACK_UNSTARTED = """
/* django_taskq:give_back_unstarted */
WITH mine AS MATERIALIZED (
  SELECT id, claim FROM django_taskq_livetask
  WHERE worker_id = %(worker)s::uuid AND claim = ANY (%(claims)s::uuid[])
    AND id <> ALL (%(kept)s::uuid[])
  ORDER BY id
  FOR NO KEY UPDATE
)
UPDATE django_taskq_livetask AS t
SET status = 'READY', claim = NULL, worker_id = NULL, started_at = NULL,
    attempts = t.attempts - 1
FROM mine
WHERE t.id = mine.id AND t.claim = mine.claim
RETURNING t.id
"""


def give_back_unstarted(
    connection: Connection, worker_id: str, *, claims: Collection[str], kept: Collection[str]
) -> int:
    """Return what a worker holds by these claims to the queues, but for the `kept` ids."""
    parameters = {
        "worker": worker_id,
        "claims": array(list(claims)),
        "kept": array(list(kept)),
    }
    return connection.execute(GIVE_BACK_UNSTARTED, parameters).rowcount


# Until here `started_at` is the time of the claim. The process that was to tell the database when
# the function began, with the outcome, is dead; its supervisor knows.
NOTE_START = """
/* django_taskq:note_start */
UPDATE django_taskq_livetask AS t
SET started_at = statement_timestamp() - m.ago * interval '1 second'
FROM unnest(%(ids)s::uuid[], %(ago)s::float8[]) AS m (id, ago)
WHERE t.id = m.id AND t.worker_id = %(worker)s::uuid
"""


def note_start(connection: Connection, worker_id: str, starts: Sequence[tuple[str, float]]) -> int:
    """Note when tasks began that ran when their process died: (id, reading of our clock) each."""
    if not starts:
        return 0
    now = time.monotonic()
    parameters = {
        "worker": worker_id,
        "ids": array([id for id, _ in starts]),
        "ago": array([f"{now - began:.6f}" for _, began in starts]),
    }
    return connection.execute(NOTE_START, parameters).rowcount


# Their process died while they ran, for the third time.
CONDEMN = f"""
/* django_taskq:condemn */
WITH gone AS (
  DELETE FROM django_taskq_livetask AS t
  WHERE t.id = ANY (%(ids)s::uuid[]) AND t.worker_id = %(worker)s::uuid
    AND t.crashes + 1 >= %(limit)s
    AND NOT t.has_successors
  RETURNING t.*
)
INSERT INTO django_taskq_finishedtask (
  id, task, queue_name, priority, args, kwargs, run_after, enqueued_at, attempts, max_attempts,
  crashes, claim, worker_id, errors, progress, options, headers, status, started_at,
  finished_at)
SELECT id, task, queue_name, priority, args, kwargs, run_after, enqueued_at, attempts - 1,
  max_attempts, crashes + 1, claim, worker_id,
  CASE WHEN jsonb_array_length(errors) < 20 THEN errors ELSE errors - 1 END
    || (%(error)s::jsonb || jsonb_build_object(
         'started_at', started_at, 'finished_at', statement_timestamp())),
  progress, options, headers, 'FAILED', started_at, statement_timestamp()
FROM gone
{OVER_ANOTHER}"""

# What is started at most once ends with its process, whether it ran then or was done and could not
# say so. Which tasks these are is code, and no column: their names are passed.
CONDEMN_ONCE = f"""
/* django_taskq:condemn_once */
WITH gone AS (
  DELETE FROM django_taskq_livetask AS t
  WHERE t.worker_id = %(worker)s::uuid AND t.task = ANY (%(once)s::text[])
    AND NOT t.has_successors
  RETURNING t.*
)
INSERT INTO django_taskq_finishedtask (
  id, task, queue_name, priority, args, kwargs, run_after, enqueued_at, attempts, max_attempts,
  crashes, claim, worker_id, errors, progress, options, headers, status, started_at,
  finished_at)
SELECT id, task, queue_name, priority, args, kwargs, run_after, enqueued_at, attempts, max_attempts,
  crashes + (id = ANY (%(ids)s::uuid[]))::int, claim, worker_id,
  CASE WHEN jsonb_array_length(errors) < 20 THEN errors ELSE errors - 1 END
    || (CASE WHEN id = ANY (%(running)s::uuid[]) THEN %(error)s::jsonb ELSE %(unsent)s::jsonb END
        || jsonb_build_object('started_at', started_at, 'finished_at', statement_timestamp())),
  progress, options, headers, 'FAILED', started_at, statement_timestamp()
FROM gone
{OVER_ANOTHER}"""


class Once(NamedTuple):
    """What `at_most_once` tasks of a dead process come to."""

    # The names under which rows hold such tasks.
    names: Sequence[str]
    # Those that ran, blamed or not: their error; and that of those which were done.
    running: Sequence[str]
    error: str
    unsent: str


# Everything that a dead process still held and had started. Only what ran when it died may be to
# blame; what ran before was done and could not say so, and runs again.
RESCUE = """
/* django_taskq:rescue */
WITH mine AS MATERIALIZED (
  SELECT id, claim FROM django_taskq_livetask
  WHERE worker_id = %(worker)s::uuid
  ORDER BY id
  FOR NO KEY UPDATE
)
UPDATE django_taskq_livetask AS t
SET status = 'READY', claim = NULL, worker_id = NULL, started_at = NULL, progress = NULL,
    attempts = t.attempts - 1,
    crashes = t.crashes + (t.id = ANY (%(ids)s::uuid[]))::int,
    errors = CASE WHEN t.id = ANY (%(ids)s::uuid[])
      THEN CASE WHEN jsonb_array_length(t.errors) < 20 THEN t.errors ELSE t.errors - 1 END
        || (%(error)s::jsonb || jsonb_build_object(
             'started_at', t.started_at, 'finished_at', statement_timestamp()))
      ELSE t.errors END
FROM mine
WHERE t.id = mine.id AND t.claim = mine.claim
RETURNING t.id
"""

# The second crash makes a task a suspect that runs alone; this one ends it.
MAX_CRASHES = 3


def rescue(
    connection: Connection,
    worker_id: str,
    *,
    running: Sequence[str],
    error: str,
    once: Once | None = None,
) -> int:
    """Take the started tasks of a dead process back; `running` names those that it died in.

    `error` is the record of the crash, as JSON text. Those of `once` end instead. Return how many
    tasks were moved.
    """
    parameters = {"worker": worker_id, "ids": array(list(running)), "error": error}
    moved = 0
    with connection.transaction():
        if once is not None and once.names:
            ended = {
                "once": quoted_array(list(once.names)),
                "running": array(list(once.running)),
                "error": once.error,
                "unsent": once.unsent,
            }
            moved += connection.execute(CONDEMN_ONCE, {**parameters, **ended}).rowcount
        moved += connection.execute(CONDEMN, {**parameters, "limit": MAX_CRASHES}).rowcount
        moved += connection.execute(RESCUE, parameters).rowcount
    return moved


# From one process that holds tasks to the next, by one descent each, however many it holds.
FIND_ORPHANED = """
/* django_taskq:find_orphaned */
WITH RECURSIVE holder AS (
  (SELECT worker_id FROM django_taskq_livetask
   WHERE worker_id IS NOT NULL ORDER BY worker_id LIMIT 1)
  UNION ALL
  SELECT next.worker_id FROM holder CROSS JOIN LATERAL (
    SELECT t.worker_id FROM django_taskq_livetask AS t
    WHERE t.worker_id > holder.worker_id ORDER BY t.worker_id LIMIT 1) AS next
)
SELECT holder.worker_id FROM holder
WHERE NOT EXISTS (SELECT FROM django_taskq_worker AS w WHERE w.id = holder.worker_id)
"""


def find_orphaned(connection: Connection) -> list[str]:
    """Return the ids under which tasks run although no such process is listed."""
    return [row[0] for row in connection.execute(FIND_ORPHANED, prepare=True).fetchall()]


# The most tasks of a lost process that one statement moves.
SWEEP_MOST = 1000

# The arrows of a sweep. The process and all who knew what it had started are gone: whatever it held
# may have been started, and may be to blame. Only names that this process knows are moved: code
# says which tasks are started at most once. Whoever holds a lock on a row ends the task just now.
CONDEMN_ORPHANS = f"""
/* django_taskq:condemn_orphans */
WITH lost AS MATERIALIZED (
  SELECT t.id, t.claim FROM django_taskq_livetask AS t
  WHERE t.worker_id = %(worker)s::uuid
    AND t.task = ANY (%(known)s::text[])
    AND (t.crashes + 1 >= %(limit)s OR t.task = ANY (%(once)s::text[]))
    AND NOT t.has_successors
    AND NOT EXISTS (SELECT FROM django_taskq_worker AS w WHERE w.id = t.worker_id)
  ORDER BY t.id LIMIT {SWEEP_MOST}
  FOR NO KEY UPDATE OF t SKIP LOCKED
),
gone AS (
  DELETE FROM django_taskq_livetask AS t USING lost
  WHERE t.id = lost.id AND t.claim = lost.claim
  RETURNING t.*, t.task = ANY (%(once)s::text[]) AS is_once
)
INSERT INTO django_taskq_finishedtask (
  id, task, queue_name, priority, args, kwargs, run_after, enqueued_at, attempts, max_attempts,
  crashes, claim, worker_id, errors, progress, options, headers, status, started_at,
  finished_at)
SELECT id, task, queue_name, priority, args, kwargs, run_after, enqueued_at,
  attempts - (NOT is_once)::int, max_attempts, crashes + 1, claim, worker_id,
  CASE WHEN jsonb_array_length(errors) < 20 THEN errors ELSE errors - 1 END
    || (CASE WHEN is_once THEN %(once_error)s::jsonb ELSE %(error)s::jsonb END
        || jsonb_build_object('started_at', started_at, 'finished_at', statement_timestamp())),
  progress, options, headers, 'FAILED', started_at, statement_timestamp()
FROM gone
ON CONFLICT (id) DO NOTHING
RETURNING id
"""

RESCUE_ORPHANS = f"""
/* django_taskq:rescue_orphans */
WITH lost AS MATERIALIZED (
  SELECT t.id, t.claim FROM django_taskq_livetask AS t
  WHERE t.worker_id = %(worker)s::uuid
    AND t.task = ANY (%(known)s::text[])
    AND t.task <> ALL (%(once)s::text[])
    AND (t.crashes + 1 < %(limit)s OR t.has_successors)
    AND NOT EXISTS (SELECT FROM django_taskq_worker AS w WHERE w.id = t.worker_id)
  ORDER BY t.id LIMIT {SWEEP_MOST}
  FOR NO KEY UPDATE OF t SKIP LOCKED
)
UPDATE django_taskq_livetask AS t
SET status = 'READY', claim = NULL, worker_id = NULL, started_at = NULL, progress = NULL,
    attempts = t.attempts - 1, crashes = t.crashes + 1,
    errors = CASE WHEN jsonb_array_length(t.errors) < 20 THEN t.errors ELSE t.errors - 1 END
      || (%(error)s::jsonb || jsonb_build_object(
           'started_at', t.started_at, 'finished_at', statement_timestamp()))
FROM lost
WHERE t.id = lost.id AND t.claim = lost.claim
RETURNING t.id
"""


class Swept(NamedTuple):
    """The ids of the tasks that a sweep has moved."""

    rescued: list[str]
    failed: list[str]

    @property
    def may_be_more(self) -> bool:
        """Say whether a statement has moved as many as it may."""
        return max(map(len, self)) >= SWEEP_MOST


def sweep(
    connection: Connection,
    worker_id: str,
    *,
    known: Sequence[str],
    once: Sequence[str],
    error: str,
    once_error: str,
) -> Swept:
    """Take back what a process holds that is not listed any more.

    `known` are the names of tasks that may be moved, `once` those of them that are started at most
    once; the errors are the records of the crash, as JSON text. At most 1,000 go either way.
    """
    parameters = {
        "worker": worker_id,
        "known": quoted_array(list(known)),
        "once": quoted_array(list(once)),
        "limit": MAX_CRASHES,
        "error": error,
    }
    failed = connection.execute(CONDEMN_ORPHANS, {**parameters, "once_error": once_error})
    rescued = connection.execute(RESCUE_ORPHANS, parameters)
    return Swept(
        rescued=[row[0] for row in rescued.fetchall()], failed=[row[0] for row in failed.fetchall()]
    )


READ_RUNNING = """
/* django_taskq:read_running */
SELECT task, queue_name, claim, attempts, max_attempts, options,
  extract(epoch FROM statement_timestamp() - started_at)::float8
FROM django_taskq_livetask
WHERE id = %(id)s::uuid AND worker_id = %(worker)s::uuid
"""


class Overdue(NamedTuple):
    """A task that ran when its process was killed for the hard time limit."""

    id: str
    task: str
    queue_name: str
    claim: str
    attempts: int
    max_attempts: int | None
    options: str | None
    # Readings of this process's monotonic clock.
    began: float
    ended: float


def read_running(connection: Connection, worker_id: str, task_id: str) -> Overdue | None:
    """Read a task that a killed process ran, unless it has ended in time after all."""
    cursor = connection.execute(READ_RUNNING, {"id": task_id, "worker": worker_id})
    row = cursor.fetchone()
    if row is None:
        return None
    now = time.monotonic()
    *columns, seconds = row
    return Overdue._make([task_id, *columns, now - seconds, now])
