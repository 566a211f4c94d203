"""Who has lost a task can neither end nor move it: every statement that could is known here."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import django_taskq
from django_taskq.db import Connection
from django_taskq.outcomes import (
    Cancelled,
    CancelledUnstarted,
    Completed,
    Expired,
    Failed,
    Parked,
    Retrying,
    Snoozed,
    Unanswered,
)
from django_taskq.transitions import claim, expire, finish, operate, rescue, travel
from django_taskq.transitions.claim import Lane
from tests.support import rows
from tests.support.rows import Running
from tests.support.statements import statements

ERROR = '{"exception_class_path": "ValueError", "message": "no", "traceback": ""}'
NAME = "shop.tasks.send"
NOW = time.monotonic()
# What writes into the table of unfinished tasks, other than by inserting.
WRITES = re.compile(r"\b(UPDATE|DELETE FROM)\s+django_taskq_livetask\b")
SQL_THAT_WRITES = re.compile(r"\b(UPDATE|DELETE FROM|INSERT INTO|COPY)\s+django_taskq_\w+")

# Sends a statement for somebody who has had the task once: his connection, its id and the claim
# that he remembers, and the worker that he was.
Late = Callable[[Connection, Running, str], object]


def swept(connection: Connection, mine: Running, worker: str) -> object:
    return rescue.sweep(connection, worker, known=[NAME], once=[], error=ERROR, once_error=ERROR)


def rescued(connection: Connection, mine: Running, worker: str) -> object:
    once = rescue.Once(names=[NAME], running=[mine.id], error=ERROR, unsent=ERROR)
    return rescue.rescue(connection, worker, running=[mine.id], error=ERROR, once=once)


LATE: dict[str, Late] = {
    "finish.COMPLETE": lambda c, m, w: finish.complete(c, [Completed(*m, "1", NOW, NOW)]),
    "finish.COMPLETE_ANYWAY": lambda c, m, w: finish.complete_anyway(
        c, Completed(*m, "1", NOW, NOW)
    ),
    "finish.FAIL": lambda c, m, w: finish.fail(c, [Failed(*m, ERROR, NOW, NOW)]),
    "finish.FAIL_ANYWAY": lambda c, m, w: finish.fail_anyway(c, Failed(*m, ERROR, NOW, NOW)),
    "finish.CANCEL": lambda c, m, w: finish.cancel(c, [Cancelled(*m, ERROR, NOW, NOW)]),
    "finish.CANCEL_UNSTARTED": lambda c, m, w: finish.cancel_unstarted(
        c, [CancelledUnstarted(*m, ERROR, NOW, NOW)]
    ),
    "finish.EXPIRE": lambda c, m, w: finish.expire(c, [Expired(*m, ERROR, NOW, NOW)]),
    "finish.RETRY": lambda c, m, w: finish.retry(c, [Retrying(*m, ERROR, 1.0, NOW, NOW)]),
    "finish.SNOOZE": lambda c, m, w: finish.snooze(c, [Snoozed(*m, 1.0)]),
    "finish.RUN_AGAIN": lambda c, m, w: finish.run_again(c, [Unanswered(*m, NOW, NOW)]),
    "finish.PARK": lambda c, m, w: finish.park(c, [Parked(*m, "unknown:x")]),
    "finish.REPORT_PROGRESS": lambda c, m, w: finish.report_progress(c, [(*m, "{}")]),
    "rescue.GIVE_BACK": lambda c, m, w: rescue.give_back(c, w, kept=[]),
    "rescue.GIVE_BACK_UNSTARTED": lambda c, m, w: rescue.give_back_unstarted(
        c, w, claims=[m.claim], kept=[]
    ),
    "rescue.NOTE_START": lambda c, m, w: rescue.note_start(c, w, [(m.id, NOW)]),
    "rescue.CONDEMN_ONCE": rescued,
    "rescue.CONDEMN": lambda c, m, w: rescue.rescue(c, w, running=[m.id], error=ERROR),
    "rescue.RESCUE": lambda c, m, w: rescue.rescue(c, w, running=[m.id], error=ERROR),
    "rescue.CONDEMN_ORPHANS": swept,
    "rescue.RESCUE_ORPHANS": swept,
}

# These name the process that is dead instead of the claim. Its id is never used again, so a task
# that somebody else has claimed since names another one.
BY_WORKER = {"rescue.NOTE_START", "rescue.CONDEMN", "rescue.CONDEMN_ONCE"}

LANE = [Lane("default", 0)]


def claimed(connection: Connection, mine: Running, worker: str) -> object:
    return claim.claim(
        connection, worker_id=worker, token=str(uuid4()), lanes=LANE, floors=["-infinity"], limit=9
    )


# What leaves running tasks as they are: the statement's own reason, and how it is sent.
OF_WAITING: dict[str, tuple[str, Late]] = {
    "claim.CLAIM": ("READY only", claimed),
    "claim.CLAIM_WOKEN": (
        "READY only",
        lambda c, m, w: claim.claim_woken(c, worker_id=w, token=str(uuid4()), limit=9),
    ),
    "claim.CLAIM_SUSPECT": (
        "READY only",
        lambda c, m, w: claim.claim_suspect(c, worker_id=w, token=str(uuid4()), queues=["default"]),
    ),
    "claim.CLAIM_ONE": (
        "READY only",
        lambda c, m, w: claim.claim_one(c, worker_id=w, token=str(uuid4()), task_id=m.id),
    ),
    "operate.CANCEL_WAITING": (
        "READY and HELD only",
        lambda c, m, w: operate.cancel_waiting("default", m.id, error=ERROR),
    ),
    "operate.CANCEL_MANY": (
        "READY and HELD only",
        lambda c, m, w: operate.cancel_many("default", [m.id], error=ERROR),
    ),
    "expire.EXPIRE_WAITING": (
        "all but RUNNING",
        lambda c, m, w: expire.expire_waiting(c, error=ERROR),
    ),
    "operate.RESUME": ("HELD only", lambda c, m, w: operate.resume_known(c, [NAME])),
    "travel.MOVE_TIMES": (
        "all but RUNNING; for tests",
        lambda c, m, w: travel.move_times(c, timedelta(hours=1)),
    ),
}

# Anybody may ask a running task to end, whoever runs it: nothing is moved by that.
ASKS = {
    "operate.REQUEST_CANCEL": lambda c, m, w: operate.request_cancel("default", m.id),
    "operate.REQUEST_CANCEL_MANY": lambda c, m, w: operate.request_cancel_many("default", [m.id]),
}


@pytest.fixture
def reclaimed(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> Running:
    """Return a task that runs for the third time, somewhere; operators use this connection."""
    monkeypatch.setattr(operate, "user_cursor", lambda alias: connection.cursor())
    worker_id = rows.add_worker(connection)
    return rows.add_running(connection, worker_id, task=NAME, crashes=2, attempts=3)


def test_every_statement_that_could_end_or_move_a_running_task_is_known_here() -> None:
    """A new one needs its case in LATE, or a reason in OF_WAITING."""
    writing = {name for name, text in statements().items() if WRITES.search(text) and "." in name}

    assert writing == {*LATE, *OF_WAITING, *ASKS}


@pytest.mark.parametrize("name", LATE)
def test_a_worker_that_has_lost_a_task_changes_nothing(
    connection: Connection, reclaimed: Running, name: str
) -> None:
    before = rows.row(connection, reclaimed.id)

    LATE[name](connection, Running(reclaimed.id, str(uuid4())), str(uuid4()))

    assert rows.row(connection, reclaimed.id) == before


@pytest.mark.parametrize("name", LATE)
def test_a_worker_that_has_a_task_does_change_it(
    connection: Connection, worker_id: str, name: str
) -> None:
    """Or else the test above would show nothing."""
    crashes = 2 if "CONDEMN" in name else 0
    mine = rows.add_running(connection, worker_id, task=NAME, crashes=crashes)
    before = rows.row(connection, mine.id)
    if "ORPHANS" in name:
        connection.execute("DELETE FROM django_taskq_worker")

    LATE[name](connection, mine, worker_id)

    assert rows.row(connection, mine.id) != before


@pytest.mark.parametrize("name", LATE)
def test_its_text_compares_the_claim(name: str) -> None:
    compares = re.search(r"\bclaim = (m|mine|lost)\.claim\b", statements()[name])

    assert bool(compares) == (name not in BY_WORKER)
    if name in BY_WORKER:
        assert "t.worker_id = %(worker)s::uuid" in statements()[name]


@pytest.mark.parametrize("name", OF_WAITING)
def test_what_is_for_waiting_tasks_leaves_a_running_one_alone(
    connection: Connection, worker_id: str, reclaimed: Running, name: str
) -> None:
    before = rows.row(connection, reclaimed.id)

    OF_WAITING[name][1](connection, reclaimed, worker_id)

    assert rows.row(connection, reclaimed.id) == before


@pytest.mark.parametrize("name", ASKS)
def test_who_asks_a_running_task_to_end_changes_nothing_else(
    connection: Connection, worker_id: str, reclaimed: Running, name: str
) -> None:
    before = rows.row(connection, reclaimed.id)

    ASKS[name](connection, reclaimed, worker_id)

    after = rows.row(connection, reclaimed.id)
    assert after.pop("cancel_requested_at") is not None
    before.pop("cancel_requested_at")
    assert after == before


def test_only_transitions_write() -> None:
    """What a walk over their statements shows, it shows of the whole package."""
    package = Path(django_taskq.__file__).parent
    found = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] not in ("transitions", "migrations")
        and SQL_THAT_WRITES.search(path.read_text())
    ]

    assert found == []


def test_a_token_survives_a_database_that_goes_back_in_time(
    connection: Connection, worker_id: str
) -> None:
    """After a failover that has lost the claims: those who hold them are not taken for the new."""
    count, batch = 1000, 20
    connection.execute(
        "INSERT INTO django_taskq_livetask (task, run_after) "
        "SELECT %s, clock_timestamp() - interval '1 minute' FROM generate_series(1, %s)",
        [NAME, count],
    )
    connection.execute("CREATE TEMPORARY TABLE older AS TABLE django_taskq_livetask")

    def claim_all() -> list[Running]:
        mine: list[Running] = []
        while len(mine) < count:
            token = str(uuid4())
            cursor = claim.claim(
                connection,
                worker_id=worker_id,
                token=token,
                lanes=LANE,
                floors=["-infinity"],
                limit=batch,
            )
            mine += [Running(row.id, token) for row in claim.claimed_rows(cursor, token, LANE)[0]]
        return mine

    lost = claim_all()
    connection.execute("DELETE FROM django_taskq_livetask")
    connection.execute("INSERT INTO django_taskq_livetask SELECT * FROM older")
    present = claim_all()

    assert {mine.id for mine in lost} == {mine.id for mine in present}
    now = time.monotonic()
    for outcomes, store in (
        ([Completed(*mine, "1", now, now) for mine in lost], finish.complete),
        ([Failed(*mine, ERROR, now, now) for mine in lost], finish.fail),
        ([Retrying(*mine, ERROR, 0.0, now, now) for mine in lost], finish.retry),
    ):
        assert store(connection, outcomes).rowcount == 0  # type: ignore[operator]
    assert finish.confirm(connection, list(lost)) == set()
    done = finish.complete(connection, [Completed(*mine, "2", now, now) for mine in present])
    assert done.rowcount == count


def test_the_same_worker_with_a_new_claim_is_another_one(
    connection: Connection, worker_id: str
) -> None:
    """A claim that was given back and claimed again by whom it was taken from."""
    mine = rows.add_running(connection, worker_id)
    rescue.give_back(connection, worker_id, kept=[])
    token = str(uuid4())
    again = claim.claim_one(connection, worker_id=worker_id, token=token, task_id=mine.id)
    assert again is not None
    before: dict[str, Any] = rows.row(connection, mine.id)

    rescue.give_back_unstarted(connection, worker_id, claims=[mine.claim], kept=[])
    finish.complete(connection, [Completed(*mine, "1", NOW, NOW)])

    assert rows.row(connection, mine.id) == before
