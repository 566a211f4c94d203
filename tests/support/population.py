"""Fill the tables with many rows, fast."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg

QUEUES = 5
PRIORITIES = (0, 10)
WORKERS = 4
RUNNING_EACH = 500
HELD_NAMES = 10
HELD_EACH = 50
SUSPECTS = 40

# Ids that tell what they are of: the kind, then a number.
_ID = "('{kind}0000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid"


def id_of(kind: str, number: int) -> str:
    """Return the id of a row: kind "a" is waiting, "b" running, "c" a claim, "e" a worker …"""
    return str(UUID(f"{kind}0000000-0000-7000-8000-{number:012x}"))


def fill_ready(
    connection: psycopg.Connection[Any],
    count: int,
    *,
    queue_name: str = "'queue' || n % 5",
    priority: str = "(n / 5 % 2) * 10",
    run_after: str = "statement_timestamp() - interval '1 hour' + n * interval '1 millisecond'",
    crashes: int = 0,
    expires_at: str = "NULL",
) -> None:
    """Add READY rows; columns are SQL expressions of their number `n`."""
    connection.execute(
        f"""
        INSERT INTO django_taskq_livetask (
          task, queue_name, priority, run_after, crashes, expires_at, args)
        SELECT 'shop.tasks.send', {queue_name}, {priority}, {run_after}, {crashes},
          ({expires_at})::timestamptz, '[1, 2]'
        FROM generate_series(1, {count}) AS n
        """
    )


def fill_running(
    connection: psycopg.Connection[Any], *, workers: int = WORKERS, each: int = RUNNING_EACH
) -> None:
    """Add workers, each with so many RUNNING rows."""
    connection.execute(
        f"""
        INSERT INTO django_taskq_worker (id, kind, host, pid)
        SELECT {_ID.format(kind="e")}, 'CHILD', 'here', n FROM generate_series(1, {workers}) AS n
        """
    )
    connection.execute(
        f"""
        INSERT INTO django_taskq_livetask
          (id, task, queue_name, status, claim, worker_id, started_at, attempts, args)
        SELECT {_ID.format(kind="b")}, 'shop.tasks.send', 'queue' || n % 5, 'RUNNING',
          {_ID.format(kind="c")},
          ('e0000000-0000-7000-8000-' || lpad(to_hex(n % {workers} + 1), 12, '0'))::uuid,
          statement_timestamp(), 1, '[1, 2]'
        FROM generate_series(1, {workers * each}) AS n
        """
    )


def fill_held(
    connection: psycopg.Connection[Any], *, names: int = HELD_NAMES, each: int = HELD_EACH
) -> None:
    """Add HELD rows that wait for as many unknown names."""
    connection.execute(
        f"""
        INSERT INTO django_taskq_livetask (task, status, held_for)
        SELECT 'gone.task' || n % {names}, 'HELD', 'unknown:gone.task' || n % {names}
        FROM generate_series(1, {names * each}) AS n
        """
    )


def fill_finished(connection: psycopg.Connection[Any], count: int) -> None:
    """Add finished rows, one in a hundred of them failed."""
    connection.execute(
        f"""
        INSERT INTO django_taskq_finishedtask (id, task, status, claim, return_value, finished_at)
        SELECT {_ID.format(kind="d")}, 'shop.tasks.send',
          CASE WHEN n % 100 = 0 THEN 'FAILED' ELSE 'SUCCESSFUL' END,
          {_ID.format(kind="c")}, '42', statement_timestamp() - n * interval '1 second'
        FROM generate_series(1, {count}) AS n
        """
    )


def fill(connection: psycopg.Connection[Any], *, ready: int, finished: int) -> None:
    """Add rows of every kind to empty tables."""
    fill_ready(connection, ready)
    fill_ready(
        connection,
        ready // 10,
        queue_name="'queue0'",
        priority="50",
        run_after="statement_timestamp() + interval '1 hour' + n * interval '1 second'",
    )
    fill_ready(
        connection,
        ready // 100,
        expires_at="statement_timestamp() + (n - 50) * interval '1 second'",
    )
    fill_ready(connection, SUSPECTS, queue_name="'queue0'", priority="0", crashes=2)
    fill_running(connection)
    fill_held(connection)
    fill_finished(connection, finished)


def empty(connection: psycopg.Connection[Any]) -> None:
    """Remove all rows."""
    connection.execute(
        "TRUNCATE django_taskq_livetask, django_taskq_finishedtask, django_taskq_worker"
    )


def empty_but_keep_statistics(connection: psycopg.Connection[Any]) -> None:
    """Remove all rows; unlike TRUNCATE this leaves what the planner was told."""
    connection.execute("DELETE FROM django_taskq_livetask")
    connection.execute("DELETE FROM django_taskq_finishedtask")
