"""Print which versions are being tested: `python -m tests.versions`."""

from __future__ import annotations

import os
import platform
import sys

import django
import psycopg


def versions() -> str:
    """Return Python, Django and PostgreSQL with their versions, in one line."""
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        server = connection.execute("SHOW server_version").fetchone()
    assert server is not None
    return (
        f"Python {platform.python_version()}, Django {django.get_version()}, "
        f"PostgreSQL {server[0].split()[0]}"
    )


if __name__ == "__main__":
    sys.stdout.write(f"PAIR: {versions()}\n")
