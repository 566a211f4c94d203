"""What is there as a whole: queues with what waits in them, workers, and whether all is well.

Counts stop where counting would cost: what is given as "at least" may be more. A status takes some
milliseconds, whatever the tables hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from django_taskq import clocks, db
from django_taskq.control.databases import ControlError, database_of
from django_taskq.control.listing import moment, utc
from django_taskq.transitions.claim import LANES

# Finished rows that a rate is worked out from; held and running rows that are counted; and rows of
# each bad end, which lie far apart in the table.
_RECENT, _COUNTED, _COUNTED_BADLY = 20_000, 10_000, 1_000

# The lanes share 20,000 rows to be counted among them.
STATUS_LANES = f"""
/* django_taskq:status_lanes */
WITH RECURSIVE lane AS ({LANES}),
known AS MATERIALIZED (SELECT * FROM lane LIMIT 1000),
share AS MATERIALIZED (SELECT greatest(100, 20000 / greatest(count(*), 1)) AS size FROM known)
SELECT
  known.queue_name,
  share.size,
  (SELECT count(*) FROM (
    SELECT FROM django_taskq_livetask AS t
    WHERE t.status = 'READY' AND t.queue_name = known.queue_name AND t.priority = known.priority
      AND t.run_after <= statement_timestamp()
    LIMIT (SELECT size FROM share)) AS due),
  (SELECT count(*) FROM (
    SELECT FROM django_taskq_livetask AS t
    WHERE t.status = 'READY' AND t.queue_name = known.queue_name AND t.priority = known.priority
      AND t.run_after > statement_timestamp()
    LIMIT (SELECT size FROM share)) AS later),
  CASE WHEN known.run_after <= statement_timestamp() THEN {utc("known.run_after")} END,
  extract(epoch FROM statement_timestamp() - known.run_after)::float8,
  (SELECT {utc("t.run_after")} FROM django_taskq_livetask AS t
   WHERE t.status = 'READY' AND t.queue_name = known.queue_name AND t.priority = known.priority
     AND t.run_after > statement_timestamp()
   ORDER BY t.run_after LIMIT 1)
FROM known CROSS JOIN share
"""

STATUS_RUNNING = f"""
/* django_taskq:status_running */
SELECT queue_name, count(*) FROM (
  SELECT queue_name FROM django_taskq_livetask WHERE worker_id IS NOT NULL LIMIT {_COUNTED}) AS t
GROUP BY queue_name
"""

STATUS_HELD = f"""
/* django_taskq:status_held */
SELECT queue_name, count(*) FROM (
  SELECT queue_name FROM django_taskq_livetask WHERE status = 'HELD' LIMIT {_COUNTED}) AS t
GROUP BY queue_name
"""

# What is kept of what ended badly, however long ago; by the index that is for these.
STATUS_BADLY = f"""
/* django_taskq:status_badly */
SELECT bad.queue_name, ended.status, count(*)
FROM unnest(ARRAY['FAILED', 'CANCELLED', 'EXPIRED']) AS ended (status)
CROSS JOIN LATERAL (
  SELECT t.queue_name FROM django_taskq_finishedtask AS t
  WHERE t.status = ended.status AND t.status <> 'SUCCESSFUL'
  ORDER BY t.finished_at DESC
  LIMIT {_COUNTED_BADLY}
) AS bad
GROUP BY bad.queue_name, ended.status
"""

STATUS_RECENT = f"""
/* django_taskq:status_recent */
SELECT queue_name, count(*),
  count(*) FILTER (WHERE finished_at >= statement_timestamp() - interval '1 minute'),
  max(extract(epoch FROM statement_timestamp() - finished_at))::float8
FROM (
  SELECT queue_name, finished_at FROM django_taskq_finishedtask
  WHERE finished_at >= statement_timestamp() - interval '1 hour'
  ORDER BY finished_at DESC
  LIMIT {_RECENT}) AS t
GROUP BY queue_name
"""

WORKERS = f"""
/* django_taskq:workers */
SELECT w.id::text, w.kind, w.parent_id::text, w.host, w.pid, w.info::text,
  {utc("w.started_at")}, {utc("w.last_seen_at")},
  extract(epoch FROM statement_timestamp() - w.last_seen_at)::float8,
  (SELECT count(*) FROM (
    SELECT FROM django_taskq_livetask AS t WHERE t.worker_id = w.id LIMIT 1000) AS held)
FROM django_taskq_worker AS w
ORDER BY w.host, w.pid, w.id
LIMIT 10000
"""

OLDEST_DUE = f"""
/* django_taskq:oldest_due */
WITH RECURSIVE lane AS ({LANES})
SELECT queue_name, extract(epoch FROM statement_timestamp() - run_after)::float8
FROM (SELECT * FROM lane LIMIT 1000) AS known
WHERE run_after <= statement_timestamp()
"""


@dataclass(kw_only=True, slots=True)
class QueueStatus:
    """What a queue holds."""

    queue_name: str
    # READY and due; READY and due later.
    due: int = 0
    later: int = 0
    held: int = 0
    running: int = 0
    # What is kept of these, from whenever.
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    ended_last_hour: int = 0
    # Since when the first of its due tasks waits, and for how long; when the next becomes due.
    oldest_due_at: datetime | None = None
    oldest_due_seconds: float | None = None
    next_due_at: datetime | None = None
    # The counts above that may be higher: counting stopped there.
    at_least: list[str] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class Status:
    """What all queues hold, and how fast it goes."""

    at: datetime
    queues: list[QueueStatus]
    # Workers that were heard of within 30 s, and others; the places and the busy ones of the first.
    workers: int
    silent_workers: int
    slots: int
    busy: int
    # Tasks that ended, in tasks per second.
    rate_last_minute: float
    rate_last_hour: float


@dataclass(kw_only=True, slots=True)
class ChildLine:
    """A process of a worker that runs tasks."""

    id: str
    pid: int
    last_seen_seconds: float
    # How many tasks it has claimed; the one that runs, and those that wait in it.
    claimed: int


@dataclass(kw_only=True, slots=True)
class WorkerLine:
    """A worker: what `manage.py taskworker` started."""

    id: str
    host: str
    pid: int
    pool: str
    # As given to -Q and -X; no queues are all queues.
    queues: list[str]
    excluded: list[str]
    # How many tasks it runs at once.
    concurrency: int
    version: str
    started_at: datetime
    last_seen_at: datetime
    last_seen_seconds: float
    # Not heard of for 30 s.
    is_silent: bool
    # Whether only a child is left of it.
    is_orphan: bool = False
    # Tasks that it has claimed, and places of it that are taken.
    claimed: int = 0
    busy: int = 0
    children: list[ChildLine] = field(default_factory=list)

    def serves(self, queue_name: str) -> bool:
        """Say whether it takes tasks of this queue."""
        if self.is_orphan or any(fnmatchcase(queue_name, name) for name in self.excluded):
            return False
        return not self.queues or any(fnmatchcase(queue_name, name) for name in self.queues)


@dataclass(kw_only=True, slots=True)
class Health:
    """Whether all is well, and if not, why."""

    is_healthy: bool
    problems: list[str]
    # Workers that count, and for how long the first due task of the queues has waited.
    workers: int
    oldest_due_seconds: float | None


def status(*, database: str | None = None) -> Status:
    """Count what the queues hold, and look who works on it."""
    alias = database_of(database)
    queues: dict[str, QueueStatus] = {}
    with db.reading_cursor(alias) as cursor:

        def read(statement: str) -> Iterator[tuple[QueueStatus, Any]]:
            cursor.execute(statement)
            for name, *rest in cursor.fetchall():
                yield queues.setdefault(name, QueueStatus(queue_name=name)), rest

        _count_lanes(read(STATUS_LANES))
        for name, statement in (("running", STATUS_RUNNING), ("held", STATUS_HELD)):
            _count(((queue, name, count) for queue, [count] in read(statement)), _COUNTED)
        badly = ((queue, state.lower(), count) for queue, [state, count] in read(STATUS_BADLY))
        _count(badly, _COUNTED_BADLY)
        recent = [(queue, *rest) for queue, rest in read(STATUS_RECENT)]
    _count(((queue, "ended_last_hour", count) for queue, count, _, _ in recent), _RECENT)
    known = workers(database=alias)
    heard = [worker for worker in known if not worker.is_silent and not worker.is_orphan]
    last_minute, last_hour = _rates([row[1:] for row in recent])
    return Status(
        at=datetime.now(UTC),
        queues=[queues[name] for name in sorted(queues)],
        workers=len(heard),
        silent_workers=len(known) - len(heard),
        slots=sum(worker.concurrency for worker in heard),
        busy=sum(worker.busy for worker in heard),
        rate_last_minute=last_minute,
        rate_last_hour=last_hour,
    )


def workers(*, database: str | None = None) -> list[WorkerLine]:
    """List the workers, those on one host together."""
    with db.reading_cursor(database_of(database)) as cursor:
        cursor.execute(WORKERS)
        rows = cursor.fetchall()
    found = {row[0]: _worker(row) for row in rows if row[1] == "SUPERVISOR"}
    for row in rows:
        if row[1] != "SUPERVISOR":
            id, _, parent, _, pid, _, _, _, seconds, claimed = row
            parent = found.get(parent) or found.setdefault(parent or id, _worker(row))
            parent.children.append(
                ChildLine(id=id, pid=pid, last_seen_seconds=seconds, claimed=claimed)
            )
    for worker in found.values():
        worker.claimed += sum(child.claimed for child in worker.children)
        if worker.pool == "processes":
            worker.busy = sum(child.claimed > 0 for child in worker.children)
        else:
            worker.busy = min(worker.claimed, worker.concurrency)
    return list(found.values())


def health(
    *,
    queues: Sequence[str] = (),
    max_wait: float | None = None,
    host: str | None = None,
    database: str | None = None,
) -> Health:
    """Say whether workers are there and no task waits too long.

    There has to be a worker for each of `queues` (without any, some worker), on `host` if one is
    given; and no due task of these queues may have waited for more than `max_wait` seconds. Raise
    django.db.Error if the database does not answer.
    """
    if isinstance(queues, str):
        raise ControlError(f"queues takes a list of names, such as [{queues!r}], not one text.")
    alias = database_of(database)
    living = [
        worker
        for worker in workers(database=alias)
        if not worker.is_silent and not worker.is_orphan and host in (None, worker.host)
    ]
    problems = _missing_workers(living, queues, f" on {host}" if host else "")
    waits = [
        (seconds, name)
        for name, seconds in oldest_due(alias)
        if not queues or any(fnmatchcase(name, queue) for queue in queues)
    ]
    oldest = max(waits, default=None)
    if max_wait is not None and oldest is not None and oldest[0] > max_wait:
        problems.append(
            f'A task in the queue "{oldest[1]}" has waited for {oldest[0]:.0f} s, '
            f"more than {max_wait:g} s."
        )
    return Health(
        is_healthy=not problems,
        problems=problems,
        workers=len(living),
        oldest_due_seconds=oldest[0] if oldest else None,
    )


def _missing_workers(living: Sequence[WorkerLine], queues: Sequence[str], where: str) -> list[str]:
    if not living:
        return [f"No worker{where} was heard of in the last {clocks.TTL:g} s."]
    return [
        f'No worker{where} serves the queue "{name}".'
        for name in queues
        if not any(worker.serves(name) for worker in living)
    ]


def oldest_due(alias: str) -> list[tuple[str, float]]:
    """Return for how many seconds the first due task of each lane has waited."""
    with db.reading_cursor(alias) as cursor:
        cursor.execute(OLDEST_DUE)
        return [(name, seconds) for name, seconds in cursor.fetchall()]


def _count_lanes(rows: Iterator[tuple[QueueStatus, Any]]) -> None:
    for queue, (size, due, later, oldest, waited, following) in rows:
        queue.due += due
        queue.later += later
        _at_least(queue, "due", due >= size)
        _at_least(queue, "later", later >= size)
        oldest, following = moment(oldest), moment(following)
        if oldest is not None and (queue.oldest_due_at is None or oldest < queue.oldest_due_at):
            queue.oldest_due_at, queue.oldest_due_seconds = oldest, waited
        if following is not None and (queue.next_due_at is None or following < queue.next_due_at):
            queue.next_due_at = following


def _count(rows: Iterable[tuple[QueueStatus, str, int]], limit: int) -> None:
    """Note counts of several queues that stopped together at `limit`, each name for itself."""
    totals: dict[str, int] = {}
    seen = []
    for queue, name, count in rows:
        setattr(queue, name, count)
        totals[name] = totals.get(name, 0) + count
        seen.append((queue, name))
    for queue, name in seen:
        _at_least(queue, name, totals[name] >= limit)


def _at_least(queue: QueueStatus, name: str, is_cut: bool) -> None:
    if is_cut and name not in queue.at_least:
        queue.at_least.append(name)


def _rates(recent: list[Any]) -> tuple[float, float]:
    """Work out tasks per second from counts of the last hour, or of as much of it as was read."""
    total = sum(count for count, _, _ in recent)
    in_minute = sum(count for _, count, _ in recent)
    hour, minute = 3600.0, 60.0
    if total >= _RECENT:
        reached = max(seconds for _, _, seconds in recent)
        hour, minute = max(reached, 0.001), min(minute, max(reached, 0.001))
    return round(in_minute / minute, 3), round(total / hour, 3)


def _worker(row: Any) -> WorkerLine:
    id, kind, parent, host, pid, info_text, started, seen, seconds, claimed = row
    info = json.loads(info_text or "{}")
    is_orphan = kind != "SUPERVISOR"
    return WorkerLine(
        id=parent or id,
        host=host,
        pid=0 if is_orphan else pid,
        pool=str(info.get("pool", "processes")),
        queues=[str(name) for name in info.get("queues", [])],
        excluded=[str(name) for name in info.get("excluded", [])],
        concurrency=0 if is_orphan else int(info.get("concurrency", 1)),
        version=str(info.get("version", "")),
        started_at=datetime.fromisoformat(started),
        last_seen_at=datetime.fromisoformat(seen),
        last_seen_seconds=seconds,
        is_silent=seconds > clocks.TTL,
        is_orphan=is_orphan,
        claimed=0 if is_orphan else claimed,
    )
