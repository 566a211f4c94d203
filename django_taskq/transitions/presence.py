"""Worker rows: a process appears, beats, and leaves, or is declared dead by another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from django_taskq.db import Connection, array

# Said again when the answer was lost.
ARRIVE = """
/* django_taskq:arrive */
INSERT INTO django_taskq_worker (id, kind, parent_id, host, pid, info)
VALUES (%(id)s::uuid, %(kind)s, %(parent_id)s::uuid, %(host)s, %(pid)s, %(info)s::jsonb)
ON CONFLICT (id) DO NOTHING
"""


def arrive(
    connection: Connection,
    *,
    id: str,
    kind: str,
    parent_id: str | None,
    host: str,
    pid: int,
    info: dict[str, Any],
) -> None:
    """Make a process known: claims need its row. To say it twice is as good as once."""
    connection.execute(
        ARRIVE,
        {
            "id": id,
            "kind": kind,
            "parent_id": parent_id,
            "host": host,
            "pid": pid,
            "info": json.dumps(info),
        },
    )


SET_PID = """
/* django_taskq:arrive */
UPDATE django_taskq_worker SET pid = %(pid)s WHERE id = %(id)s::uuid
"""


def set_pid(connection: Connection, *, id: str, pid: int) -> None:
    """Note the process id of a child, which is known only once it was forked."""
    connection.execute(SET_PID, {"id": id, "pid": pid})


class Seen(NamedTuple):
    """A process as its row shows it."""

    id: str
    kind: str
    # The supervisor of a child.
    parent_id: str | None
    host: str
    pid: int
    # Moves while somebody beats for it.
    beat: int


class Beat(NamedTuple):
    """The answer to a beat."""

    # Which of those that we beat for are still listed.
    known: set[str]
    # Everybody else.
    others: list[Seen]


# One statement: a process that cannot beat must not judge others by what it reads.
BEAT = """
/* django_taskq:beat */
WITH mine AS (
  UPDATE django_taskq_worker
  SET beat = beat + 1, last_seen_at = statement_timestamp()
  WHERE id = ANY (%(ids)s::uuid[])
  RETURNING id
)
SELECT mine.id, true, NULL, NULL, NULL, NULL, NULL FROM mine
UNION ALL
SELECT w.id, false, w.kind, w.parent_id, w.host, w.pid, w.beat FROM django_taskq_worker AS w
"""


def beat(connection: Connection, ids: Sequence[str]) -> Beat:
    """Beat for these processes; return which of them are still listed, and who else is."""
    cursor = connection.execute(BEAT, {"ids": array(list(ids))}, prepare=True)
    ours, known, others = set(ids), set(), []
    for id, is_mine, *rest in cursor.fetchall():
        if is_mine:
            known.add(id)
        elif id not in ours:
            others.append(Seen(id, *rest))
    return Beat(known, others)


# Compare and swap: only a counter that still stands where it was seen. A row that is locked is left
# alone: somebody beats for it just now, or is quicker with its end.
DECLARE_DEAD = """
/* django_taskq:declare_dead */
WITH dead AS MATERIALIZED (
  SELECT w.id FROM unnest(%(ids)s::uuid[], %(beats)s::bigint[]) AS seen (id, beat)
  JOIN django_taskq_worker AS w ON w.id = seen.id AND w.beat = seen.beat
  FOR UPDATE OF w SKIP LOCKED
)
DELETE FROM django_taskq_worker AS w USING dead WHERE w.id = dead.id RETURNING w.id
"""


def declare_dead(connection: Connection, silent: Sequence[Seen]) -> set[str]:
    """Take processes off the list whose counters have not moved; return the ids of those."""
    cursor = connection.execute(
        DECLARE_DEAD,
        {
            "ids": array([row.id for row in silent]),
            "beats": array([str(row.beat) for row in silent]),
        },
    )
    return {row[0] for row in cursor.fetchall()}


LEAVE = """
/* django_taskq:leave */
DELETE FROM django_taskq_worker WHERE id = ANY (%(ids)s::uuid[])
"""


def leave(connection: Connection, ids: Sequence[str]) -> None:
    """Take processes off the list; from here on they cannot claim."""
    connection.execute(LEAVE, {"ids": array(list(ids))})


TABLES_EXIST = """
/* django_taskq:tables_exist */
SELECT to_regclass('django_taskq_livetask') IS NOT NULL
  AND to_regclass('django_taskq_finishedtask') IS NOT NULL
  AND to_regclass('django_taskq_worker') IS NOT NULL
"""


def tables_exist(connection: Connection) -> bool:
    """Say whether our tables are here."""
    row = connection.execute(TABLES_EXIST).fetchone()
    return bool(row and row[0])


# Nobody has to keep a record: tests may make tables without migrations, and a role may not read it.
RECORD_IS_READABLE = """
/* django_taskq:record_is_readable */
SELECT has_table_privilege(to_regclass('django_migrations'), 'SELECT')
"""

APPLIED = """
/* django_taskq:applied */
SELECT name FROM django_migrations WHERE app = 'django_taskq'
"""


def applied_migrations(connection: Connection) -> set[str] | None:
    """Return the names of those of our migrations that have run; None if that cannot be read."""
    row = connection.execute(RECORD_IS_READABLE).fetchone()
    if not (row and row[0]):
        return None
    return {name for (name,) in connection.execute(APPLIED).fetchall()}
