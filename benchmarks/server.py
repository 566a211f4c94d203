"""Databases of our own on the server that DATABASE_URL names; they are dropped at the end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

Connection = psycopg.Connection[tuple[Any, ...]]
Cursor = psycopg.Cursor[tuple[Any, ...]]

_numbers = count(1)


def connect(url: str) -> Connection:
    """Open a plain connection in autocommit."""
    return psycopg.connect(url, autocommit=True)


@contextmanager
def new_database(server_url: str, *, template: str | None = None) -> Iterator[str]:
    """Create a database, a copy of `template` perhaps, and yield its URL; drop it afterwards."""
    name = f"taskq_bench_{os.getpid()}_{next(_numbers)}"
    quoted = sql.Identifier(name)
    copied = sql.SQL("")
    if template is not None:
        copied = sql.SQL(" TEMPLATE {}").format(sql.Identifier(name_of(template)))
    with connect(server_url) as server:
        server.execute(sql.SQL("CREATE DATABASE {}{}").format(quoted, copied))
    # Not one connection all the time: nobody may be connected to a template.
    try:
        yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    finally:
        with connect(server_url) as server:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(quoted))


def name_of(url: str) -> str:
    """Return the name of the database that a URL names."""
    return urlsplit(url).path.lstrip("/")


def empty(connection: Connection) -> None:
    """Forget all tasks and workers."""
    connection.execute(
        "TRUNCATE django_taskq_livetask, django_taskq_finishedtask, django_taskq_worker"
    )


def settle(connection: Connection) -> None:
    """Bring statistics up to date and write out what is dirty, so that no run pays for another."""
    connection.execute("ANALYZE django_taskq_livetask, django_taskq_finishedtask")
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        connection.execute("CHECKPOINT")


def versions(connection: Connection) -> str:
    """Return what the figures depend on most."""
    row = connection.execute(
        "SELECT current_setting('server_version'), current_setting('fsync'), "
        "current_setting('synchronous_commit')"
    ).fetchone()
    assert row is not None
    return f"PostgreSQL {row[0].split()[0]} (fsync {row[1]}, synchronous_commit {row[2]})"
