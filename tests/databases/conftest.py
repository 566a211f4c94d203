"""Databases that are reached in other ways than directly and by the alias `default`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases.pgbouncer import PgBouncer, serve_pgbouncer
from tests.processes.conftest import (
    database,
    database_url,
    gate,
    ledger,
    start,
    use_database,
)

__all__ = ["database", "database_url", "gate", "ledger", "pgbouncer", "start", "use_database"]


@pytest.fixture(scope="module")
def pgbouncer(server_url: str) -> Iterator[PgBouncer]:
    with serve_pgbouncer(server_url) as running:
        yield running
