"""Let a task in a test's transaction behave as in a worker, where it runs in none.

`TestCase` wraps each test in a transaction that is rolled back. A database error inside a task
would end that transaction, and callbacks of `on_commit` would never be called.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any, Self

from django.db import connections
from django.db.transaction import TransactionManagementError
from psycopg.pq import TransactionStatus

_log = logging.getLogger("django_taskq.testing")


class TestTransactions:
    """Put a savepoint around a task on each connection that is in a transaction of the test."""

    __test__ = False

    def __init__(self, task: str) -> None:
        self.task = task
        # What the task raised, for the way out.
        self.raised: BaseException | None = None
        self._saved: list[_Saved] = []

    def __enter__(self) -> Self:
        self._saved = [
            _Saved(connection)
            for connection in connections.all(initialized_only=True)
            if connection.in_atomic_block
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        broken = [saved for saved in self._saved if not saved.end()]
        if broken and self.raised is None and error is None:
            raise TransactionManagementError(
                f"The task {self.task} caught a database error outside of atomic(). A worker "
                "would have kept its other writes; in a test's transaction they are gone. Put the "
                "statement that may fail into a transaction.atomic() block, or test this task in "
                "a TransactionTestCase (pytest: django_db(transaction=True))."
            )

    def run_on_commit(self) -> None:
        """Call what the task has registered with on_commit(): in a worker it would have committed.

        Raise what a callback raises, as the end of an atomic() block does.
        """
        for saved in self._saved:
            saved.run_on_commit()


class _Saved:
    """A savepoint on one connection, and the callbacks that were there before."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.savepoint = connection.savepoint()
        self.callbacks = len(connection.run_on_commit)

    @property
    def is_broken(self) -> bool:
        raw = self.connection.connection
        status = getattr(getattr(raw, "info", None), "transaction_status", None)
        return self.connection.needs_rollback or status == TransactionStatus.INERROR

    def end(self) -> bool:
        """Keep what the task wrote if that is possible; say whether it was."""
        connection = self.connection
        if not self.is_broken:
            connection.savepoint_commit(self.savepoint)
            return True
        connection.needs_rollback = False
        connection.savepoint_rollback(self.savepoint)
        connection.savepoint_commit(self.savepoint)
        del connection.run_on_commit[self.callbacks :]
        return False

    def run_on_commit(self) -> None:
        connection = self.connection
        while len(connection.run_on_commit) > self.callbacks and not self.is_broken:
            _, callback, robust = connection.run_on_commit.pop(self.callbacks)
            try:
                callback()
            except Exception as error:
                if not robust:
                    raise
                _log.error("A callback of on_commit() failed: %s", error, exc_info=error)
