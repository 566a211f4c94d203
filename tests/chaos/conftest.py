"""A database with ledger and history for the lanes that run in the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.chaos import recording
from tests.chaos.rig import Rig, rig_on
from tests.processes.conftest import use_database
from tests.support.databases import empty_database, migrate, url_of

__all__ = ["use_database"]


@pytest.fixture(scope="session")
def chaos_url(server_url: str) -> Iterator[str]:
    """Yield the URL of a migrated database with ledger and history."""
    with empty_database(server_url) as name:
        url = url_of(server_url, name)
        migrate(url)
        with psycopg.connect(url) as connection:
            recording.set_up(connection)
        yield url


@pytest.fixture
def rig(chaos_url: str, use_database: Any, tmp_path: Path) -> Iterator[Rig]:
    """Yield a rig on empty tables."""
    with use_database(chaos_url), rig_on(chaos_url, tmp_path, seed=1) as one:
        yield one
