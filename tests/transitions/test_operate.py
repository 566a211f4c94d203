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


ENDED_BADLY = ["FAILED", "CANCELLED", "EXPIRED"]


@pytest.mark.parametrize("status", ENDED_BADLY)
def test_a_finished_task_goes_back_under_its_id_with_its_past_and_a_fresh_count(
    users: psycopg.Connection[Any], status: str
) -> None:
    columns: dict[str, Any] = {
        "status": status,
        "queue_name": "mail",
        "priority": 7,
        "args": '[1e16,  {"b": 1, "a": 2}]',
        "kwargs": '{"x":  1.0}',
        "attempts": 3,
        "max_attempts": 3,
        "crashes": 2,
        "errors": [{"message": "first"}, {"message": "last"}],
        "options": {"timeout": 5},
        "headers": {"tenant": "acme"},
        "run_after": rows.ago(3600),
        "progress": {"done": 1},
    }
    id = rows.insert(users, rows.DONE, **columns)
    before = rows.row(users, id)

    assert operate.requeue("default", [id], statuses=ENDED_BADLY) == {id}

    after = rows.row(users, id)
    kept = ("task", "queue_name", "priority", "max_attempts", "errors", "options", "headers")
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    assert after["enqueued_at"] == before["enqueued_at"]
    assert (after["status"], after["attempts"], after["crashes"]) == ("READY", 0, 0)
    assert (after["progress"], after["expires_at"]) == (None, None)
    # It queues from now on: not below the floors that claims start from.
    assert after["run_after"] > before["run_after"]
    stored = users.execute(
        "SELECT args::text, kwargs::text FROM django_taskq_livetask WHERE id = %s", [id]
    ).fetchone()
    assert stored == ('[1e16,  {"b": 1, "a": 2}]', '{"x":  1.0}')


def test_a_status_that_was_not_asked_for_stays_finished(users: psycopg.Connection[Any]) -> None:
    id = rows.insert(users, rows.DONE, status="SUCCESSFUL", return_value="1")

    assert operate.requeue("default", [id], statuses=ENDED_BADLY) == set()
    assert rows.row(users, id)["return_value"] == 1


def test_what_cannot_go_back_is_not_lost(users: psycopg.Connection[Any]) -> None:
    id = rows.insert(users, rows.DONE, status="FAILED")
    free = rows.insert(users, rows.DONE, status="FAILED")
    rows.add(users, id=id)  # its place is taken, by whatever mistake

    assert operate.requeue("default", [id, free], statuses=ENDED_BADLY) == {free}

    assert rows.finished(users, id) is not None
    assert rows.row(users, free)["status"] == "READY"


def test_many_waiting_tasks_are_cancelled_and_others_are_left(
    users: psycopg.Connection[Any],
) -> None:
    waiting = [rows.add(users, attempts=n) for n in range(3)]
    held = rows.add(users, status="HELD", held_for="unknown:x", headers={"tenant": "acme"})
    running = rows.add_running(users, rows.add_worker(users)).id
    awaited = rows.add(users, has_successors=True)
    ids = [*waiting, held, running, awaited]

    assert operate.cancel_many("default", ids, error=REASON) == {*waiting, held}

    assert rows.statuses(users, ids) == ["CANCELLED"] * 4 + ["RUNNING", "READY"]
    assert rows.row(users, held)["headers"] == {"tenant": "acme"}
    [error] = rows.row(users, waiting[2])["errors"]
    assert (error["message"], error["attempt"]) == ("Cancelled before it ran.", 2)
    assert error["finished_at"]


def test_a_waiting_task_whose_id_has_finished_too_keeps_no_other_from_being_cancelled(
    users: psycopg.Connection[Any],
) -> None:
    """As after a backup that was played back: an operator overwrites nothing."""
    twice, free = rows.add(users), rows.add(users)
    rows.insert(users, rows.DONE, id=twice, status="SUCCESSFUL", return_value="1")

    assert operate.cancel_waiting("default", twice, error=REASON) is False
    assert operate.cancel_many("default", [twice, free], error=REASON) == {free}

    assert rows.row(users, free)["status"] == "CANCELLED"
    live, finished = rows.live(users, twice), rows.finished(users, twice)
    assert live is not None and live["status"] == "READY"
    assert finished is not None and finished["return_value"] == 1


def test_a_running_task_is_asked_to_end_and_goes_on(users: psycopg.Connection[Any]) -> None:
    mine = rows.add_running(users, rows.add_worker(users))

    assert operate.request_cancel("default", mine.id) is True
    first = rows.row(users, mine.id)
    assert operate.request_cancel("default", mine.id) is True

    assert (first["status"], first["claim"]) == ("RUNNING", mine.claim)
    assert first["cancel_requested_at"] is not None
    assert rows.row(users, mine.id) == first


def test_only_running_tasks_are_asked_to_end(users: psycopg.Connection[Any]) -> None:
    worker_id = rows.add_worker(users)
    running = rows.add_running(users, worker_id)
    waiting = rows.add(users)
    done = rows.insert(users, rows.DONE, status="SUCCESSFUL")

    assert operate.request_cancel("default", waiting) is False
    assert operate.request_cancel("default", done) is False
    assert operate.request_cancel_many("default", [waiting, done, running.id]) == {running.id}
    assert rows.row(users, waiting)["cancel_requested_at"] is None
