"""Django's connections in a worker: kept from one task to the next, and clean for each."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
from django.db.backends.signals import connection_created
from psycopg.pq import TransactionStatus

from django_taskq import db

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


class UserConnections:
    """The Django connections that tasks of this thread have opened.

    They are kept between tasks, not closed: opening one costs milliseconds. What a task left behind
    goes: an open transaction is rolled back, a broken connection closed, the query log emptied.
    """

    def __init__(self, *, max_age: float) -> None:
        self.max_age = max_age
        self._opened: dict[BaseDatabaseWrapper, float] = {}
        self._thread = threading.get_ident()
        connection_created.connect(self._note)

    def drop_dead(self) -> None:
        """Close what the server has closed, before a batch: data on an idle connection is its end.

        Otherwise the first task after a restart of the database would pay for it.
        """
        self._look()
        for connection in list(self._opened):
            raw = connection.connection
            if raw is not None and (raw.closed or select.select([raw], [], [], 0)[0]):
                _close(connection)
                del self._opened[connection]

    def clean(self, *, look: bool = False) -> None:
        """Bring every connection back to a fresh state, after a task.

        `look`: also those of which no signal has told, as after a task that failed.
        """
        if look:
            self._look()
        if self._opened:
            for connection in list(self._opened):
                self._clean_one(connection)

    def close(self) -> None:
        """Close every connection."""
        self._look()
        for connection in list(self._opened):
            _close(connection)
        self._opened.clear()

    def _note(self, *, connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
        if threading.get_ident() == self._thread:
            self._opened[connection] = time.monotonic()

    def _look(self) -> None:
        """Note connections of which no signal has told: another receiver may have failed first.

        It does so when it sends statements on a new connection, and the database goes away.
        """
        if threading.get_ident() != self._thread:
            return
        for connection in db.opened_connections():
            if connection.connection is not None:
                self._opened.setdefault(connection, time.monotonic())

    def _clean_one(self, connection: BaseDatabaseWrapper) -> None:
        connection.queries_log.clear()
        connection.run_on_commit = []
        if connection.connection is None:
            self._opened.pop(connection, None)
        elif not _is_fresh(connection) or time.monotonic() - self._opened[
            connection
        ] > self._age_limit(connection):
            _close(connection)
            self._opened.pop(connection, None)

    def _age_limit(self, connection: BaseDatabaseWrapper) -> float:
        return max(self.max_age, float(connection.settings_dict["CONN_MAX_AGE"] or 0))


def _is_fresh(connection: Any) -> bool:
    """Say whether the next task may use a connection as it is."""
    return (
        not connection.in_atomic_block
        and not connection.errors_occurred
        and not connection.needs_rollback
        and not connection.closed_in_transaction
        and connection.get_autocommit()
        and connection.connection.info.transaction_status == TransactionStatus.IDLE
    )


def _close(connection: Any) -> None:
    """Close a connection and drop what Django remembers of its transaction."""
    raw = connection.connection
    connection.connection = None
    connection.in_atomic_block = False
    connection.savepoint_ids = []
    connection.atomic_blocks = []
    connection.needs_rollback = False
    connection.closed_in_transaction = False
    connection.errors_occurred = False
    if raw is not None:
        with contextlib.suppress(psycopg.Error):
            raw.close()
