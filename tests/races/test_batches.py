"""Batches of outcomes lock rows as they come: two that meet crosswise lose nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from django_taskq import db
from django_taskq.db import Connection
from django_taskq.outcomes import (
    Completed,
    Failed,
    Parked,
    Retrying,
    Snoozed,
    Unanswered,
    Unstored,
)
from django_taskq.worker.feeder import Feeder
from tests.races.feeding import ERROR, Child
from tests.support import rows
from tests.support.rows import Running
from tests.support.waiting import until
from tests.worker.samples import claimed

KINDS: dict[str, tuple[Callable[[Running], Unstored], str]] = {
    "complete": (lambda mine: Completed(*mine, "1", 0.0, 1.0), "SUCCESSFUL"),
    "fail": (lambda mine: Failed(*mine, ERROR, 0.0, 1.0), "FAILED"),
    "retry": (lambda mine: Retrying(*mine, ERROR, 30.0, 0.0, 1.0), "READY"),
    "snooze": (lambda mine: Snoozed(*mine, 30.0), "READY"),
    "run_again": (lambda mine: Unanswered(*mine, 0.0, 1.0), "READY"),
    "park": (lambda mine: Parked(*mine, "unknown:x"), "HELD"),
}


def waits(watcher: Connection, *connections: Connection) -> bool:
    pids = [connection.info.backend_pid for connection in connections]
    found = watcher.execute(
        "SELECT bool_and(cardinality(pg_blocking_pids(pid)) > 0) FROM unnest(%s::int[]) AS pid",
        [pids],
    ).fetchone()
    return bool(found and found[0])


def store(feeder: Feeder) -> None:
    """Store what a feeder has in hand, as it does itself; what somebody holds is tried again."""
    feeder._round_trip(0, time.monotonic())

    def is_stored() -> bool:
        feeder.hand.store_free(feeder._connect(), feeder.progress)
        return feeder.hand.is_empty

    until(is_stored, "everything is stored")


@pytest.mark.parametrize("kind", KINDS)
def test_two_batches_that_meet_crosswise_lose_nothing(
    one: Connection,
    other: Connection,
    worker_id: str,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One is sent again, say, while the backend of a lost connection is still at it."""
    outcome, status = KINDS[kind]
    a, b, c, d = tasks = [rows.add_running(one, worker_id) for _ in range(4)]
    children = [Child(worker_id, ()) for _ in range(2)]
    met: list[Exception] = []

    def give(child: Child, connection: Connection, batch: Sequence[Running]) -> None:
        connection.execute("SET lock_timeout = '20s'; SET deadlock_timeout = '50ms'")
        feeder = child.feeder
        feeder._connection = connection
        for mine in batch:
            feeder.hand.take([mine.id], [claimed("x", id=mine.id, claim=mine.claim)])
        feeder.hand.unsent = [outcome(mine) for mine in batch]
        store_alone = feeder._store_alone

        def note(connection: Connection, error: psycopg.Error) -> None:
            met.append(error)
            store_alone(connection, error)

        feeder._store_alone = note  # type: ignore[method-assign]

    give(children[0], one, [a, c, b])
    give(children[1], other, [b, d, a])
    with db.worker_connection("default", name="test third") as third, ThreadPoolExecutor(2) as pool:
        with third.transaction():
            third.execute(
                "SELECT FROM django_taskq_livetask WHERE id = ANY (%s::uuid[]) FOR UPDATE",
                [[c.id, d.id]],
            )
            storing = [pool.submit(store, child.feeder) for child in children]
            # Each has one of the two that both want, and waits for the one between.
            until(lambda: waits(third, one, other), "both wait")
        for future in storing:
            future.result(30)

    assert [type(error) for error in met] == [psycopg.errors.DeadlockDetected]
    assert rows.statuses(one, [mine.id for mine in tasks]) == [status] * 4
    assert "came too late" not in caplog.text
    assert [child.feeder.hand.rows for child in children] == [{}, {}]
    for child in children:
        child.close()
