"""Make databases beside the one of the tests, on whatever server."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

ROOT = Path(__file__).resolve().parent.parent.parent


def url_of(server_url: str, name: str) -> str:
    """Return the URL of another database on the same server."""
    address, _, options = server_url.partition("?")
    server = address.rpartition("/")[0]
    return f"{server}/{name}" + (f"?{options}" if options else "")


@contextmanager
def empty_database(server_url: str, *, template: str = "template1") -> Iterator[str]:
    """Yield the name of a new database, a copy of `template`, and drop it afterwards."""
    name = f"taskq_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        try:
            yield name
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def drop_database(server_url: str, name: str) -> None:
    """Drop a database, if there is one of this name."""
    with psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name or "-"))
        )


def migrate(url: str, *arguments: str) -> None:
    """Run Django's `migrate` on a database, in a process of its own."""
    subprocess.run(
        [sys.executable, "-m", "django", "migrate", "--verbosity", "0", *arguments],
        env={
            **os.environ,
            "DATABASE_URL": url,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONPATH": str(ROOT),
        },
        cwd=ROOT,
        check=True,
    )
