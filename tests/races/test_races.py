"""Whatever meets on a row, exactly one wins and the other changes nothing."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from django_taskq import db
from django_taskq.db import Connection
from django_taskq.outcomes import Completed, Failed, Parked, Retrying, Snoozed
from django_taskq.transitions import claim, expire, finish, operate, rescue
from django_taskq.transitions.claim import Lane
from tests.support import rows
from tests.support.rows import Running
from tests.support.waiting import start_and_wait_until_blocked

DEFAULT = [Lane("default", 0)]
ERROR = '{"exception_class_path": "TaskCrashed", "message": "died", "traceback": ""}'


def take(
    connection: Connection, worker_id: str, *, limit: int = 10, lanes: list[Lane] = DEFAULT
) -> list[Running]:
    token = str(uuid4())
    cursor = claim.claim(
        connection,
        worker_id=worker_id,
        token=token,
        lanes=lanes,
        floors=["-infinity"] * len(lanes),
        limit=limit,
    )
    return [Running(row.id, token) for row in claim.claimed_rows(cursor, token, lanes)[0]]


def take_suspect(connection: Connection, worker_id: str) -> list[str]:
    found = claim.claim_suspect(
        connection, worker_id=worker_id, token=str(uuid4()), queues=["default"]
    )
    return [row.id for row in found]


def complete(connection: Connection, mine: Running) -> int:
    return finish.complete(connection, [Completed(*mine, "1", 0.0, time.monotonic())]).rowcount


def test_a_claim_takes_what_another_open_claim_leaves_and_does_not_wait(
    one: Connection, other: Connection, worker_id: str
) -> None:
    ids = [rows.add(one, run_after=rows.ago(100 - n)) for n in range(5)]

    with one.transaction():
        first = take(one, worker_id, limit=3)
        second = take(other, rows.add_worker(other), limit=3)

    assert [mine.id for mine in first] == ids[:3]
    assert [mine.id for mine in second] == ids[3:]


def test_what_another_claim_gave_up_can_be_claimed_again(
    one: Connection, other: Connection, worker_id: str
) -> None:
    id = rows.add(one)

    with one.transaction(force_rollback=True):
        assert [mine.id for mine in take(one, worker_id)] == [id]
        assert take(other, worker_id) == []

    assert [mine.id for mine in take(other, worker_id)] == [id]
    assert rows.row(one, id)["attempts"] == 1


def test_claimers_in_a_crowd_never_share_a_task_and_leave_none(
    one: Connection, worker_id: str
) -> None:
    count, claimers = 600, 4
    lanes = [Lane(f"queue{n}", 0) for n in range(3)]
    one.execute(
        "INSERT INTO django_taskq_livetask (task, queue_name) "
        "SELECT 'x', 'queue' || n %% 3 FROM generate_series(1, %s) AS n",
        [count],
    )

    def claim_all(_: int) -> list[str]:
        mine: list[str] = []
        with db.worker_connection("default", name="test crowd") as connection:
            while batch := take(connection, worker_id, limit=7, lanes=lanes):
                mine += [task.id for task in batch]
        return mine

    with ThreadPoolExecutor(claimers) as pool:
        claimed = [id for ids in pool.map(claim_all, range(claimers)) for id in ids]

    assert len(claimed) == count
    assert len(set(claimed)) == count
    attempts = one.execute("SELECT DISTINCT attempts FROM django_taskq_livetask").fetchall()
    assert attempts == [(1,)]


def test_a_full_claim_is_not_made_short_by_others_at_the_same_heads(
    one: Connection, other: Connection, worker_id: str
) -> None:
    lanes = [Lane("queue0", 0), Lane("queue1", 0)]
    for n in range(40):
        rows.add(one, queue_name=f"queue{n % 2}")

    with one.transaction():
        assert len(take(one, worker_id, limit=15, lanes=lanes)) == 15
        assert len(take(other, worker_id, limit=15, lanes=lanes)) == 15


def test_one_suspect_is_claimed_once(one: Connection, other: Connection, worker_id: str) -> None:
    first = rows.add(one, crashes=2, run_after=rows.ago(20))
    second = rows.add(one, crashes=2, run_after=rows.ago(10))

    with one.transaction():
        assert take_suspect(one, worker_id) == [first]
        assert take_suspect(other, worker_id) == [second]
        assert take_suspect(other, worker_id) == []


def test_a_worker_whose_row_has_gone_claims_nothing(
    one: Connection, other: Connection, worker_id: str
) -> None:
    id = rows.add(one)
    rows.add(one, crashes=2)
    other.execute("DELETE FROM django_taskq_worker")

    assert take(one, worker_id) == []
    assert take_suspect(one, worker_id) == []
    assert rows.row(one, id)["status"] == "READY"


def test_a_task_that_is_being_rescued_is_not_finished_by_its_late_worker(
    one: Connection, other: Connection, worker_id: str
) -> None:
    mine = rows.add_running(one, worker_id)

    with one.transaction():
        rescue.rescue(one, worker_id, running=[mine.id], error=ERROR)
        finishing = start_and_wait_until_blocked(lambda: complete(other, mine), other, one)

    assert finishing.result() == 0
    assert rows.row(one, mine.id)["status"] == "READY"


def test_a_task_that_is_being_finished_is_not_rescued(
    one: Connection, other: Connection, worker_id: str
) -> None:
    mine = rows.add_running(one, worker_id)

    with one.transaction():
        assert complete(one, mine) == 1
        rescuing = start_and_wait_until_blocked(
            lambda: rescue.rescue(other, worker_id, running=[mine.id], error=ERROR), other, one
        )

    assert rescuing.result() == 0
    stored = rows.row(one, mine.id)
    assert (stored["status"], stored["crashes"], stored["errors"]) == ("SUCCESSFUL", 0, [])


def test_a_task_whose_finish_was_undone_is_rescued(
    one: Connection, other: Connection, worker_id: str
) -> None:
    mine = rows.add_running(one, worker_id)

    with one.transaction(force_rollback=True):
        complete(one, mine)
        rescuing = start_and_wait_until_blocked(
            lambda: rescue.rescue(other, worker_id, running=[mine.id], error=ERROR), other, one
        )

    assert rescuing.result() == 1
    assert rows.row(one, mine.id)["status"] == "READY"


def test_a_task_that_is_being_condemned_is_not_finished_too(
    one: Connection, other: Connection, worker_id: str
) -> None:
    mine = rows.add_running(one, worker_id, crashes=2)

    with one.transaction():
        rescue.rescue(one, worker_id, running=[mine.id], error=ERROR)
        finishing = start_and_wait_until_blocked(lambda: complete(other, mine), other, one)

    assert finishing.result() == 0
    assert rows.row(one, mine.id)["status"] == "FAILED"


LATE: dict[str, Any] = {
    "complete": complete,
    "fail": lambda c, mine: finish.fail(c, [Failed(*mine, ERROR, 0.0, 0.0)]).rowcount,
    "retry": lambda c, mine: finish.retry(c, [Retrying(*mine, ERROR, 9.0, 0.0, 0.0)]).rowcount,
    "snooze": lambda c, mine: finish.snooze(c, [Snoozed(*mine, 9.0)]).rowcount,
    "park": lambda c, mine: finish.park(c, [Parked(*mine, "unknown:x")]).rowcount,
    "progress": lambda c, mine: finish.report_progress(c, [(*mine, "{}")]).rowcount,
}


@pytest.mark.parametrize("late", LATE)
def test_an_outcome_that_comes_after_a_rescue_changes_nothing_even_while_the_task_runs_again(
    one: Connection, other: Connection, worker_id: str, late: str
) -> None:
    id = rows.add(one)
    [first] = take(one, worker_id)
    rescue.rescue(one, worker_id, running=[], error=ERROR)
    [again] = take(other, rows.add_worker(other))
    running = rows.row(other, id)

    assert LATE[late](one, first) == 0

    assert rows.row(other, id) == running
    assert complete(other, again) == 1
    assert LATE[late](one, first) == 0
    assert rows.row(other, id)["claim"] == again.claim


def test_a_rescue_leaves_a_task_to_the_worker_that_has_claimed_it_meanwhile(
    one: Connection, other: Connection, worker_id: str
) -> None:
    id = rows.add(one)
    take(one, worker_id)
    living = rows.add_worker(other)

    with one.transaction():
        rescue.give_back(one, worker_id, kept=[])
        rescuing = start_and_wait_until_blocked(
            lambda: rescue.rescue(other, worker_id, running=[id], error=ERROR), other, one
        )
        take(one, living)

    assert rescuing.result() == 0
    stored = rows.row(one, id)
    assert (stored["status"], stored["worker_id"], stored["crashes"]) == ("RUNNING", living, 0)


def test_giving_back_keeps_what_it_is_told_to_keep_and_what_was_claimed_by_others(
    one: Connection, other: Connection, worker_id: str
) -> None:
    ids = [rows.add(one, run_after=rows.ago(100 - n)) for n in range(6)]
    take(one, worker_id, limit=5)
    take(other, rows.add_worker(other))

    assert rescue.give_back(other, worker_id, kept=ids[:2]) == 3

    assert rows.statuses(one, ids) == ["RUNNING"] * 2 + ["READY"] * 3 + ["RUNNING"]
    assert [mine.id for mine in take(other, worker_id)] == ids[2:5]


def test_giving_back_finds_the_rows_of_a_claim_whose_answer_was_lost(
    one: Connection, other: Connection, worker_id: str
) -> None:
    ids = [rows.add(one) for _ in range(3)]
    take(one, worker_id)
    one.close()

    assert rescue.give_back(other, worker_id, kept=[]) == 3
    assert rows.statuses(other, ids) == ["READY"] * 3


def test_a_task_that_is_being_claimed_is_not_cancelled(
    one: Connection, other: Connection, worker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = rows.add(one)
    monkeypatch.setattr(operate, "user_cursor", lambda alias: other.cursor())

    with one.transaction():
        take(one, worker_id)
        cancelling = start_and_wait_until_blocked(
            lambda: operate.cancel_waiting("default", id, error=ERROR), other, one
        )

    assert cancelling.result() is False
    assert rows.row(one, id)["status"] == "RUNNING"


def test_a_task_that_is_being_cancelled_is_not_claimed_and_nobody_waits(
    one: Connection, other: Connection, worker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = rows.add(one)
    monkeypatch.setattr(operate, "user_cursor", lambda alias: one.cursor())

    with one.transaction():
        assert operate.cancel_waiting("default", id, error=ERROR) is True
        assert take(other, worker_id) == []

    assert take(other, worker_id) == []
    assert rows.row(one, id)["status"] == "CANCELLED"


def test_a_successor_that_is_added_while_a_task_finishes_is_not_missed(
    one: Connection, other: Connection, worker_id: str
) -> None:
    mine = rows.add_running(one, worker_id)

    with one.transaction():
        one.execute(
            "UPDATE django_taskq_livetask SET has_successors = true WHERE id = %s", [mine.id]
        )
        finishing = start_and_wait_until_blocked(lambda: complete(other, mine), other, one)

    assert finishing.result() == 0
    assert rows.row(one, mine.id)["status"] == "RUNNING"


def test_an_expired_task_that_is_being_claimed_or_cancelled_is_left_to_whoever_does_it(
    one: Connection, other: Connection, worker_id: str
) -> None:
    held = rows.add(one, expires_at=rows.ago(1))
    free = rows.add(one, expires_at=rows.ago(1), queue_name="of nobody")

    with one.transaction():
        [mine] = take(one, worker_id)
        assert mine.id == held
        assert expire.expire_waiting(other, error=ERROR) == 1
    assert rows.statuses(one, [held, free]) == ["RUNNING", "EXPIRED"]

    assert expire.expire_waiting(other, error=ERROR) == 0


def test_held_tasks_that_two_workers_know_go_on_once(one: Connection, other: Connection) -> None:
    ids = [rows.add(one, status="HELD", held_for="unknown:x") for _ in range(5)]

    with one.transaction():
        assert operate.resume_known(one, ["x"]) == 5
        assert operate.resume_known(other, ["x"]) == 0

    assert rows.statuses(one, ids) == ["READY"] * 5


def test_a_finish_gives_up_on_a_lock_after_a_second(
    one: Connection, other: Connection, worker_id: str
) -> None:
    mine = rows.add_running(one, worker_id)

    with one.transaction():
        one.execute("SELECT FROM django_taskq_livetask WHERE id = %s FOR UPDATE", [mine.id])
        with pytest.raises(psycopg.errors.LockNotAvailable):
            complete(other, mine)

    assert complete(other, mine) == 1


ENDED_BADLY = ["FAILED", "CANCELLED", "EXPIRED"]


def as_operator(monkeypatch: pytest.MonkeyPatch, connection: Connection) -> None:
    """Let what operators do go over this connection."""
    monkeypatch.setattr(operate, "user_cursor", lambda alias: connection.cursor())


def test_of_two_operators_who_retry_the_same_tasks_each_task_goes_back_for_one(
    one: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [rows.insert(one, rows.DONE, status="FAILED") for _ in range(4)]

    with one.transaction():
        as_operator(monkeypatch, one)
        first = operate.requeue("default", ids[:3], statuses=ENDED_BADLY)
        as_operator(monkeypatch, other)
        second = operate.requeue("default", ids, statuses=ENDED_BADLY)

    assert (first, second) == (set(ids[:3]), {ids[3]})
    assert operate.requeue("default", ids, statuses=ENDED_BADLY) == set()
    assert rows.statuses(one, ids) == ["READY"] * 4


def test_operators_in_a_crowd_retry_every_task_once(
    one: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [rows.insert(one, rows.DONE, status="FAILED") for _ in range(200)]

    def operator(number: int) -> set[str]:
        moved: set[str] = set()
        with db.worker_connection("default", name=f"operator {number}") as connection:
            for first in range(0, len(ids), 20):
                asked = ids[first : first + 20]
                found = connection.execute(
                    operate.REQUEUE, {"ids": asked, "statuses": ENDED_BADLY}
                ).fetchall()
                moved |= {row[0] for row in found}
        return moved

    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(operator, range(4)))

    assert sorted(id for share in shares for id in share) == sorted(ids)
    assert rows.statuses(one, ids) == ["READY"] * len(ids)


def test_a_retry_that_is_undone_leaves_the_task_as_it_had_ended(
    one: Connection, other: Connection, worker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = rows.insert(one, rows.DONE, status="FAILED")
    before = rows.row(one, id)
    as_operator(monkeypatch, one)

    with one.transaction(force_rollback=True):
        assert operate.requeue("default", [id], statuses=ENDED_BADLY) == {id}
        assert take(other, worker_id) == []

    assert rows.row(other, id) == before


def test_a_retried_task_is_claimed_and_can_fail_again(
    one: Connection, worker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = rows.insert(one, rows.DONE, status="FAILED", attempts=2, max_attempts=2)
    as_operator(monkeypatch, one)
    operate.requeue("default", [id], statuses=ENDED_BADLY)

    [mine] = take(one, worker_id)
    assert finish.fail(one, [Failed(*mine, ERROR, 0.0, 0.0)]).rowcount == 1

    stored = rows.row(one, id)
    assert (stored["status"], stored["attempts"]) == ("FAILED", 1)


def test_cancelling_many_skips_what_is_being_claimed_and_does_not_wait(
    one: Connection, other: Connection, worker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [rows.add(one, run_after=rows.ago(100 - n)) for n in range(4)]
    as_operator(monkeypatch, other)

    with one.transaction():
        take(one, worker_id, limit=2)
        assert operate.cancel_many("default", ids, error=ERROR) == set(ids[2:])

    assert rows.statuses(one, ids) == ["RUNNING"] * 2 + ["CANCELLED"] * 2


def test_of_two_operators_who_cancel_the_same_tasks_each_task_ends_once(
    one: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [rows.add(one) for _ in range(3)]

    with one.transaction():
        as_operator(monkeypatch, one)
        first = operate.cancel_many("default", ids[:2], error=ERROR)
        as_operator(monkeypatch, other)
        second = operate.cancel_many("default", ids, error=ERROR)

    assert (first, second) == (set(ids[:2]), {ids[2]})
    assert rows.statuses(one, ids) == ["CANCELLED"] * 3
