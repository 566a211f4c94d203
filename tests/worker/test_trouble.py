"""Trouble with the database is waited out: it ends no worker, and holds up nothing else."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import datetime
from typing import Any
from unittest import mock
from uuid import uuid4

import psycopg
import pytest

from django_taskq import db
from django_taskq.db import Connection
from django_taskq.transitions import presence
from django_taskq.worker import aftermath
from django_taskq.worker.aftermath import Aftermath, Death
from django_taskq.worker.children import Children
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.record import Holdings
from django_taskq.worker.shared_memory import SharedMemory
from django_taskq.worker.supervisor import Supervisor
from tests.support import rows
from tests.support.rows import Running


class Nursery:
    """Take orders for children, and fork none."""

    def __init__(self) -> None:
        self.orders: list[dict[str, Any]] = []

    def fork(self, order: dict[str, Any]) -> None:
        self.orders.append(order)


class Unheard:
    """A connection whose next answer is lost, though the server did what was asked."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.is_cut = True

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        done = self.connection.execute(*args, **kwargs)
        if self.is_cut:
            self.is_cut = False
            raise psycopg.OperationalError("the connection is lost")
        return done


def death_of(worker_id: str, *running: Running) -> Death:
    """Return the death of a child that ran these tasks."""
    ids = [mine.id for mine in running]
    since = (time.monotonic(),) * len(ids)
    held = Holdings(started=ids, unstarted=[], running=tuple(ids), since=since)
    return Death(worker_id=worker_id, slot=0, pid=1, status=-9, held=held, killed_for="")


@pytest.mark.parametrize(
    "crashes, status", [(1, "READY"), (2, "FAILED")], ids=["rescued", "condemned"]
)
def test_of_a_task_that_died_with_its_process_it_is_known_when_it_began(
    connection: Connection, worker_id: str, crashes: int, status: str
) -> None:
    mine = rows.add_running(connection, worker_id, crashes=crashes, started_at=rows.ago(100))
    deaths = Aftermath(WorkerOptions(database="default"))
    death = death_of(worker_id, mine)
    began = time.monotonic() - 3
    deaths.add(replace(death, held=replace(death.held, since=(began,))))

    deaths.settle(connection)

    row = rows.row(connection, mine.id)
    (error,) = row["errors"]
    times = [error["started_at"], error["finished_at"]]
    if status == "FAILED":
        assert [row["started_at"], row["finished_at"]] == times
    started, finished = map(datetime.fromisoformat, times)
    assert row["status"] == status
    assert 3 <= (finished - started).total_seconds() < 60, "not since the claim"


def test_a_child_whose_arrival_was_not_answered_has_one_row(connection: Connection) -> None:
    parent_id = rows.add_worker(connection)
    children = Children(WorkerOptions(database="default"), parent_id)
    children.nursery = nursery = Nursery()  # type: ignore[assignment]
    unheard: Any = Unheard(connection)

    with pytest.raises(psycopg.OperationalError):
        children.fill(unheard, time.monotonic())
    assert nursery.orders == []
    children.fill(unheard, time.monotonic())

    found = connection.execute(
        "SELECT id FROM django_taskq_worker WHERE parent_id = %s", [parent_id]
    ).fetchall()
    assert [(order["worker_id"],) for order in nursery.orders] == found


def test_a_process_id_that_was_not_noted_is_noted_later(connection: Connection) -> None:
    children = Children(WorkerOptions(database="default"), rows.add_worker(connection))
    children.nursery = Nursery()  # type: ignore[assignment]
    children.fill(connection, time.monotonic())
    [slot] = children.slots
    slot.pid = 4711
    broken = mock.Mock(execute=mock.Mock(side_effect=psycopg.OperationalError("lost")))

    with pytest.raises(psycopg.OperationalError):
        children.fill(broken, time.monotonic())
    children.fill(connection, time.monotonic())

    found = connection.execute(
        "SELECT pid FROM django_taskq_worker WHERE id = %s", [slot.worker_id]
    ).fetchone()
    assert found == (4711,)


def test_a_row_that_somebody_holds_keeps_a_supervisor_from_nothing_else(
    connection: Connection,
    worker_id: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = rows.add_running(connection, worker_id)
    deaths = Aftermath(WorkerOptions(database="default"))
    deaths.add(death_of(worker_id, mine))
    with (
        db.worker_connection("default", name="test other") as other,
        other.transaction(force_rollback=True),
    ):
        other.execute("SELECT FROM django_taskq_livetask FOR UPDATE")
        assert deaths.settle(connection)
        assert deaths.waits and deaths.is_held_up
        # Not again in this round, nor in the next.
        assert not deaths.settle(connection)
        assert presence.beat(connection, [worker_id]).known == {worker_id}
    assert "cannot be settled yet" in caplog.text

    monkeypatch.setattr(deaths, "settle_at", time.monotonic() - 1)
    assert deaths.settle(connection)

    assert not deaths.waits and not deaths.is_held_up
    row = rows.row(connection, mine.id)
    assert (row["status"], row["crashes"]) == ("READY", 1)
    assert aftermath._AGAIN < 5, "others wait for what is held up"


def test_a_database_that_became_a_standby_is_trouble_that_passes(connection: Connection) -> None:
    connection.execute("SET default_transaction_read_only = on")

    with pytest.raises(psycopg.Error) as caught:
        presence.beat(connection, [rows.add_worker(connection)])

    assert db.is_trouble(caught.value, connection)


def test_a_transaction_that_idled_too_long_is_trouble_that_passes(connection: Connection) -> None:
    """Such as that of a supervisor which was suspended in the middle of a rescue."""
    connection.execute("SET idle_in_transaction_session_timeout = '20ms'")

    with pytest.raises(psycopg.Error) as caught, connection.transaction():
        connection.execute("SELECT 1")
        time.sleep(0.2)
        connection.execute("SELECT 1")

    assert db.is_trouble(caught.value, connection)


def test_a_mistake_in_a_statement_is_no_trouble(connection: Connection) -> None:
    with pytest.raises(psycopg.Error) as caught:
        connection.execute("SELECT nonsense")

    assert not db.is_trouble(caught.value, connection)


@pytest.mark.parametrize("code", ["40001", "40P01", "55P03", "57014"])
def test_who_is_in_the_way_ends_no_supervisor(
    connection: Connection, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="django_taskq.worker")
    supervisor = Supervisor(WorkerOptions(database="default"), print)
    supervisor._connection = connection

    def fail(now: float) -> None:
        connection.execute(f"DO $$ BEGIN RAISE EXCEPTION 'busy' USING ERRCODE = '{code}'; END $$")

    with (
        mock.patch.object(supervisor, "_talk_to_database", fail),
        mock.patch.object(supervisor, "_sleep"),
    ):
        supervisor._loop()
    supervisor.signals.restore()

    assert supervisor._connection is connection and not connection.closed
    assert "busy; trying again" in caplog.text


def test_what_a_child_has_claimed_since_is_not_taken_from_it(
    connection: Connection, worker_id: str
) -> None:
    """The database was slow, or away, when what waited behind a long task was to be given back."""
    memory = SharedMemory.create(1)
    record = memory.records[0]
    record.reset()
    running, waiting, under_way, claimed_since = (
        rows.add_running(connection, worker_id) for _ in range(4)
    )
    one_claim = str(uuid4())
    connection.execute(
        "UPDATE django_taskq_livetask SET claim = %s WHERE id = ANY (%s::uuid[])",
        [one_claim, [running.id, waiting.id]],
    )
    epoch = record.announce(one_claim)
    assert record.accept(epoch, [running.id, waiting.id])
    assert record.start(epoch, time.monotonic(), 0.0)
    record.announce(under_way.claim)
    held = record.take_unstarted()
    assert held is not None

    record.accept(record.announce(claimed_since.claim), [claimed_since.id])
    deaths = Aftermath(WorkerOptions(database="default"))
    deaths.give_back(worker_id, held)
    deaths.settle(connection)

    found = rows.statuses(connection, [row.id for row in (running, waiting, under_way)])
    assert found == ["RUNNING", "READY", "READY"]
    assert rows.row(connection, claimed_since.id)["claim"] == claimed_since.claim


def test_a_task_that_has_run_here_before_is_given_back_like_any_other(
    connection: Connection, worker_id: str
) -> None:
    memory = SharedMemory.create(1)
    record = memory.records[0]
    record.reset()
    running, again = (rows.add_running(connection, worker_id) for _ in range(2))
    record.accept(record.announce(str(uuid4())), [again.id])  # an earlier claim of it
    assert record.start(record.epoch, time.monotonic(), 0.0)
    for mine in (running, again):
        record.accept(record.announce(mine.claim), [mine.id])
    assert record.start(record.epoch, time.monotonic(), 0.0)
    held = record.take_unstarted()
    assert held is not None

    deaths = Aftermath(WorkerOptions(database="default"))
    deaths.give_back(worker_id, held)
    deaths.settle(connection)

    assert rows.statuses(connection, [running.id, again.id]) == ["RUNNING", "READY"]
