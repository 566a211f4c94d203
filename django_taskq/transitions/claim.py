"""claim: READY -> RUNNING, lane by lane.

A lane is one (queue, priority) pair with READY rows. A process finds the lanes now and then, keeps
those that it may serve in its order of preference, and claims along them.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from django_taskq.db import Connection, Cursor, array, quoted_array


class Lane(NamedTuple):
    """A queue and a priority: the unit in which workers claim."""

    queue_name: str
    priority: int


class Claimed(NamedTuple):
    """A claimed row. Times are texts in UTC and JSON is undecoded: few tasks need them."""

    id: str
    task: str
    queue_name: str
    priority: int
    args: str
    kwargs: str
    run_after: str
    enqueued_at: str
    attempts: int
    max_attempts: int | None
    is_expired: bool
    # Somebody asked it to end while it ran, and then it did not end.
    is_cancelled: bool
    options: str | None
    headers: str | None
    # Records of earlier attempts, where there were any.
    errors: str | None
    claim: str


# A loose index scan: from lane to lane by one descent each, whatever the lanes hold. Each brings
# the head of its lane along, in the index's order, which mostly tells whether something is due.
LANES = """
  (SELECT queue_name, priority, run_after, crashes FROM django_taskq_livetask
   WHERE status = 'READY'
   ORDER BY queue_name, priority DESC, run_after LIMIT 1)
  UNION ALL
  SELECT next.queue_name, next.priority, next.run_after, next.crashes
  FROM lane CROSS JOIN LATERAL (
    (SELECT t.queue_name, t.priority, t.run_after, t.crashes FROM django_taskq_livetask AS t
     WHERE t.status = 'READY' AND t.queue_name = lane.queue_name AND t.priority < lane.priority
     ORDER BY t.priority DESC, t.run_after LIMIT 1)
    UNION ALL
    (SELECT t.queue_name, t.priority, t.run_after, t.crashes FROM django_taskq_livetask AS t
     WHERE t.status = 'READY' AND t.queue_name > lane.queue_name
     ORDER BY t.queue_name, t.priority DESC, t.run_after LIMIT 1)
    LIMIT 1
  ) AS next
"""

# Suspects (two crashes) stand in their lanes too, but are claimed alone: behind one at the head,
# the lane has to be looked through. OFFSET 0 keeps the planner from hashing every due row of all.
_IS_DUE = """(
  lane.run_after <= statement_timestamp() AND (lane.crashes < 2 OR EXISTS (
    SELECT FROM django_taskq_livetask AS t
    WHERE t.status = 'READY' AND t.queue_name = lane.queue_name AND t.priority = lane.priority
      AND t.run_after <= statement_timestamp() AND t.crashes < 2
    ORDER BY t.run_after, t.id LIMIT 1 OFFSET 0)))
"""

FIND_LANES = f"""
/* django_taskq:find_lanes */
WITH RECURSIVE lane AS ({LANES})
SELECT queue_name, priority FROM lane WHERE {_IS_DUE}
"""


def find_lanes(connection: Connection) -> Cursor:
    """Ask for the lanes with due rows; `found_lanes` reads the answer."""
    return connection.execute(FIND_LANES, prepare=True)


def found_lanes(cursor: Cursor) -> list[Lane]:
    """Read what `find_lanes` has found."""
    return [Lane(*row) for row in cursor.fetchall()]


# What a supervisor asks once a second: where is work, when does the next task become due, where is
# a suspect waiting, and which tasks of its own children were asked to end?
TICK = f"""
/* django_taskq:tick */
WITH RECURSIVE lane AS ({LANES})
SELECT
  lane.queue_name,
  lane.priority,
  {_IS_DUE} AS is_due,
  extract(epoch FROM (
    SELECT t.run_after FROM django_taskq_livetask AS t
    WHERE t.status = 'READY' AND t.queue_name = lane.queue_name AND t.priority = lane.priority
      AND t.run_after > statement_timestamp()
    ORDER BY t.run_after LIMIT 1) - statement_timestamp())::float8 AS due_in,
  once.suspects,
  once.cancelled
FROM (
  SELECT ARRAY(
    SELECT queue_name FROM django_taskq_livetask
    WHERE status = 'READY' AND crashes >= 2 AND run_after <= statement_timestamp()
    ORDER BY run_after, id LIMIT 1000 OFFSET 0) AS suspects,
  ARRAY(
    SELECT worker_id::text || ' ' || id::text FROM django_taskq_livetask
    WHERE worker_id = ANY (%(children)s::uuid[]) AND cancel_requested_at IS NOT NULL
    LIMIT 1000) AS cancelled
) AS once
LEFT JOIN lane ON true
"""


class Tick(NamedTuple):
    """What a supervisor sees of one lane."""

    lane: Lane
    is_due: bool
    # Seconds until its next task becomes due, if one waits for its time.
    due_in: float | None


def tick(
    connection: Connection, children: Sequence[str]
) -> tuple[list[Tick], set[str], dict[str, set[str]]]:
    """Return the lanes with READY rows, and the queues in which a suspect is due.

    And by the ids of these children (processes), which of their running tasks were asked to end.
    """
    rows = connection.execute(TICK, {"children": array(list(children))}, prepare=True).fetchall()
    lanes = [
        Tick(Lane(queue_name, priority), is_due, due_in)
        for queue_name, priority, is_due, due_in, _, _ in rows
        if queue_name is not None
    ]
    cancelled: dict[str, set[str]] = {}
    for pair in rows[0][-1]:
        worker_id, _, id = pair.partition(" ")
        cancelled.setdefault(worker_id, set()).add(id)
    return lanes, set(rows[0][-2]), cancelled


# As far as it is worth counting for a person.
COUNT_LIMIT = 10_000

COUNT_WAITING = f"""
/* django_taskq:count_waiting */
SELECT count(*) FROM (
  SELECT FROM django_taskq_livetask WHERE status = 'READY' LIMIT {COUNT_LIMIT}) AS counted
"""


def count_waiting(connection: Connection) -> int:
    """Count READY tasks, up to COUNT_LIMIT."""
    row = connection.execute(COUNT_WAITING).fetchone()
    return int(row[0]) if row else 0


# The rows are locked inside the LATERAL, in each lane with the full limit: candidates that are
# merged first and locked later come back short when others claim the same heads. Both ends of the
# index range stand in the condition, so that rows due later are never walked over.
_MINE = """mine AS MATERIALIZED (
  SELECT ready.id
  FROM lane CROSS JOIN LATERAL (
    SELECT t.id FROM django_taskq_livetask AS t
    WHERE t.status = 'READY' AND t.queue_name = lane.queue_name AND t.priority = lane.priority
      AND t.run_after >= lane.floor AND t.run_after <= statement_timestamp()
      AND t.crashes < 2
    ORDER BY t.run_after, t.id
    LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED
  ) AS ready
  LIMIT %(limit)s
)
"""

# The update goes by an array of ids: a join with an unknown number of rows may be planned as a scan
# of the table. The last column is the time that it took to find and lock the rows.
_UPDATE = """UPDATE django_taskq_livetask AS t
SET status = 'RUNNING', claim = %(claim)s::uuid, worker_id = %(worker)s::uuid,
    started_at = statement_timestamp(), attempts = t.attempts + 1
WHERE t.id = ANY (ARRAY(SELECT id FROM mine))
RETURNING t.id, t.task, t.queue_name, t.priority, t.args, t.kwargs, t.run_after, t.enqueued_at,
  t.attempts, t.max_attempts, coalesce(t.expires_at <= statement_timestamp(), false),
  t.cancel_requested_at IS NOT NULL, t.options, t.headers,
  CASE WHEN t.attempts > 1 OR t.crashes > 0 THEN t.errors END,
  extract(epoch FROM clock_timestamp() - statement_timestamp())::float8
"""

# A process whose own row is gone (it was declared dead) claims nothing.
CLAIM = f"""
/* django_taskq:claim */
WITH lane AS (
  SELECT * FROM unnest(%(queues)s::text[], %(priorities)s::int[], %(floors)s::timestamptz[])
    AS l (queue_name, priority, floor)
  WHERE EXISTS (SELECT FROM django_taskq_worker WHERE id = %(worker)s::uuid)
),
{_MINE}{_UPDATE}"""


def claim(
    connection: Connection,
    *,
    worker_id: str,
    token: str,
    lanes: Sequence[Lane],
    floors: Sequence[str],
    limit: int,
) -> Cursor:
    """Claim up to `limit` due tasks; `claimed_rows` reads what came of it."""
    return connection.execute(
        CLAIM,
        {
            "queues": quoted_array([lane.queue_name for lane in lanes]),
            "priorities": array([str(lane.priority) for lane in lanes]),
            "floors": quoted_array(list(floors)),
            "worker": worker_id,
            "claim": token,
            "limit": limit,
        },
        prepare=True,
    )


# What a child sends that was idle and is woken: find the lanes and claim along them in one trip.
# For workers that serve all queues, so that priority alone decides on the order.
CLAIM_WOKEN = f"""
/* django_taskq:claim_woken */
WITH RECURSIVE found AS ({LANES.replace("lane", "found")}),
lane AS (
  SELECT queue_name, priority, '-infinity'::timestamptz AS floor
  FROM (SELECT * FROM found) AS lane
  WHERE {_IS_DUE}
    AND EXISTS (SELECT FROM django_taskq_worker WHERE id = %(worker)s::uuid)
  ORDER BY priority DESC, queue_name
),
{_MINE}{_UPDATE}"""


def claim_woken(connection: Connection, *, worker_id: str, token: str, limit: int) -> Cursor:
    """Claim up to `limit` due tasks of any lane, those of the highest priority first."""
    return connection.execute(
        CLAIM_WOKEN, {"worker": worker_id, "claim": token, "limit": limit}, prepare=True
    )


# A suspect runs alone: its processes died twice, and what shares a process with it would be blamed.
# The queue is an expression so that it cannot lead into the big index of all READY rows.
CLAIM_SUSPECT = f"""
/* django_taskq:claim_suspect */
WITH mine AS MATERIALIZED (
  SELECT id FROM django_taskq_livetask
  WHERE status = 'READY' AND crashes >= 2 AND run_after <= statement_timestamp()
    AND queue_name || '' = ANY (%(queues)s::text[])
    AND EXISTS (SELECT FROM django_taskq_worker WHERE id = %(worker)s::uuid)
  ORDER BY run_after, id
  LIMIT 1
  FOR NO KEY UPDATE SKIP LOCKED
)
{_UPDATE}"""


# For tests, and for whoever runs one task by hand: due or not. The status is an expression so that
# it cannot lead into the index of READY rows, which does not begin with the id.
CLAIM_ONE = f"""
/* django_taskq:claim_one */
WITH mine AS MATERIALIZED (
  SELECT id FROM django_taskq_livetask
  WHERE id = %(id)s::uuid AND status || '' = 'READY'
    AND EXISTS (SELECT FROM django_taskq_worker WHERE id = %(worker)s::uuid)
  FOR NO KEY UPDATE SKIP LOCKED
)
{_UPDATE}"""


def claim_one(
    connection: Connection, *, worker_id: str, token: str, task_id: str
) -> Claimed | None:
    """Claim this task, even one that is due later; None unless it is READY."""
    cursor = connection.execute(CLAIM_ONE, {"id": task_id, "worker": worker_id, "claim": token})
    rows, _ = claimed_rows(cursor, token, [])
    return rows[0] if rows else None


SUSPECT_QUEUES = """
/* django_taskq:suspect_queues */
SELECT DISTINCT queue_name FROM (
  SELECT queue_name FROM django_taskq_livetask
  WHERE status = 'READY' AND crashes >= 2 AND run_after <= statement_timestamp()
  ORDER BY run_after, id
  LIMIT 1000) AS suspect
"""


def suspect_queues(connection: Connection) -> list[str]:
    """Return the queues in which a suspect waits; there are few suspects."""
    return [row[0] for row in connection.execute(SUSPECT_QUEUES).fetchall()]


def claim_suspect(
    connection: Connection, *, worker_id: str, token: str, queues: Sequence[str]
) -> list[Claimed]:
    """Claim the one suspect that has waited longest in these queues."""
    cursor = connection.execute(
        CLAIM_SUSPECT,
        {"queues": list(queues), "worker": worker_id, "claim": token},
    )
    return claimed_rows(cursor, token, [])[0]


_IN_ORDER = itemgetter(6, 0)  # run_after, id


def claimed_rows(cursor: Cursor, token: str, lanes: Sequence[Lane]) -> tuple[list[Claimed], float]:
    """Read claimed rows in the order in which they should run: RETURNING has none.

    Return also how many seconds it took to find and lock them: the first row that is updated tells.
    """
    rows: list[Any] = cursor.fetchall()
    if not rows:
        return [], 0.0
    seconds = rows[0][-1]
    rows.sort(key=_IN_ORDER)
    if not lanes:
        rows.sort(key=itemgetter(3), reverse=True)  # priority; of lanes that were not known before
    elif len(lanes) > 1:
        places = {lane: place for place, lane in enumerate(lanes)}
        rows.sort(key=lambda row: places[Lane(row[2], row[3])])
    return [Claimed._make((*row[:-1], token)) for row in rows], seconds
