"""Put rows into the tables and look at them, past the code that is tested."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg
from psycopg import sql

from django_taskq.ids import new_id
from django_taskq.statuses import FINISHED, TaskStatus

LIVE = "django_taskq_livetask"
DONE = "django_taskq_finishedtask"
_TABLES = {LIVE: sql.Identifier(LIVE), DONE: sql.Identifier(DONE)}

Connection = psycopg.Connection[Any]


class Running(NamedTuple):
    """What names a running task: the first fields of every outcome."""

    id: str
    claim: str


def insert(connection: Connection, table: str, **columns: Any) -> str:
    """Insert a row; a value of type Raw is SQL. Return its id."""
    columns = {"id": new_id(), "task": "shop.tasks.send", **columns}
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    values = sql.SQL(", ").join(
        sql.SQL(value.text) if isinstance(value, Raw) else sql.Literal(_plain(value))
        for value in columns.values()
    )
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(_TABLES[table], names, values)
    )
    return str(columns["id"])


class Raw(NamedTuple):
    """An SQL expression as a column's value."""

    text: str


def ago(seconds: float) -> Raw:
    """Return a moment of the database's clock."""
    return Raw(f"clock_timestamp() - {seconds} * interval '1 second'")


def add(connection: Connection, **columns: Any) -> str:
    """Add a task that waits, READY since a minute ago unless it says otherwise."""
    return insert(connection, LIVE, **{"run_after": ago(60), **columns})


def add_running(connection: Connection, worker_id: str, **columns: Any) -> Running:
    """Add a task that runs for the first time, since a second ago."""
    claim = str(uuid4())
    values = {
        "status": "RUNNING",
        "claim": claim,
        "worker_id": worker_id,
        "started_at": ago(1),
        "attempts": 1,
        **columns,
    }
    return Running(insert(connection, LIVE, **values), str(values["claim"]))


def add_in(connection: Connection, status: TaskStatus, worker_id: str, **columns: Any) -> Running:
    """Add a task in any status; a waiting one has no claim, and gets one that matches nothing."""
    if status == TaskStatus.RUNNING:
        return add_running(connection, worker_id, **columns)
    claim = str(uuid4())
    if status in FINISHED:
        return Running(insert(connection, DONE, status=status, claim=claim, **columns), claim)
    held = {"held_for": "unknown:shop.tasks.send"} if status == TaskStatus.HELD else {}
    return Running(add(connection, status=status, **held, **columns), claim)


def add_worker(connection: Connection) -> str:
    """Add a worker process and return its id."""
    id = str(uuid4())
    connection.execute(
        "INSERT INTO django_taskq_worker (id, kind, host, pid) VALUES (%s, 'CHILD', 'here', 1)",
        [id],
    )
    return id


def live(connection: Connection, id: str) -> dict[str, Any] | None:
    """Return an unfinished task's row, times as texts."""
    return _read(connection, LIVE, id)


def finished(connection: Connection, id: str) -> dict[str, Any] | None:
    """Return a finished task's row, times as texts."""
    return _read(connection, DONE, id)


def row(connection: Connection, id: str) -> dict[str, Any]:
    """Return a task's row; fail unless exactly one table has it."""
    found = [r for r in (live(connection, id), finished(connection, id)) if r is not None]
    assert len(found) == 1, f"{len(found)} rows have the id {id}"
    return found[0]


def statuses(connection: Connection, ids: Sequence[str]) -> list[str]:
    """Return the status of each of these tasks."""
    return [str(row(connection, id)["status"]) for id in ids]


def statuses_now(connection: Connection, ids: Sequence[str]) -> list[str | None]:
    """Return what is each of these tasks at one moment, or None: they may be on their way."""
    found = dict(
        connection.execute(
            "SELECT id::text, status FROM (SELECT id, status FROM django_taskq_livetask UNION ALL "
            "SELECT id, status FROM django_taskq_finishedtask) AS t WHERE id = ANY (%s::uuid[])",
            [list(ids)],
        ).fetchall()
    )
    return [found.get(id) for id in ids]


def live_statuses(connection: Connection) -> set[str]:
    """Return which statuses unfinished tasks have."""
    found = connection.execute("SELECT DISTINCT status FROM django_taskq_livetask").fetchall()
    return {status for (status,) in found}


def _read(connection: Connection, table: str, id: str) -> dict[str, Any] | None:
    found = connection.execute(
        sql.SQL("SELECT to_jsonb(t)::text FROM {} AS t WHERE id = %s").format(_TABLES[table]), [id]
    ).fetchone()
    return None if found is None else dict(json.loads(found[0]))


def _plain(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value)
    return str(value) if isinstance(value, TaskStatus) else value
