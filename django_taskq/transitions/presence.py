"""Worker rows: a process appears, beats, and leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from django_taskq.db import Connection, array

ARRIVE = """
/* django_taskq:arrive */
INSERT INTO django_taskq_worker (id, kind, parent_id, host, pid, info)
VALUES (%(id)s::uuid, %(kind)s, %(parent_id)s::uuid, %(host)s, %(pid)s, %(info)s::jsonb)
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
    """Make a process known: claims need its row."""
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


BEAT = """
/* django_taskq:beat */
UPDATE django_taskq_worker
SET beat = beat + 1, last_seen_at = statement_timestamp()
WHERE id = ANY (%(ids)s::uuid[])
RETURNING id
"""


def beat(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Beat for these processes and return which of them are still known."""
    cursor = connection.execute(BEAT, {"ids": array(list(ids))}, prepare=True)
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
    """Say whether the migrations have run here."""
    row = connection.execute(TABLES_EXIST).fetchone()
    return bool(row and row[0])
