"""A supervisor deletes old finished tasks, a little at a time."""

from __future__ import annotations

import logging
import time
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest

from django_taskq import db
from django_taskq.db import Connection
from django_taskq.transitions.prune import BEGINNING, prune_batch
from django_taskq.worker import pruner as pruner_module
from django_taskq.worker.pruner import Pruner


def fill(connection: Connection, count: int) -> None:
    connection.execute(
        "INSERT INTO django_taskq_finishedtask (task, status, finished_at) "
        "SELECT 'x', 'FAILED', clock_timestamp() - interval '8 days' "
        "FROM generate_series(1, %s)",
        [count],
    )


def left(connection: Connection) -> int:
    row = connection.execute("SELECT count(*) FROM django_taskq_finishedtask").fetchone()
    assert row is not None
    return int(row[0])


def test_a_batch_is_small_and_the_next_one_follows_after_a_rest(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="django_taskq.worker")
    fill(connection, 5000)
    pruner = Pruner(7 * 24 * 3600.0)
    before, batches = 5000, []
    while before:
        began = time.monotonic()
        pruner.prune(connection)
        took = time.monotonic() - began
        batches.append(before - left(connection))
        before -= batches[-1]
        if before:
            # As long as it has worked, it rests.
            assert pruner.next_at >= began + took
            assert pruner.next_at - time.monotonic() < 5
    assert min(batches) > 0 and max(batches) <= 1000
    pruner.prune(connection)
    assert pruner.next_at - time.monotonic() > 30, "an idle worker looks once a minute"
    assert [r.getMessage() for r in caplog.records if "Deleted" in r.getMessage()] == [
        "Deleted 5000 finished task(s) past their retention."
    ]


def test_on_a_fast_machine_too_a_transaction_deletes_no_more_than_a_thousand(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruner_module, "_ENOUGH", 60.0)
    fill(connection, 4000)
    pruner = Pruner(7 * 24 * 3600.0)
    seen = [4000]
    with db.worker_connection("default", name="other") as other:
        while seen[-1]:
            pruner.prune(connection)
            seen.append(left(other))  # so it is committed

    batches = [before - after for before, after in pairwise(seen)]
    assert batches == [10, 100, 200, 400, 800, 1000, 1000, 490]


def test_a_sweep_goes_on_where_its_last_batch_ended(connection: Connection) -> None:
    """It would read what it has deleted again and again, as long as a snapshot is held."""
    fill(connection, 400)
    pruner = Pruner(7 * 24 * 3600.0)
    floors, ends = [], []

    def noted(*args: Any, floor: Any, **options: Any) -> Any:
        found = prune_batch(*args, floor=floor, **options)
        floors.append(floor)
        ends.append(found.floor)
        return found

    with mock.patch.object(pruner_module, "prune_batch", noted):
        while left(connection):
            pruner.prune(connection)

    assert len(floors) > 2
    assert floors == [BEGINNING, *ends[:-1]]
    assert len(set(ends)) == len(ends)


def test_a_batch_that_takes_too_long_is_undone_and_made_smaller(connection: Connection) -> None:
    fill(connection, 300)
    connection.execute(
        "CREATE FUNCTION pg_temp.dawdle() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN PERFORM pg_sleep(0.01); RETURN OLD; END$$"
    )
    connection.execute(
        "CREATE TRIGGER dawdle BEFORE DELETE ON django_taskq_finishedtask "
        "FOR EACH ROW EXECUTE FUNCTION pg_temp.dawdle()"
    )
    try:
        pruner = Pruner(7 * 24 * 3600.0)
        began = time.monotonic()
        pruner.prune(connection)
        assert left(connection) == 290, "a look takes few"
        pruner.prune(connection)
        assert time.monotonic() - began < 5
        assert left(connection) == 290
        pruner.prune(connection)
        assert 200 <= left(connection) < 290
    finally:
        connection.execute("DROP TRIGGER dawdle ON django_taskq_finishedtask")


def test_with_a_retention_of_none_nothing_is_ever_due() -> None:
    assert Pruner(None).next_at == float("inf")


def test_a_row_that_somebody_holds_is_passed_over(connection: Connection) -> None:
    fill(connection, 6)
    with db.worker_connection("default", name="other") as other, other.transaction():
        assert prune_batch(other, age=0.0, limit=3).rows == 3
        assert prune_batch(connection, age=0.0, limit=2).rows == 2
    assert left(connection) == 1


def test_several_workers_share_the_work(connection: Connection) -> None:
    fill(connection, 3000)
    with db.worker_connection("default", name="other") as other:
        first, second = Pruner(0.0), Pruner(0.0)
        # A busy machine makes batches small, of 10 rows at least.
        for _ in range(150):
            first.prune(connection)
            second.prune(other)
    assert left(connection) == 0
