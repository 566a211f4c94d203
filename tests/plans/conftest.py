"""A migrated database on each server at hand, and copies of it with rows and statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from django_taskq import db
from tests.support import databases, population
from tests.support.connections import user_connection_to, worker_connection_to

# Rows that wait, and rows that have finished, in a filled database.
READY, FINISHED = 100_000, 100_000
# As few as a site has that was set up a minute ago.
FEW = 30


@pytest.fixture(scope="session")
def test_server_url(server_url: str) -> str:
    return server_url


@pytest.fixture(
    scope="session",
    params=["test_server_url", "machine_server_url"],
    ids=["test-server", "machine-server"],
)
def plan_server_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a server: that of the tests, then the machine's own if it is another."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture(scope="session")
def migrated(plan_server_url: str) -> Iterator[str]:
    """Yield the name of a migrated database without rows, whose statistics stay as tests want."""
    with databases.empty_database(plan_server_url) as name:
        url = databases.url_of(plan_server_url, name)
        databases.migrate(url)
        with psycopg.connect(url) as connection:
            for table in ("livetask", "finishedtask", "worker"):
                connection.execute(
                    f"ALTER TABLE django_taskq_{table} SET (autovacuum_enabled = off)"
                )
        yield name


class Database:
    """A database with rows, and a connection of each kind to it: workers', users', operators'."""

    def __init__(self, url: str, open_until: ExitStack) -> None:
        self.url = url
        self.worker = open_until.enter_context(worker_connection_to(url))
        self.user = open_until.enter_context(user_connection_to(url))
        self.operator = open_until.enter_context(user_connection_to(url))
        for name, value in db._READING.items():
            self.operator.execute("SELECT set_config(%s, %s, false)", [name, value])

    def connection(self, by: str) -> psycopg.Connection[Any]:
        """Return the connection of a worker, of a user, or of an operator who reads."""
        return {"worker": self.worker, "user": self.user, "operator": self.operator}[by]


@pytest.fixture(scope="session")
def copies(plan_server_url: str, migrated: str) -> Iterator[Any]:
    """Yield a function that makes one more copy of the migrated database."""
    with ExitStack() as open_until:

        def copy() -> Database:
            name = open_until.enter_context(
                databases.empty_database(plan_server_url, template=migrated)
            )
            return Database(databases.url_of(plan_server_url, name), open_until)

        yield copy


def _never_analysed(database: Database) -> None:
    population.fill(database.user, ready=READY, finished=FINISHED)


def _stale(database: Database) -> None:
    population.fill_ready(database.user, FEW)
    population.fill_finished(database.user, FEW)
    database.user.execute("ANALYZE")
    population.empty_but_keep_statistics(database.user)
    population.fill(database.user, ready=READY, finished=FINISHED)


def _analysed_while_empty(database: Database) -> None:
    database.user.execute("ANALYZE")
    population.fill(database.user, ready=READY, finished=FINISHED)


def _analysed(database: Database) -> None:
    population.fill(database.user, ready=READY, finished=FINISHED)
    database.user.execute("ANALYZE")


def _drained(database: Database) -> None:
    """Analyse full tables, then take nearly all away: the usual state of a queue that keeps up."""
    population.fill(database.user, ready=READY, finished=FINISHED)
    database.user.execute("ANALYZE")
    database.user.execute(
        "DELETE FROM django_taskq_livetask WHERE status = 'READY' AND queue_name <> 'queue1'"
    )


FILLINGS = {
    "never-analysed": _never_analysed,
    "stale": _stale,
    "analysed-while-empty": _analysed_while_empty,
    "analysed": _analysed,
    "drained": _drained,
}


@pytest.fixture(scope="session", params=FILLINGS)
def filled(request: pytest.FixtureRequest, copies: Any) -> Database:
    """Return a database with 100,000 rows of each kind."""
    database: Database = copies()
    FILLINGS[request.param](database)
    return database


@pytest.fixture
def scratch(copies: Any) -> Database:
    """Return a database of the test's own, without rows."""
    database: Database = copies()
    return database
