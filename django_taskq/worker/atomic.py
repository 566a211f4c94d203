"""Run `atomic` tasks: body, result and what the body enqueues commit together, or not at all.

The task's transaction is one of Django's, on the connection of the thread that runs it. Its last
statement is the completion, which matches nothing when the task has been taken away meanwhile:
then everything is rolled back. The feeder hears of it afterwards and has nothing to store.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, OperationalError, transaction
from psycopg.pq import TransactionStatus

from django_taskq import db
from django_taskq.events import one_line, task_extra, task_log
from django_taskq.exceptions import Cancel, UnstorableResult
from django_taskq.outcomes import Committed, Completed, Lost, Unanswered
from django_taskq.transitions import atomic, finish
from django_taskq.transitions.claim import Claimed
from django_taskq.worker.store import brief

# How often a task that ran into another transaction is run again at once, on the same attempt.
_RUNS_AGAIN = 3
_SERIALIZATION_FAILURE, _DEADLOCK = "40001", "40P01"
_LOCK_NOT_AVAILABLE, _QUERY_CANCELED = "55P03", "57014"

# Before a task is put back that cannot reach the database, in seconds.
_PAUSE = 1.0

# What the record of a task says that somebody has cancelled while it ran.
ASKED_TO_END = "Cancelled on request while it ran."

Report: TypeAlias = Callable[[dict[str, Any]], None]


# What the function of a task has returned, and its JSON text (None where it is not stored).
Body: TypeAlias = tuple[Any, str | None]


class AtomicRunner:
    """Run the `atomic` tasks of one thread."""

    def __init__(
        self,
        database: str,
        report: Callable[[Claimed, dict[str, Any]], None],
        worker_id: str,
    ) -> None:
        # The alias of the database with the tables.
        self.database = database
        self.report = report
        self.worker_id = worker_id
        # Whether it is READ COMMITTED, for connections that leave the level to the server.
        self._reads_committed: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()

    def run(
        self, row: Claimed, began: float, call: Callable[[Report], Body], *, reports: bool
    ) -> tuple[Committed | Unanswered | Lost, Any]:
        """Run a task in a transaction; return what became of it, and its value if it committed.

        `call` runs its function, which may report progress. Raise what the function or the commit
        has raised, with the transaction rolled back. One that ran into another transaction is run
        again, at most three times.
        """
        anyway = False
        try:
            db.user_connection(self.database).ensure_connection()
            reports = reports and self._may_report()
        except (OperationalError, InterfaceError, *db.Trouble) as error:
            # Its function has not been called: that is trouble of ours, and no failed attempt.
            task_log.warning(
                "Task %s (%s) cannot begin its transaction and is put back: %s",
                row.id,
                one_line(row.task),
                brief(error),
                extra=task_extra(row, self.worker_id),
            )
            time.sleep(_PAUSE)
            return Unanswered(row.id, row.claim, began, time.monotonic()), None
        for left in range(_RUNS_AGAIN, -1, -1):
            attempt = _Attempt(self, row, began, anyway=anyway, reports=reports)
            try:
                return attempt.run(call)
            except BaseException as error:
                outcome = attempt.outcome_in_spite_of(error)
                if outcome is not None:
                    return outcome, attempt.value
                has_double = attempt.met_its_double(error)
                if not left or not (has_double or attempt.met_others(error)):
                    raise
                anyway = anyway or has_double
            task_log.info(
                "Task %s (%s) ran into another transaction and runs again.",
                row.id,
                one_line(row.task),
                extra=task_extra(row, self.worker_id),
            )
            try:
                is_mine, is_cancelled = self._read(row)
            except (psycopg.Error, DatabaseError, InterfaceError):
                # Rolled back, and the connection is lost: the feeder puts it back.
                return Unanswered(row.id, row.claim, began, time.monotonic()), None
            if not is_mine:
                return Lost(row.id, row.claim, began, time.monotonic()), None
            if is_cancelled:
                raise Cancel(ASKED_TO_END)
        raise AssertionError("the last run returns or raises")

    def _read(self, row: Claimed) -> tuple[bool, bool]:
        connection = db.user_connection(self.database)
        connection.ensure_connection()
        with psycopg.Cursor(connection.connection) as cursor:
            return atomic.still_mine(cursor, id=row.id, claim=row.claim)

    def _may_report(self) -> bool:
        """Say whether others may write to the task's row meanwhile: not above READ COMMITTED.

        There the completion would fail, because the row has changed since the task's snapshot.
        """
        connection = db.user_connection(self.database)
        connection.ensure_connection()
        raw = connection.connection
        if raw.isolation_level is not None:
            return bool(raw.isolation_level <= psycopg.IsolationLevel.READ_COMMITTED)
        if raw not in self._reads_committed:
            level = raw.execute("SHOW default_transaction_isolation").fetchone()[0]
            self._reads_committed[raw] = level in ("read committed", "read uncommitted")
        return self._reads_committed[raw]


class _Attempt:
    """One run of an `atomic` task, from its BEGIN to its COMMIT."""

    def __init__(
        self, runner: AtomicRunner, row: Claimed, began: float, *, anyway: bool, reports: bool
    ) -> None:
        self.runner = runner
        self.row = row
        self.began = began
        # Complete it even though FinishedTask has a row with its id.
        self.anyway = anyway
        # Others may see its progress before it has ended.
        self.reports = reports
        self.value: Any = None
        # What the task last said of its progress, as JSON text; stored with its completion.
        self._progress: str | None = None
        # The driver's connection, once the body has ended and the completion is on its way.
        self._raw: Any = None
        self._is_committed = False

    def run(self, call: Callable[[Report], Body]) -> tuple[Committed, Any]:
        """Run it. Raise whatever goes wrong; `outcome_in_spite_of` knows what it means."""
        connection = db.user_connection(self.runner.database)
        is_inner = connection.in_atomic_block  # a test runs it within a transaction of its own
        if not is_inner and not connection.get_autocommit():
            raise ImproperlyConfigured(
                f'DATABASES["{self.runner.database}"] has AUTOCOMMIT off: atomic=True does not '
                "work there, because Django cannot commit the task's transaction."
            )
        with transaction.atomic(using=self.runner.database):
            if not is_inner:
                connection.on_commit(self._note_commit)  # the first of its hooks
            value, text = call(self._report)
            self._check(connection)
            self._raw = connection.connection
            if not self._complete(connection, text, is_inner=is_inner):
                raise _Taken
            self.value = value
        return self._committed(), value

    def outcome_in_spite_of(self, error: BaseException) -> Committed | Unanswered | Lost | None:
        """Return what became of the task if an error does not say it; None if it failed."""
        row, began = self.row, self.began
        if isinstance(error, _Taken):
            return Lost(row.id, row.claim, began, time.monotonic())
        if self._is_committed:
            task_log.error(
                "An on_commit hook of task %s (%s) raised %s; the task stays completed.",
                row.id,
                one_line(row.task),
                _where(error),
                extra=task_extra(row, self.runner.worker_id),
            )
            return self._committed()
        if self._raw is not None and self._raw.closed:
            return Unanswered(row.id, row.claim, began, time.monotonic())
        return None

    def met_others(self, error: BaseException) -> bool:
        """Say whether it failed because of another transaction, and may succeed if repeated."""
        state = _sqlstate(error)
        if state in (_LOCK_NOT_AVAILABLE, _QUERY_CANCELED):
            return self._raw is not None  # our own completion; the task's statements are its own
        return state in (_SERIALIZATION_FAILURE, _DEADLOCK)

    def met_its_double(self, error: BaseException) -> bool:
        """Say whether FinishedTask has a row with its id: somebody has enqueued it twice."""
        return (
            isinstance(error, psycopg.errors.UniqueViolation)
            and self._raw is not None
            and error.diag.table_name == "django_taskq_finishedtask"
        )

    def _complete(self, connection: Any, text: str | None, *, is_inner: bool) -> bool:
        """Store the result as the last statement; False if the task is not ours any more."""
        row = self.row
        done = Completed(row.id, row.claim, text, self.began, time.monotonic())
        try:
            with db.framework_pipeline(connection) as raw:
                if not is_inner:  # what is local to a transaction would outlive a savepoint
                    atomic.limit_end(psycopg.Cursor(raw))
                if self._progress is not None:
                    finish.report_progress(
                        psycopg.Cursor(raw), [(row.id, row.claim, self._progress)]
                    )
                if self.anyway:
                    cursor = finish.complete_anyway(psycopg.Cursor(raw), done)
                else:
                    cursor = finish.complete(psycopg.Cursor(raw), [done])
        except psycopg.DataError as error:
            raise UnstorableResult(f"PostgreSQL refused the return value: {error}") from None
        return cursor.rowcount == 1

    def _committed(self) -> Committed:
        return Committed(self.row.id, self.row.claim, self.began, time.monotonic())

    def _note_commit(self) -> None:
        self._is_committed = True

    def _report(self, progress: dict[str, Any]) -> None:
        self._progress = json.dumps(progress)
        if self.reports:
            self.runner.report(self.row, progress)

    def _check(self, connection: Any) -> None:
        """Refuse to complete what can only be rolled back."""
        raw = connection.connection
        if (
            connection.needs_rollback
            or raw is None
            or raw.info.transaction_status == TransactionStatus.INERROR
        ):
            raise transaction.TransactionManagementError(
                "The task's transaction can only be rolled back: a database error was caught in "
                "it, or set_rollback() or close() was called. Put what may fail into a "
                "transaction.atomic() block of its own."
            )


class _Taken(Exception):
    """The completion matched nothing."""


def _sqlstate(error: BaseException) -> str | None:
    """Return the code of an error of the database, Django's wrapping or not."""
    if isinstance(error, DatabaseError | InterfaceError):
        error = error.__cause__ or error
    return error.sqlstate if isinstance(error, psycopg.Error) else None


def _where(error: BaseException) -> str:
    """Return kind and place of an error; its message may hold what the task was called with."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return type(error).__qualname__ + place
