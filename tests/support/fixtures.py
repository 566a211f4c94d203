"""Fixtures that several directories of tests share; each imports what it needs in its conftest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_taskq.db import Connection, worker_connection
from tests.support import rows


@pytest.fixture
def connection(db: None) -> Iterator[Connection]:
    """Yield a worker's connection to the test database; what is done on it is undone.

    By `db` alone does pytest-django know that these tests need one.
    """
    with (
        worker_connection("default", name="test") as opened,
        opened.transaction(force_rollback=True),
    ):
        yield opened


@pytest.fixture
def worker_id(connection: Connection) -> str:
    """Return the id of a worker process that has arrived."""
    return rows.add_worker(connection)
