"""Outcomes are stored in batches; one that the database refuses takes no other along."""

from __future__ import annotations

import json
import logging
import time
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from django_taskq.db import Connection
from django_taskq.exceptions import UnstorableResult
from django_taskq.outcomes import (
    Cancelled,
    CancelledUnstarted,
    Completed,
    Expired,
    Failed,
    Outcome,
    Parked,
    Retrying,
    Snoozed,
)
from django_taskq.serialization import class_path, error_record
from django_taskq.worker import store
from tests.support import rows
from tests.support.rows import Running

ERROR = error_record(
    class_path="builtins.ValueError", message="no", traceback_text="", attempt=1, worker="w"
)
# jsonb does not take this; an error record made by the framework never holds it.
BAD_ERROR = '{"exception_class_path": "ValueError", "message": "\\u0000", "traceback": ""}'


def completed(mine: Running, value: str = "1") -> Completed:
    now = time.monotonic()
    return Completed(*mine, value, now - 3, now - 1)


def one_of_each(connection: Connection, worker_id: str) -> list[Outcome]:
    """Return an outcome of every kind, each of a task that runs."""
    now = time.monotonic()

    def mine() -> Running:
        return rows.add_running(connection, worker_id)

    return [
        completed(mine()),
        Retrying(*mine(), ERROR, 5.0, now, now),
        Snoozed(*mine(), 5.0),
        Failed(*mine(), ERROR, now, now),
        Cancelled(*mine(), ERROR, now, now),
        Expired(*mine(), ERROR, now, now),
        CancelledUnstarted(*mine(), ERROR, now, now),
        Parked(*mine(), "unknown:x"),
    ]


EACH = ["SUCCESSFUL", "READY", "READY", "FAILED", "CANCELLED", "EXPIRED", "CANCELLED", "HELD"]


def statuses(connection: Connection, outcomes: list[Outcome]) -> list[str]:
    return rows.statuses(connection, [outcome.id for outcome in outcomes])


def test_a_batch_of_all_kinds_is_stored(connection: Connection, worker_id: str) -> None:
    outcomes = one_of_each(connection, worker_id)

    assert store.store(connection, outcomes, worker_id) == len(outcomes)
    assert statuses(connection, outcomes) == EACH


def test_each_kind_is_one_statement(connection: Connection, worker_id: str) -> None:
    outcomes = [o for _ in range(3) for o in one_of_each(connection, worker_id)]

    cursors = store.send(connection, outcomes)

    assert [cursor.rowcount for cursor in cursors] == [3] * len(EACH)


def bad_outcomes(mine: Running) -> dict[str, Outcome]:
    now = time.monotonic()
    return {
        "value": completed(mine, "{broken"),
        "value that is too deep": completed(mine, "[" * 50_000 + "]" * 50_000),
        "error of a failure": Failed(*mine, BAD_ERROR, now, now),
        "error of a retry": Retrying(*mine, BAD_ERROR, 5.0, now, now),
        "delay": Snoozed(*mine, 1e300),
        "reason": Cancelled(*mine, BAD_ERROR, now, now),
    }


@pytest.mark.parametrize("kind", bad_outcomes(Running("", "")))
def test_an_outcome_that_the_database_refuses_ends_failed_and_the_others_are_stored(
    connection: Connection, worker_id: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = one_of_each(connection, worker_id)
    bad = bad_outcomes(rows.add_running(connection, worker_id))[kind]

    assert store.store(connection, [*good[:3], bad, *good[3:]], worker_id) == len(good) + 1

    assert statuses(connection, good) == EACH
    stored = rows.row(connection, bad.id)
    assert (stored["status"], stored["return_value"]) == ("FAILED", None)
    assert [record["exception_class_path"] for record in stored["errors"]] == [
        class_path(UnstorableResult)
    ]
    ours = [record for record in caplog.records if record.name.startswith("django_taskq")]
    assert [bad.id in record.getMessage() for record in ours] == [True]


def test_a_task_whose_id_has_finished_before_takes_no_other_along(
    connection: Connection, worker_id: str
) -> None:
    good = one_of_each(connection, worker_id)
    again = rows.add_running(connection, worker_id)
    rows.insert(connection, rows.DONE, id=again.id, status="FAILED")

    assert store.store(connection, [*good, completed(again, "42")], worker_id) == len(good) + 1

    assert statuses(connection, good) == EACH
    assert rows.live(connection, again.id) is None
    assert rows.row(connection, again.id)["return_value"] == 42


def test_a_cancelled_task_whose_id_has_finished_before_ends_too(
    connection: Connection, worker_id: str
) -> None:
    again = rows.add_running(connection, worker_id)
    rows.insert(connection, rows.DONE, id=again.id, status="SUCCESSFUL")

    store.store(connection, [Cancelled(*again, ERROR, 0.0, 0.0)], worker_id)

    assert rows.live(connection, again.id) is None


def test_an_outcome_that_came_too_late_is_not_counted(
    connection: Connection, worker_id: str
) -> None:
    mine = rows.add_running(connection, worker_id)

    assert store.store(connection, [completed(Running(mine.id, str(uuid4())))], worker_id) == 0
    assert rows.row(connection, mine.id)["status"] == "RUNNING"


def test_a_lock_that_cannot_be_had_is_no_fault_of_the_outcome(
    connection: Connection, worker_id: str
) -> None:
    mine = rows.add_running(connection, worker_id)
    with psycopg.connect(connection.info.dsn) as other:
        other.execute("SELECT FROM django_taskq_livetask WHERE id = %s FOR UPDATE", [mine.id])
        with pytest.raises(psycopg.OperationalError):
            store.store(connection, [completed(mine)], worker_id)

    assert store.store(connection, [completed(mine)], worker_id) == 1


def test_what_nobody_holds_is_stored_at_once_and_the_rest_is_left_for_later(
    connection: Connection, worker_id: str
) -> None:
    held, free, gone, lost = (rows.add_running(connection, worker_id) for _ in range(4))
    store.store(connection, [completed(gone)], worker_id)
    outcomes: list[Any] = [
        completed(held),
        completed(free),
        completed(gone),  # its answer was lost
        completed(Running(lost.id, str(uuid4()))),  # its task is somebody else's
    ]
    with psycopg.connect(connection.info.dsn) as other:
        other.execute("SELECT FROM django_taskq_livetask WHERE id = %s FOR UPDATE", [held.id])
        began = time.monotonic()
        assert store.store_free(connection, outcomes, worker_id) == (1, {outcomes[0].id})
        assert time.monotonic() - began < 0.9, "it has waited for the lock"
    assert rows.statuses(connection, [held.id, free.id]) == ["RUNNING", "SUCCESSFUL"]

    assert store.store_free(connection, outcomes[:1], worker_id) == (1, set())
    assert rows.statuses(connection, [held.id]) == ["SUCCESSFUL"]


def test_what_a_task_last_said_is_stored_with_its_outcome_and_waits_for_no_lock(
    connection: Connection, worker_id: str
) -> None:
    held, running, free, bad = (rows.add_running(connection, worker_id) for _ in range(4))
    outcomes: list[Any] = [completed(held), completed(free), completed(bad, "{broken")]
    words = [(*mine, '{"done": 7}') for mine in (held, running, free, bad)]
    with psycopg.connect(connection.info.dsn) as other:
        other.execute(
            "SELECT FROM django_taskq_livetask WHERE id = ANY (%s::uuid[]) FOR UPDATE",
            [[held.id, running.id]],
        )
        began = time.monotonic()
        matched = store.store_free(connection, outcomes, worker_id, words)
        assert time.monotonic() - began < 0.9, "it has waited for the lock"
    assert matched == (2, {held.id, running.id})
    assert [rows.row(connection, mine.id)["progress"] for mine in (held, running, free, bad)] == [
        None,
        None,
        {"done": 7},
        {"done": 7},
    ]

    assert store.store_free(connection, outcomes[:1], worker_id, words[:2]) == (1, set())

    assert rows.row(connection, held.id)["progress"] == {"done": 7}
    assert rows.row(connection, running.id)["progress"] == {"done": 7}


def test_what_a_task_last_said_outlives_an_outcome_that_the_database_refuses(
    connection: Connection, worker_id: str
) -> None:
    bad, good = (rows.add_running(connection, worker_id) for _ in range(2))
    outcomes: list[Any] = [completed(bad, "{broken"), completed(good)]
    words = [(*mine, '{"done": 7}') for mine in (bad, good)]

    assert store.store(connection, outcomes, worker_id, words) == 2

    assert rows.row(connection, bad.id)["progress"] == {"done": 7}
    assert rows.row(connection, good.id)["progress"] == {"done": 7}


@pytest.mark.parametrize("one_by_one", [store.store, store.store_free])
def test_what_a_task_said_and_the_database_refuses_is_dropped_and_nothing_else(
    connection: Connection, worker_id: str, caplog: pytest.LogCaptureFixture, one_by_one: Any
) -> None:
    bad, good = (rows.add_running(connection, worker_id) for _ in range(2))
    outcomes: list[Any] = [completed(bad), completed(good)]

    one_by_one(connection, outcomes, worker_id, [(*bad, "{broken"), (*good, '{"done": 7}')])

    assert rows.statuses(connection, [bad.id, good.id]) == ["SUCCESSFUL", "SUCCESSFUL"]
    assert rows.row(connection, good.id)["progress"] == {"done": 7}
    assert f"What task {bad.id} said cannot be stored" in caplog.text


def test_what_is_refused_among_what_nobody_holds_takes_no_other_along(
    connection: Connection, worker_id: str
) -> None:
    bad, good = (rows.add_running(connection, worker_id) for _ in range(2))
    outcomes: list[Any] = [completed(bad, "{broken"), completed(good)]

    assert store.store_free(connection, outcomes, worker_id) == (2, set())

    assert rows.statuses(connection, [bad.id, good.id]) == ["FAILED", "SUCCESSFUL"]


def test_what_came_too_late_is_logged_and_what_was_stored_before_is_not(
    connection: Connection, worker_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    stored, lost, again = (rows.add_running(connection, worker_id) for _ in range(3))
    late: list[Any] = [
        completed(stored),
        completed(Running(lost.id, str(uuid4()))),
        Retrying(again.id, str(uuid4()), ERROR, 1.0, 0.0, 0.0),
    ]
    store.store(connection, [completed(stored)], worker_id)

    store.report_late(connection, late)

    messages = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(messages) == 1
    assert lost.id in messages[0]


def test_the_record_of_a_refused_outcome_says_what_postgresql_said(
    connection: Connection, worker_id: str
) -> None:
    mine = rows.add_running(connection, worker_id)

    store.store(connection, [completed(mine, "{broken")], worker_id)

    record = rows.row(connection, mine.id)["errors"][0]
    assert "invalid input syntax for type json" in record["message"]
    assert json.dumps(record["message"]).isascii()
    assert record["worker"] == worker_id
