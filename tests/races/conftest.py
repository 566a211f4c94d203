"""Two real connections, real transactions: what one does is there for the other to run into."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_taskq import db
from django_taskq.db import Connection
from tests.support import rows


@pytest.fixture
def one(transactional_db: None) -> Iterator[Connection]:
    with db.worker_connection("default", name="test one") as connection:
        yield connection


@pytest.fixture
def other(transactional_db: None) -> Iterator[Connection]:
    with db.worker_connection("default", name="test other") as connection:
        yield connection


@pytest.fixture
def worker_id(one: Connection) -> str:
    return rows.add_worker(one)
