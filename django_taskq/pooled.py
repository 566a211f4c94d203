"""A connection through a pooler in transaction mode, such as PgBouncer.

Every transaction may reach another server process there. So nothing is left in the session: each
transaction begins with the settings that it needs, in the same round trip, and nothing is prepared.
Who uses the connection need not know: single statements, pipelines and transactions look as ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from django_taskq.deadline import WorkerConnection


class PooledConnection(WorkerConnection):
    """Wrap whatever is sent in a READ COMMITTED transaction with settings of its own.

    Settings by startup option are refused by a pooler, those of SET stay with a server process that
    serves somebody else a moment later.
    """

    # The statement that every transaction begins with.
    _settings: sql.Composed | None = None
    # Inside of a transaction that has begun with it.
    _has_begun = False

    def each_transaction(self, settings: Mapping[str, str]) -> None:
        """Let every transaction from here on begin with these settings; none outlives it."""
        calls = sql.SQL(", ").join(
            sql.SQL("set_config({}, {}, true)").format(name, value)
            for name, value in settings.items()
        )
        self._settings = sql.SQL("/* django_taskq:settings */ SELECT {}").format(calls)
        self.isolation_level = psycopg.IsolationLevel.READ_COMMITTED

    @contextmanager
    def pipeline(self) -> Iterator[psycopg.Pipeline]:
        """Send what is executed in the block as one transaction, in one round trip.

        Without a BEGIN of its own a pipeline would be one transaction too, but one of the server's
        default isolation level.
        """
        if self._has_begun or self._settings is None:
            with super().pipeline() as inner:
                yield inner
            return
        try:
            with super().pipeline() as outer:
                self._has_begun = True
                super().execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                super().execute(self._settings)
                yield outer
                super().execute("COMMIT")
        except BaseException:
            self._abandon()
            raise
        finally:
            self._has_begun = False

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """Begin a transaction, with the settings; inside of one, set a savepoint."""
        with super().transaction(savepoint_name, force_rollback) as block:
            if self._has_begun or self._settings is None:
                yield block
                return
            self._has_begun = True
            try:
                super().execute(self._settings)
                yield block
            finally:
                self._has_begun = False

    def execute(self, *args: Any, **kwargs: Any) -> psycopg.Cursor[tuple[Any, ...]]:
        """Send a statement, as a transaction of its own unless it is in one already."""
        if self._has_begun or self._settings is None:
            return super().execute(*args, **kwargs)
        with self.pipeline():
            return super().execute(*args, **kwargs)

    def _abandon(self) -> None:
        """Roll back what an error has left open; a connection that is lost stays lost."""
        if not self.closed and self.info.transaction_status != TransactionStatus.IDLE:
            self.rollback()
