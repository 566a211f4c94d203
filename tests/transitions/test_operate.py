"""cancel and resume: tasks that wait."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from django.db import connection as django_connection

from django_taskq.db import Connection
from django_taskq.serialization import error_record
from django_taskq.transitions import operate
from tests.support import rows

REASON = error_record(
    class_path="django_taskq.exceptions.TaskCancelled",
    message="Cancelled before it ran.",
    traceback_text="",
    attempt=0,
    worker="",
)


@pytest.fixture
def users(db: None) -> psycopg.Connection[Any]:
    """Return the connection under Django's, in the transaction of the test."""
    django_connection.ensure_connection()
    found: psycopg.Connection[Any] = django_connection.connection
    return found


@pytest.mark.parametrize("held", [False, True], ids=["ready", "held"])
def test_a_waiting_task_is_cancelled_and_its_past_is_kept(
    users: psycopg.Connection[Any], held: bool
) -> None:
    past = [{"message": "first attempt"}]
    columns: dict[str, Any] = {"attempts": 1, "errors": past, "kwargs": {"a": 1}, "crashes": 1}
    columns["headers"] = {"language": "de"}
    if held:
        columns |= {"status": "HELD", "held_for": "unknown:x"}
    id = rows.add(users, **columns)

    assert operate.cancel_waiting("default", id, error=REASON) is True

    stored = rows.row(users, id)
    assert stored["status"] == "CANCELLED"
    assert [record["message"] for record in stored["errors"]] == [
        "first attempt",
        "Cancelled before it ran.",
    ]
    assert (stored["attempts"], stored["crashes"], stored["kwargs"]) == (1, 1, {"a": 1})
    assert stored["headers"] == {"language": "de"}
    assert stored["finished_at"] is not None


def test_a_running_task_is_not_cancelled(users: psycopg.Connection[Any]) -> None:
    mine = rows.add_running(users, rows.add_worker(users))

    assert operate.cancel_waiting("default", mine.id, error=REASON) is False
    assert rows.row(users, mine.id)["status"] == "RUNNING"


def test_a_task_with_successors_is_not_cancelled_without_them(
    users: psycopg.Connection[Any],
) -> None:
    id = rows.add(users, has_successors=True)

    assert operate.cancel_waiting("default", id, error=REASON) is False
    assert rows.row(users, id)["status"] == "READY"


def test_of_many_errors_a_cancelled_task_keeps_the_first_and_the_last_19(
    users: psycopg.Connection[Any],
) -> None:
    id = rows.add(users, errors=[{"message": f"error {n}"} for n in range(20)])

    operate.cancel_waiting("default", id, error=REASON)

    messages = [record["message"] for record in rows.row(users, id)["errors"]]
    assert messages == [
        "error 0",
        *(f"error {n}" for n in range(2, 20)),
        "Cancelled before it ran.",
    ]


def test_a_held_task_goes_on_when_a_worker_knows_its_name(connection: Connection) -> None:
    known = rows.add(connection, status="HELD", held_for="unknown:shop.tasks.new")
    other = rows.add(connection, status="HELD", held_for="unknown:shop.tasks.gone")
    before = rows.row(connection, known)

    assert operate.resume_known(connection, ["shop.tasks.new", "shop.tasks.more"]) == 1

    assert rows.statuses(connection, [known, other]) == ["READY", "HELD"]
    after = rows.row(connection, known)
    assert after["held_for"] is None
    # It queues from now on: not ahead of tasks that became due meanwhile.
    assert after["run_after"] > before["run_after"]


def test_a_held_task_that_is_due_later_keeps_its_time(connection: Connection) -> None:
    id = rows.add(
        connection, status="HELD", held_for="unknown:shop.tasks.new", run_after=rows.ago(-3600)
    )
    before = rows.row(connection, id)

    operate.resume_known(connection, ["shop.tasks.new"])

    assert rows.row(connection, id)["run_after"] == before["run_after"]


def test_a_name_that_is_held_for_another_reason_stays_held(connection: Connection) -> None:
    id = rows.add(connection, status="HELD", held_for="paused:shop.tasks.new")

    assert operate.resume_known(connection, ["shop.tasks.new"]) == 0
    assert rows.row(connection, id)["status"] == "HELD"


def test_at_most_a_thousand_tasks_go_on_at_a_time(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO django_taskq_livetask (task, status, held_for) "
        "SELECT 'x', 'HELD', 'unknown:x' FROM generate_series(1, 1100)"
    )

    assert operate.resume_known(connection, ["x"]) == 1000
    assert operate.resume_known(connection, ["x"]) == 100
    assert operate.resume_known(connection, ["x"]) == 0
