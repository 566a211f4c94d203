"""expire: what waits when its time to start is over ends, and nothing else does."""

from __future__ import annotations

import json

from django_taskq.db import Connection
from django_taskq.ids import new_id
from django_taskq.transitions import expire
from tests.support import rows

ERROR = json.dumps({"exception_class_path": "django_taskq.exceptions.TaskExpired", "attempt": 0})


def test_what_nobody_started_in_time_ends_wherever_it_waits(connection: Connection) -> None:
    late = [
        rows.add(connection, expires_at=rows.ago(1)),
        rows.add(connection, expires_at=rows.ago(1), queue_name="of nobody"),
        rows.add(connection, expires_at=rows.ago(1), run_after=rows.ago(-60)),
        rows.add(connection, expires_at=rows.ago(1), status="HELD", held_for="unknown:gone"),
    ]
    young = rows.add(connection, expires_at=rows.ago(-60))
    always = rows.add(connection)
    running = rows.add_running(connection, rows.add_worker(connection), expires_at=rows.ago(1))

    assert expire.expire_waiting(connection, error=ERROR) == 4

    assert rows.statuses(connection, late) == ["EXPIRED"] * 4
    assert rows.statuses(connection, [young, always]) == ["READY"] * 2
    assert rows.row(connection, running.id)["status"] == "RUNNING"
    assert expire.expire_waiting(connection, error=ERROR) == 0


def test_it_keeps_what_it_had_and_says_why_it_ended(connection: Connection) -> None:
    errors = [{"attempt": 1, "message": "first"}]
    id = rows.add(
        connection,
        expires_at=rows.ago(1),
        attempts=1,
        errors=errors,
        args="[1e16]",
        options={"max_attempts": 3},
        priority=7,
    )
    before = rows.row(connection, id)

    expire.expire_waiting(connection, error=ERROR)

    after = rows.row(connection, id)
    for column in ("task", "queue_name", "priority", "args", "kwargs", "enqueued_at", "options"):
        assert after[column] == before[column]
    assert (after["attempts"], after["started_at"], after["return_value"]) == (1, None, None)
    [first, last] = after["errors"]
    assert first == errors[0]
    assert last["exception_class_path"].endswith("TaskExpired")
    assert last["attempt"] == 1
    assert last["finished_at"]


def test_many_go_oldest_first_a_thousand_at_a_time(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO django_taskq_livetask (task, queue_name, expires_at) "
        "SELECT 'x', 'of nobody', clock_timestamp() - n * interval '1 second' "
        "FROM generate_series(1, 1500) AS n"
    )

    assert expire.expire_waiting(connection, error=ERROR) == 1000
    left = connection.execute(
        "SELECT min(expires_at) > clock_timestamp() - interval '501 seconds' "
        "FROM django_taskq_livetask"
    ).fetchone()
    assert left == (True,)
    assert expire.expire_waiting(connection, error=ERROR) == 500


def test_an_id_that_has_ended_before_does_not_keep_the_others_waiting(
    connection: Connection,
) -> None:
    twice = rows.insert(connection, rows.DONE, id=new_id(), status="SUCCESSFUL", return_value="1")
    rows.add(connection, id=twice, expires_at=rows.ago(2))
    other = rows.add(connection, expires_at=rows.ago(1))

    assert expire.expire_waiting(connection, error=ERROR) == 2

    assert rows.statuses(connection, [twice, other]) == ["EXPIRED"] * 2
    assert rows.live(connection, twice) is None


def test_a_step_with_successors_is_left_to_the_statement_that_releases_them(
    connection: Connection,
) -> None:
    id = rows.add(connection, expires_at=rows.ago(1), has_successors=True)

    assert expire.expire_waiting(connection, error=ERROR) == 0
    assert rows.row(connection, id)["status"] == "READY"
