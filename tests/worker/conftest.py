from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_taskq import db
from django_taskq.db import Connection
from tests.support import rows


@pytest.fixture
def connection(transactional_db: None) -> Iterator[Connection]:
    """Yield a worker's connection to the test database; what it commits is seen by others."""
    with db.worker_connection("default", name="test") as opened:
        yield opened


@pytest.fixture
def worker_id(connection: Connection) -> str:
    return rows.add_worker(connection)
