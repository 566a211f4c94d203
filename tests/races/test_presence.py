"""Several observers, and the dead who are not: exactly one has its way, and nobody waits."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from unittest import mock
from uuid import uuid4

import pytest

from django_taskq import db
from django_taskq.db import Connection
from django_taskq.outcomes import Completed
from django_taskq.transitions import claim, finish, presence, rescue
from django_taskq.transitions.claim import Lane
from tests.support import rows
from tests.support.rows import Running
from tests.support.waiting import start_and_wait_until_blocked

ERROR = '{"exception_class_path": "TaskCrashed", "message": "lost", "traceback": ""}'


def sweep(connection: Connection, worker_id: str) -> rescue.Swept:
    return rescue.sweep(
        connection,
        worker_id,
        known=["shop.tasks.send"],
        once=[],
        error=ERROR,
        once_error=ERROR,
    )


def complete(connection: Connection, mine: Running) -> int:
    return finish.complete(connection, [Completed(*mine, "1", 0.0, time.monotonic())]).rowcount


def lose(connection: Connection, worker_id: str) -> None:
    connection.execute("DELETE FROM django_taskq_worker WHERE id = %s", [worker_id])


def seen(connection: Connection) -> list[presence.Seen]:
    return presence.beat(connection, []).others


def test_of_two_observers_one_declares_a_worker_dead_and_the_other_does_not_wait(
    one: Connection, other: Connection, worker_id: str
) -> None:
    silent = seen(one)

    with one.transaction():
        assert presence.declare_dead(one, silent) == {worker_id}
        assert presence.declare_dead(other, silent) == set()

    assert presence.declare_dead(other, silent) == set()
    assert seen(other) == []


def test_a_beat_that_is_about_to_commit_saves_its_process(
    one: Connection, other: Connection, worker_id: str
) -> None:
    silent = seen(other)

    with one.transaction():
        presence.beat(one, [worker_id])
        assert presence.declare_dead(other, silent) == set()

    assert presence.declare_dead(other, silent) == set()
    assert [row.id for row in seen(other)] == [worker_id]


def test_a_beat_that_comes_too_late_hears_that_it_does(
    one: Connection, other: Connection, worker_id: str
) -> None:
    silent = seen(one)

    with one.transaction():
        presence.declare_dead(one, silent)
        beating = start_and_wait_until_blocked(
            lambda: presence.beat(other, [worker_id]), other, one
        )

    assert beating.result() == (set(), [])


def test_a_late_finish_that_is_about_to_commit_wins_over_the_sweep(
    one: Connection, other: Connection, worker_id: str
) -> None:
    mine = rows.add_running(one, worker_id)
    lose(one, worker_id)

    with one.transaction():
        assert complete(one, mine) == 1
        assert sweep(other, worker_id) == ([], [])

    assert sweep(other, worker_id) == ([], [])
    stored = rows.row(one, mine.id)
    assert (stored["status"], stored["crashes"]) == ("SUCCESSFUL", 0)


@pytest.mark.parametrize(("crashes", "status"), [(0, "READY"), (2, "FAILED")])
def test_a_finish_that_comes_after_the_sweep_changes_nothing(
    one: Connection, other: Connection, worker_id: str, crashes: int, status: str
) -> None:
    mine = rows.add_running(one, worker_id, crashes=crashes)
    lose(one, worker_id)

    with one.transaction():
        assert sum(map(len, sweep(one, worker_id))) == 1
        finishing = start_and_wait_until_blocked(lambda: complete(other, mine), other, one)

    assert finishing.result() == 0
    assert rows.row(one, mine.id)["status"] == status


def test_sweeps_in_a_crowd_move_each_task_once(one: Connection, worker_id: str) -> None:
    count, sweepers = 300, 4
    for n in range(count):
        rows.add_running(one, worker_id, crashes=n % 3)
    lose(one, worker_id)
    barrier = Barrier(sweepers)

    def sweep_all(_: int) -> list[str]:
        with db.worker_connection("default", name="test crowd") as connection:
            barrier.wait()
            swept = sweep(connection, worker_id)
        return swept.rescued + swept.failed

    with ThreadPoolExecutor(sweepers) as pool:
        moved = [id for ids in pool.map(sweep_all, range(sweepers)) for id in ids]
    moved += [id for ids in sweep(one, worker_id) for id in ids]

    assert len(moved) == len(set(moved)) == count
    found = one.execute(
        "SELECT crashes, count(*) FROM django_taskq_livetask WHERE status = 'READY' GROUP BY 1"
    ).fetchall()
    assert dict(found) == {1: 100, 2: 100}
    failed = one.execute(
        "SELECT count(*) FROM django_taskq_finishedtask WHERE status = 'FAILED' AND crashes = 3"
    ).fetchone()
    assert failed == (100,)


def paused(statement: str) -> str:
    """Let a sweep take its snapshot, and pause before it looks at tasks."""
    pause = "WITH pause AS MATERIALIZED (SELECT pg_advisory_xact_lock(42)), lost AS"
    where = "WHERE EXISTS (SELECT FROM pause) AND t.worker_id ="
    return statement.replace("WITH lost AS", pause).replace("WHERE t.worker_id =", where)


def claim_anew(connection: Connection, mine: Running, worker_id: str) -> str:
    """Let a running task go back and be claimed by a worker."""
    token = str(uuid4())
    connection.execute(
        "UPDATE django_taskq_livetask SET claim = %s, worker_id = %s WHERE id = %s",
        [token, worker_id, mine.id],
    )
    return token


@pytest.mark.parametrize(("arrow", "crashes"), [("RESCUE_ORPHANS", 0), ("CONDEMN_ORPHANS", 2)])
@pytest.mark.parametrize("by", ["a worker that arrived meanwhile", "the same worker"])
def test_what_was_claimed_anew_after_a_sweep_began_is_not_taken_by_it(
    one: Connection, other: Connection, worker_id: str, by: str, arrow: str, crashes: int
) -> None:
    mine = rows.add_running(one, worker_id, crashes=crashes)
    lose(one, worker_id)
    other.execute("SET lock_timeout = '20s'")
    one.execute("SELECT pg_advisory_lock(42)")

    with mock.patch.object(rescue, arrow, paused(getattr(rescue, arrow))):
        sweeping = start_and_wait_until_blocked(lambda: sweep(other, worker_id), other, one)
        holder = worker_id if by == "the same worker" else rows.add_worker(one)
        token = claim_anew(one, mine, holder)
        one.execute("SELECT pg_advisory_unlock(42)")
        assert sweeping.result() == ([], [])

    stored = rows.row(one, mine.id)
    assert (stored["status"], stored["claim"], stored["worker_id"]) == ("RUNNING", token, holder)
    # The next look decides on what is there then.
    assert rescue.find_orphaned(one) == ([worker_id] if by == "the same worker" else [])


def test_a_claim_under_way_when_its_worker_is_declared_dead_is_found(
    one: Connection, other: Connection, worker_id: str
) -> None:
    id = rows.add(one)
    with one.transaction():
        claim.claim(
            one,
            worker_id=worker_id,
            token=str(uuid4()),
            lanes=[Lane("default", 0)],
            floors=["-infinity"],
            limit=1,
        )
        assert presence.declare_dead(other, seen(other)) == {worker_id}
        assert rescue.find_orphaned(other) == []

    assert rescue.find_orphaned(other) == [worker_id]
    assert sweep(other, worker_id).rescued == [id]
