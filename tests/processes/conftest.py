"""Real workers on the tests' database: nothing here runs in a transaction of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import environ
import pytest
from django.db import connection

from tests.processes.support import Gate, Ledger, TaskWorker, tables
from tests.support.databases import empty_database, migrate, url_of

Starter = Callable[..., TaskWorker]


@pytest.fixture(scope="session")
def database_url(server_url: str) -> Iterator[str]:
    """Yield the URL of a migrated database: Django's cannot be kept over several tests."""
    with empty_database(server_url) as name:
        url = url_of(server_url, name)
        migrate(url)
        yield url


@pytest.fixture(scope="module")
def use_database(django_db_blocker: Any) -> Callable[[str], AbstractContextManager[None]]:
    """Return a context manager that points Django at a database with empty tables."""

    @contextmanager
    def use(url: str) -> Iterator[None]:
        settings = mock.patch.dict(connection.settings_dict, environ.Env.db_url_config(url))
        with django_db_blocker.unblock(), settings:
            connection.close()
            try:
                with tables():
                    yield
            finally:
                connection.close()

    return use


@pytest.fixture
def database(database_url: str, use_database: Any) -> Iterator[str]:
    """Yield the URL of a database with empty tables, to which Django is connected too."""
    with use_database(database_url):
        yield database_url


@pytest.fixture
def start(database: str, tmp_path: Path) -> Iterator[Starter]:
    """Start workers on the tests' database, and stop them after the test."""
    with starter(database, tmp_path) as start_one:
        yield start_one


@pytest.fixture(scope="module")
def start_shared(
    database_url: str, use_database: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Starter]:
    """Start workers that all tests of a module share; nothing is emptied between those."""
    directory = tmp_path_factory.mktemp("shared")
    with use_database(database_url), starter(database_url, directory) as start_one:
        yield start_one


@contextmanager
def starter(url: str, directory: Path) -> Iterator[Starter]:
    """Give a function that starts workers, and stop them afterwards."""
    with ExitStack() as running:

        def start_one(
            *arguments: str,
            children: int = 2,
            pool: str = "processes",
            ready: bool = True,
            **options: Any,
        ) -> TaskWorker:
            how = ("-P", pool) if pool == "solo" else ("-P", pool, "-c", str(children))
            worker = TaskWorker((*how, *arguments), url=url, directory=directory, **options)
            running.callback(worker.stop)
            if ready:
                worker.wait_until_ready(children if pool == "processes" else 1)
            return worker

        yield start_one


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Return an empty ledger."""
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Return a closed gate."""
    return Gate(tmp_path / "gate")
