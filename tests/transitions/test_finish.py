"""What a running task can come to, and what is kept of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from django_taskq.db import Connection
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
from django_taskq.serialization import error_record
from django_taskq.transitions import finish
from tests.support import rows
from tests.support.rows import Running


def error(message: str = "no such order", *, attempt: int = 1, worker: str = "w") -> str:
    return error_record(
        class_path="builtins.ValueError",
        message=message,
        traceback_text="Traceback …",
        attempt=attempt,
        worker=worker,
    )


def completed(mine: Running, value: str | None = '"done"', **times: float) -> Completed:
    now = time.monotonic()
    return Completed(*mine, value, times.get("began", now), times.get("ended", now))


def failed(mine: Running, message: str = "no such order") -> Failed:
    return Failed(*mine, error(message), time.monotonic(), time.monotonic())


def retrying(mine: Running, delay: float = 30.0, message: str = "no such order") -> Retrying:
    return Retrying(*mine, error(message), delay, time.monotonic(), time.monotonic())


def cancelled(mine: Running) -> Cancelled:
    return Cancelled(*mine, error("not needed"), time.monotonic(), time.monotonic())


def cancelled_unstarted(mine: Running) -> CancelledUnstarted:
    return CancelledUnstarted(*mine, error("not again"), time.monotonic(), time.monotonic())


def expired(mine: Running) -> Expired:
    return Expired(*mine, error("too late"), time.monotonic(), time.monotonic())


def snoozed(mine: Running) -> Snoozed:
    return Snoozed(*mine, 30.0)


def parked(mine: Running) -> Parked:
    return Parked(*mine, "unknown:shop.tasks.send")


Send = Callable[[Connection, list[Any]], psycopg.Cursor[Any]]
Make = Callable[[Running], Outcome]

ARROWS: list[tuple[Send, Make, str]] = [
    (finish.complete, completed, "SUCCESSFUL"),
    (finish.fail, failed, "FAILED"),
    (finish.cancel, cancelled, "CANCELLED"),
    (finish.cancel_unstarted, cancelled_unstarted, "CANCELLED"),
    (finish.expire, expired, "EXPIRED"),
    (finish.retry, retrying, "READY"),
    (finish.snooze, snoozed, "READY"),
    (finish.park, parked, "HELD"),
]
every_arrow = pytest.mark.parametrize(
    "send, make, status", ARROWS, ids=[send.__name__ for send, _, _ in ARROWS]
)
ENDING = [arrow for arrow in ARROWS if arrow[2] not in ("READY", "HELD")]
every_end = pytest.mark.parametrize(
    "send, make, status", ENDING, ids=[send.__name__ for send, _, _ in ENDING]
)


@every_arrow
def test_it_leads_to_its_status(
    connection: Connection, worker_id: str, send: Send, make: Make, status: str
) -> None:
    mine = [rows.add_running(connection, worker_id) for _ in range(3)]

    cursor = send(connection, [make(task) for task in mine])

    assert cursor.rowcount == 3
    assert rows.statuses(connection, [task.id for task in mine]) == [status] * 3


@every_arrow
def test_under_another_claim_it_changes_nothing(
    connection: Connection, worker_id: str, send: Send, make: Make, status: str
) -> None:
    mine = rows.add_running(connection, worker_id)
    before = rows.row(connection, mine.id)

    cursor = send(connection, [make(Running(mine.id, str(uuid4())))])

    assert cursor.rowcount == 0
    assert rows.row(connection, mine.id) == before


@every_arrow
def test_in_a_batch_each_task_needs_its_own_claim(
    connection: Connection, worker_id: str, send: Send, make: Make, status: str
) -> None:
    one, other = (rows.add_running(connection, worker_id) for _ in range(2))
    swapped = [Running(one.id, other.claim), Running(other.id, one.claim)]

    assert send(connection, [make(task) for task in swapped]).rowcount == 0


@every_end
def test_a_task_with_successors_does_not_end_without_them(
    connection: Connection, worker_id: str, send: Send, make: Make, status: str
) -> None:
    plain = rows.add_running(connection, worker_id)
    leading = rows.add_running(connection, worker_id, has_successors=True)

    assert send(connection, [make(plain), make(leading)]).rowcount == 1
    assert rows.statuses(connection, [plain.id, leading.id]) == [status, "RUNNING"]


@every_end
def test_everything_that_a_task_was_is_kept(
    connection: Connection, worker_id: str, send: Send, make: Make, status: str
) -> None:
    was = {
        "queue_name": "mail",
        "priority": -7,
        "args": [1, {"a": "ü"}],
        "kwargs": {"x": None},
        "max_attempts": 4,
        "crashes": 1,
        "progress": {"done": 3},
        "options": {"timeout": 5},
        "headers": {"language": "de"},
    }
    mine = rows.add_running(connection, worker_id, **was)
    before = rows.row(connection, mine.id)

    send(connection, [make(mine)])

    after = rows.row(connection, mine.id)
    assert {key: after[key] for key in was} == was
    for key in ("task", "claim", "worker_id", "run_after", "enqueued_at"):
        assert after[key] == before[key]


@pytest.mark.parametrize(
    "send, make, attempts",
    [
        (finish.complete, completed, 2),
        (finish.fail, failed, 2),
        (finish.cancel, cancelled, 2),
        (finish.retry, retrying, 2),
        # These starts do not count.
        (finish.expire, expired, 1),
        (finish.cancel_unstarted, cancelled_unstarted, 1),
        (finish.snooze, snoozed, 1),
        (finish.park, parked, 1),
    ],
)
def test_an_attempt_counts_only_if_the_task_was_tried(
    connection: Connection, worker_id: str, send: Send, make: Make, attempts: int
) -> None:
    mine = rows.add_running(connection, worker_id, attempts=2)

    send(connection, [make(mine)])

    assert rows.row(connection, mine.id)["attempts"] == attempts


@pytest.mark.parametrize(
    "value", ['"\\u00fc \\"quoted\\" \\\\"', "1e16", "-0.0", "null", '{"a":[]}']
)
def test_a_value_is_kept_as_it_was_written(
    connection: Connection, worker_id: str, value: str
) -> None:
    mine = rows.add_running(connection, worker_id)

    finish.complete(connection, [completed(mine, value)])

    stored = connection.execute(
        "SELECT return_value::text FROM django_taskq_finishedtask WHERE id = %s", [mine.id]
    ).fetchone()
    assert stored == (value,)


def test_a_task_whose_value_is_not_kept_ends_among_others(
    connection: Connection, worker_id: str
) -> None:
    silent, telling = (rows.add_running(connection, worker_id) for _ in range(2))

    finish.complete(connection, [completed(silent, None), completed(telling, "1")])

    assert rows.row(connection, silent.id)["return_value"] is None
    assert rows.row(connection, telling.id)["return_value"] == 1


@every_end
def test_start_and_end_are_told_by_the_database_clock(
    connection: Connection, worker_id: str, send: Send, make: Make, status: str
) -> None:
    mine = rows.add_running(connection, worker_id)
    now = time.monotonic()
    outcome: Any = make(mine)

    send(connection, [outcome._replace(began=now - 100, ended=now - 40)])

    stored = rows.row(connection, mine.id)
    began, ended, asked = (
        datetime.fromisoformat(text)
        for text in (stored["started_at"], stored["finished_at"], clock(connection))
    )
    assert (ended - began).total_seconds() == pytest.approx(60, abs=0.001)
    assert (asked - ended).total_seconds() == pytest.approx(40, abs=20)


def clock(connection: Connection) -> str:
    found = connection.execute("SELECT clock_timestamp()").fetchone()
    assert found is not None
    return str(found[0])


def test_a_retry_waits_for_its_delay_and_forgets_its_claim(
    connection: Connection, worker_id: str
) -> None:
    mine = rows.add_running(connection, worker_id, progress={"done": 1})

    finish.retry(connection, [retrying(mine, delay=3600.0)])

    stored = rows.row(connection, mine.id)
    waits = datetime.fromisoformat(stored["run_after"]) - datetime.fromisoformat(clock(connection))
    assert waits.total_seconds() == pytest.approx(3600, abs=20)
    assert [stored[key] for key in ("claim", "worker_id", "started_at", "progress")] == [None] * 4


def test_a_snooze_waits_for_its_delay_and_leaves_no_error(
    connection: Connection, worker_id: str
) -> None:
    mine = rows.add_running(connection, worker_id)

    finish.snooze(connection, [Snoozed(*mine, 120.0)])

    stored = rows.row(connection, mine.id)
    waits = datetime.fromisoformat(stored["run_after"]) - datetime.fromisoformat(clock(connection))
    assert waits.total_seconds() == pytest.approx(120, abs=20)
    assert stored["errors"] == []


def test_delays_of_a_batch_belong_to_their_tasks(connection: Connection, worker_id: str) -> None:
    soon, late = (rows.add_running(connection, worker_id) for _ in range(2))

    finish.retry(connection, [retrying(late, delay=1000.0), retrying(soon, delay=0.0)])

    assert rows.row(connection, soon.id)["run_after"] < rows.row(connection, late.id)["run_after"]


def test_a_parked_task_says_what_it_waits_for(connection: Connection, worker_id: str) -> None:
    mine = rows.add_running(connection, worker_id)
    name = 'unknown:shop."odd",{name}\\'

    finish.park(connection, [Parked(*mine, name)])

    assert rows.row(connection, mine.id)["held_for"] == name


@pytest.mark.parametrize(
    "send, make", [(finish.fail, failed), (finish.cancel, cancelled), (finish.retry, retrying)]
)
def test_an_error_says_who_ran_it_and_when(
    connection: Connection, worker_id: str, send: Send, make: Make
) -> None:
    mine = rows.add_running(connection, worker_id)
    now = time.monotonic()
    outcome: Any = make(mine)
    record = error('a "quoted"\n\\backslash, {braces} ü', attempt=3, worker=worker_id)

    send(connection, [outcome._replace(error=record, began=now - 10, ended=now - 4)])

    stored = rows.row(connection, mine.id)["errors"]
    assert len(stored) == 1
    assert {**stored[0], **json.loads(record)} == stored[0]
    took = datetime.fromisoformat(stored[0]["finished_at"]) - datetime.fromisoformat(
        stored[0]["started_at"]
    )
    assert took.total_seconds() == pytest.approx(6, abs=0.001)


@pytest.mark.parametrize("send, make", [(finish.fail, failed), (finish.retry, retrying)])
@pytest.mark.parametrize("earlier", [0, 18, 19, 20])
def test_of_many_errors_the_first_and_the_last_19_are_kept(
    connection: Connection, worker_id: str, send: Send, make: Any, earlier: int
) -> None:
    before = [{"message": f"error {n}"} for n in range(earlier)]
    mine = rows.add_running(connection, worker_id, errors=before)

    send(connection, [make(mine, message="the newest")])

    messages = [record["message"] for record in rows.row(connection, mine.id)["errors"]]
    everything = [*(record["message"] for record in before), "the newest"]
    assert messages == everything[:1] + everything[1:][-19:]
    assert len(messages) == min(earlier + 1, 20)


def test_progress_is_stored_while_the_claim_holds(connection: Connection, worker_id: str) -> None:
    mine, lost = (rows.add_running(connection, worker_id) for _ in range(2))
    text = '{"done": 1, "total": null, "message": "say \\"hi\\""}'

    finish.report_progress(connection, [(*mine, text), (lost.id, str(uuid4()), text)])

    assert rows.row(connection, mine.id)["progress"] == json.loads(text)
    assert rows.row(connection, lost.id)["progress"] is None


def test_an_id_that_has_finished_before_is_refused_by_the_ordinary_statement(
    connection: Connection, worker_id: str
) -> None:
    mine = rows.add_running(connection, worker_id)
    rows.insert(connection, rows.DONE, id=mine.id, status="FAILED")

    with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
        finish.complete(connection, [completed(mine)])


def test_the_last_outcome_of_an_id_that_was_sent_twice_wins(
    connection: Connection, worker_id: str
) -> None:
    mine = rows.add_running(connection, worker_id, attempts=2)
    rows.insert(
        connection,
        rows.DONE,
        id=mine.id,
        status="FAILED",
        errors=[{"message": "the other run"}],
        finished_at=rows.ago(3600),
    )

    assert finish.complete_anyway(connection, completed(mine, "42")).rowcount == 1

    assert rows.live(connection, mine.id) is None
    stored = rows.row(connection, mine.id)
    assert (stored["status"], stored["return_value"]) == ("SUCCESSFUL", 42)
    assert (stored["claim"], stored["attempts"]) == (mine.claim, 2)
    assert stored["errors"] == []
    finished_at = datetime.fromisoformat(stored["finished_at"])
    ago = datetime.fromisoformat(clock(connection)) - finished_at
    assert ago.total_seconds() < 600


def test_a_failure_replaces_the_value_of_an_id_that_was_sent_twice(
    connection: Connection, worker_id: str
) -> None:
    mine = rows.add_running(connection, worker_id)
    rows.insert(connection, rows.DONE, id=mine.id, status="SUCCESSFUL", return_value="1")

    assert finish.fail_anyway(connection, failed(mine)).rowcount == 1

    stored = rows.row(connection, mine.id)
    assert (stored["status"], stored["return_value"]) == ("FAILED", None)
    assert [record["message"] for record in stored["errors"]] == ["no such order"]


def test_replacing_a_finished_row_needs_the_claim_too(
    connection: Connection, worker_id: str
) -> None:
    mine = rows.add_running(connection, worker_id)
    stale = Running(mine.id, str(uuid4()))

    assert finish.complete_anyway(connection, completed(stale)).rowcount == 0
    assert finish.fail_anyway(connection, failed(stale)).rowcount == 0
    assert rows.row(connection, mine.id)["status"] == "RUNNING"


def test_an_outcome_whose_answer_was_lost_is_recognised_by_id_and_claim(
    connection: Connection, worker_id: str
) -> None:
    stored, rescued = (rows.add_running(connection, worker_id) for _ in range(2))
    finish.complete(connection, [completed(stored), completed(rescued)])
    others_claim = Running(rescued.id, str(uuid4()))
    never = Running(str(uuid4()), str(uuid4()))

    assert finish.complete(connection, [completed(stored)]).rowcount == 0
    assert finish.confirm(connection, [stored, others_claim, never]) == {stored.id}
    assert finish.confirm(connection, []) == set()


@pytest.mark.parametrize("how", ["retry", "snooze"])
def test_a_task_that_was_asked_to_end_is_claimed_again_at_once(
    connection: Connection, worker_id: str, how: str
) -> None:
    mine = rows.add_running(connection, worker_id, cancel_requested_at=rows.ago(1))
    if how == "retry":
        finish.retry(connection, [Retrying(*mine, '{"message": "x"}', 3600.0, 0.0, 0.0)])
    else:
        finish.snooze(connection, [Snoozed(*mine, 3600.0)])

    row = rows.row(connection, mine.id)
    assert (row["status"], row["cancel_requested_at"] is None) == ("READY", False)
    due = connection.execute(
        "SELECT count(*) FROM django_taskq_livetask WHERE run_after <= clock_timestamp()"
    )
    assert due.fetchone() == (1,)
