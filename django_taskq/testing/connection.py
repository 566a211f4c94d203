"""Send the worker's statements on Django's own connection: only it sees what a test has written."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import psycopg
from psycopg.types.string import TextLoader

from django_taskq.db import Connection, Cursor, user_connection

# As on a worker's connection.
_AS_TEXT = ("uuid", "json", "jsonb", "timestamptz")


class TestConnection:
    """Stand in for a worker's connection: as much of psycopg's as `transitions` and `store` use."""

    # pytest collects what is called Test….
    __test__ = False
    # A statement that fails has been undone by itself: for `db.roll_back` there is nothing to do.
    closed = True

    def __init__(self, alias: str) -> None:
        self.alias = alias

    def execute(self, query: Any, params: Any = None, **options: Any) -> Cursor:
        """Run a statement in a savepoint, or in a transaction where the test has none."""
        connection = self._raw()
        with connection.transaction():
            cursor = psycopg.Cursor(connection)
            for kind in _AS_TEXT:
                cursor.adapters.register_loader(kind, TextLoader)
            return cursor.execute(query, params, prepare=False)

    def transaction(self) -> AbstractContextManager[Any]:
        """Do several statements or none."""
        return self._raw().transaction()

    def pipeline(self) -> AbstractContextManager[Any]:
        """Send one statement after the other: Django's connection is not in pipeline mode."""
        return nullcontext()

    def _raw(self) -> Connection:
        wrapper = user_connection(self.alias)
        wrapper.ensure_connection()
        return cast(Connection, wrapper.connection)


def connection_of_test(alias: str) -> Connection:
    """Return Django's connection of this thread in the form that the worker's code takes."""
    return cast(Connection, TestConnection(alias))
