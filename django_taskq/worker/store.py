"""Store outcomes: a statement per kind; when the database refuses one, find out which."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, assert_never

import psycopg

from django_taskq.db import Connection, Cursor, TooMuch, Trouble, roll_back
from django_taskq.events import one_line, worker_log
from django_taskq.exceptions import UnstorableResult
from django_taskq.outcomes import (
    Cancelled,
    CancelledUnstarted,
    Completed,
    Ended,
    Expired,
    Failed,
    Lost,
    Outcome,
    Parked,
    Retrying,
    Snoozed,
    Unanswered,
    Unstored,
)
from django_taskq.serialization import class_path, error_record
from django_taskq.transitions import finish
from django_taskq.worker.progress import Word

# One statement per kind of outcome.
_STATEMENTS: dict[type, Callable[[Connection, Any], Cursor]] = {
    Completed: finish.complete,
    Unanswered: finish.run_again,
    Retrying: finish.retry,
    Snoozed: finish.snooze,
    Failed: finish.fail,
    Cancelled: finish.cancel,
    CancelledUnstarted: finish.cancel_unstarted,
    Expired: finish.expire,
    Parked: finish.park,
}


def send(connection: Connection, outcomes: Sequence[Unstored]) -> list[Cursor]:
    """Send outcomes, each kind in one statement; their row counts say how many were still ours."""
    kinds: dict[type, list[Unstored]] = {}
    for outcome in outcomes:
        kinds.setdefault(type(outcome), []).append(outcome)
    return [_STATEMENTS[kind](connection, alike) for kind, alike in kinds.items()]


def store(
    connection: Connection,
    outcomes: Sequence[Unstored],
    worker_id: str,
    words: Sequence[Word] = (),
) -> int:
    """Store outcomes, and before them what tasks last said; return how many were still ours.

    If the database refuses one of the outcomes, it ends FAILED and the others are stored.
    """
    try:
        with connection.pipeline():
            report(connection, words)
            cursors = send(connection, outcomes)
        return sum(cursor.rowcount for cursor in cursors)
    except psycopg.Error as error:
        if _is_no_fault_of_theirs(error):
            raise
        roll_back(connection)
        _report_alone(connection, words)
        return sum(_store_alone(connection, outcome, worker_id) for outcome in outcomes)


def store_free(
    connection: Connection,
    outcomes: Sequence[Unstored],
    worker_id: str,
    words: Sequence[Word] = (),
) -> tuple[int, set[str]]:
    """Do so for tasks whose rows nobody else holds; the others are left for later.

    Return how many outcomes were still ours, and the ids of those others.
    """
    if not outcomes and not words:
        return 0, set()
    held: set[str] = set()
    free, said = list(outcomes), list(words)
    pairs = {o.id: o.claim for o in outcomes} | {id: claim for id, claim, _ in words}
    try:
        with connection.transaction():
            held = finish.find_held(connection, list(pairs.items()))
            free = [outcome for outcome in outcomes if outcome.id not in held]
            said = [word for word in words if word[0] not in held]
            with connection.pipeline():
                report(connection, said)
                cursors = send(connection, free)
        return sum(cursor.rowcount for cursor in cursors), held
    except psycopg.Error as error:
        if _is_no_fault_of_theirs(error):
            raise
    roll_back(connection)
    _report_alone(connection, said)
    return sum(_store_alone(connection, outcome, worker_id) for outcome in free), held


def report(connection: Connection, words: Sequence[Word]) -> None:
    """Send what tasks last said, if they did."""
    if words:
        finish.report_progress(connection, words)


def _report_alone(connection: Connection, words: Sequence[Word]) -> None:
    """Store what tasks last said; what the database refuses of it is dropped."""
    for word in words:
        id = word[0]
        try:
            report(connection, [word])
        except psycopg.Error as error:
            if _is_no_fault_of_theirs(error):
                raise
            roll_back(connection)
            worker_log.error("What task %s said cannot be stored: %s", id, brief(error))


def _store_alone(connection: Connection, outcome: Unstored, worker_id: str) -> int:
    try:
        match outcome:
            case Completed():
                return finish.complete_anyway(connection, outcome).rowcount
            case Failed():
                return finish.fail_anyway(connection, outcome).rowcount
            case (
                Unanswered()
                | Retrying()
                | Snoozed()
                | Cancelled()
                | CancelledUnstarted()
                | Expired()
                | Parked()
            ):
                return send(connection, [outcome])[0].rowcount
            case _:
                assert_never(outcome)
    except psycopg.Error as error:
        if _is_no_fault_of_theirs(error):
            raise
        roll_back(connection)
        worker_log.error("What task %s came to cannot be stored: %s", outcome.id, brief(error))
        return finish.fail_anyway(connection, _refused(outcome, error, worker_id)).rowcount


def _is_no_fault_of_theirs(error: psycopg.Error) -> bool:
    """Say whether the same outcomes may be stored later: a connection lost, a lock not had."""
    return isinstance(error, Trouble) and not isinstance(error, TooMuch)


def _refused(outcome: Unstored, error: psycopg.Error, worker_id: str) -> Failed:
    """Make the outcome of a task whose own outcome the database does not take."""
    now = time.monotonic()
    record = error_record(
        class_path=class_path(UnstorableResult),
        message=f"PostgreSQL refused what the task came to: {brief(error)}",
        traceback_text="",
        attempt=0,
        worker=worker_id,
    )
    return Failed(outcome.id, outcome.claim, record, getattr(outcome, "began", now), now)


def report_late(connection: Connection, outcomes: Sequence[Unstored]) -> None:
    """Log the outcomes that matched nothing: their tasks had been rescued and run elsewhere.

    An outcome that was stored, and whose answer was lost, matches nothing either when it is sent
    again; it is found by its claim and is no loss.
    """
    ending = [o for o in outcomes if not isinstance(o, Retrying | Snoozed | Parked)]
    mine = finish.confirm(connection, [(o.id, o.claim) for o in ending])
    for outcome in ending:
        if isinstance(outcome, Unanswered):
            if outcome.id in mine:
                worker_log.info("Task %s had committed; only the answer was lost.", outcome.id)
        elif outcome.id not in mine:
            _warn_late(outcome)


def report_lost(outcomes: Sequence[Ended]) -> None:
    """Log the atomic tasks that found their row taken away when they were about to commit."""
    for outcome in outcomes:
        if isinstance(outcome, Lost):
            _warn_late(outcome)


def _warn_late(outcome: Outcome) -> None:
    worker_log.warning(
        "The outcome of task %s (%s) came too late and was dropped: the task had been taken from "
        "this worker.",
        outcome.id,
        type(outcome).__name__,
    )


def brief(error: BaseException) -> str:
    """Return the first line of a database error, fit for a log line: it quotes what it refuses."""
    return one_line(str(error).strip().split("\n")[0].strip() or type(error).__name__, 500)
