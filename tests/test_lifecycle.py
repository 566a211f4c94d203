"""Each arrow of statuses.TRANSITIONS works, and there is no way along any other."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.db import IntegrityError, transaction
from django.db import connection as django_connection

from django_taskq.outcomes import (
    Cancelled,
    Completed,
    Expired,
    Failed,
    Parked,
    Retrying,
    Snoozed,
)
from django_taskq.statuses import FINISHED, TRANSITIONS, UNFINISHED, TaskStatus
from django_taskq.transitions import claim, enqueue, expire, finish, operate, rescue
from django_taskq.transitions.claim import Lane
from tests.support import rows
from tests.support.rows import Running

Connection = psycopg.Connection[Any]

ERROR = '{"exception_class_path": "ValueError", "message": "no", "traceback": ""}'
NAME = "shop.tasks.send"


@pytest.fixture
def connection(db: None) -> Connection:
    """Return the connection under Django's: the verbs of users and of workers share it here."""
    django_connection.ensure_connection()
    found: Connection = django_connection.connection
    return found


def do_enqueue(connection: Connection, worker_id: str, mine: Running) -> None:
    settled = enqueue.Settled(
        task=NAME,
        queue_name="default",
        priority=0,
        max_attempts=1,
        run_after=None,
        delay=0.0,
        expires_after=None,
        options=None,
        headers=None,
    )
    try:
        with transaction.atomic():
            enqueue.enqueue("default", settled, enqueue.NewRow(mine.id, "[]", "{}"))
    except IntegrityError:
        pass  # refused


def do_claim(connection: Connection, worker_id: str, mine: Running) -> None:
    claim.claim(
        connection,
        worker_id=worker_id,
        token=str(uuid4()),
        lanes=[Lane("default", 0)],
        floors=["-infinity"],
        limit=10,
    )


def do_cancel(connection: Connection, worker_id: str, mine: Running) -> None:
    now = time.monotonic()
    finish.cancel(connection, [Cancelled(*mine, ERROR, now, now)])
    operate.cancel_waiting("default", mine.id, error=ERROR)
    operate.cancel_many("default", [mine.id], error=ERROR)


def do_requeue(connection: Connection, worker_id: str, mine: Running) -> None:
    operate.requeue("default", [mine.id], statuses=[status.value for status in FINISHED])


def do_rescue(connection: Connection, worker_id: str, mine: Running) -> None:
    rescue.rescue(connection, worker_id, running=[mine.id], error=ERROR)


def do_expire(connection: Connection, worker_id: str, mine: Running) -> None:
    ending(finish.expire, Expired)(connection, worker_id, mine)
    expire.expire_waiting(connection, error=ERROR)


def ending(send: Any, kind: Any) -> Callable[[Connection, str, Running], object]:
    now = time.monotonic()
    return lambda connection, worker_id, mine: send(connection, [kind(*mine, ERROR, now, now)])


VERBS: dict[str, Callable[[Connection, str, Running], object]] = {
    "enqueue": do_enqueue,
    "claim": do_claim,
    "complete": lambda c, w, mine: finish.complete(c, [Completed(*mine, "1", 0.0, 0.0)]),
    "retry": lambda c, w, mine: finish.retry(c, [Retrying(*mine, ERROR, 1.0, 0.0, 0.0)]),
    "snooze": lambda c, w, mine: finish.snooze(c, [Snoozed(*mine, 1.0)]),
    "fail": ending(finish.fail, Failed),
    "cancel": do_cancel,
    "expire": do_expire,
    "park": lambda c, w, mine: finish.park(c, [Parked(*mine, f"unknown:{NAME}")]),
    "requeue": do_requeue,
    "resume": lambda c, w, mine: operate.resume_known(c, [NAME]),
    "give_back": lambda c, w, mine: rescue.give_back(c, w, kept=[]),
    "rescue": do_rescue,
}

# How a row has to be for a verb to lead there, where that depends on more than its status.
NEEDS: dict[tuple[str, TaskStatus], dict[str, Any]] = {
    ("rescue", TaskStatus.FAILED): {"crashes": 2},
    ("expire", TaskStatus.EXPIRED): {"expires_at": rows.ago(1)},
}

ALLOWED = {(verb, origin) for verb, origin, _ in TRANSITIONS}
NO_ARROW = [
    (verb, origin)
    for verb, origin in product(VERBS, [*UNFINISHED, *FINISHED])
    if (verb, origin) not in ALLOWED
]


def test_every_verb_is_tried() -> None:
    assert set(VERBS) == {verb for verb, _, _ in TRANSITIONS}


@pytest.mark.parametrize(
    "verb, origin, target", TRANSITIONS, ids=lambda value: str(value) if value else "nothing"
)
def test_an_arrow_leads_where_it_says(
    connection: Connection, verb: str, origin: TaskStatus | None, target: TaskStatus
) -> None:
    worker_id = rows.add_worker(connection)
    mine = Running(str(uuid4()), str(uuid4()))
    if origin is not None:
        needs = NEEDS.get((verb, target), {})
        mine = rows.add_in(connection, origin, worker_id, **needs)

    VERBS[verb](connection, worker_id, mine)

    assert rows.row(connection, mine.id)["status"] == target


@pytest.mark.parametrize("verb, origin", sorted(NO_ARROW), ids=str)
def test_where_there_is_no_arrow_a_verb_changes_nothing(
    connection: Connection, verb: str, origin: TaskStatus
) -> None:
    worker_id = rows.add_worker(connection)
    mine = rows.add_in(connection, origin, worker_id)
    read = rows.finished if origin in FINISHED else rows.live
    before = read(connection, mine.id)

    VERBS[verb](connection, worker_id, mine)

    assert before is not None
    assert read(connection, mine.id) == before


def test_the_two_tables_share_the_statuses_among_them() -> None:
    assert set(TaskStatus) == UNFINISHED | FINISHED
    assert not UNFINISHED & FINISHED


def test_only_somebodys_word_leads_out_of_a_finished_status() -> None:
    assert {verb for verb, origin, _ in TRANSITIONS if origin in FINISHED} == {"requeue"}


def test_every_status_can_be_reached_from_nothing() -> None:
    reached: set[TaskStatus | None] = {None}
    while new := {target for _, origin, target in TRANSITIONS if origin in reached} - reached:
        reached |= new
    assert reached == {None, *TaskStatus}
