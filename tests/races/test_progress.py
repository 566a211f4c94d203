"""Somebody's lock on its row does not cost a task what it last said of its progress."""

from __future__ import annotations

import threading

import psycopg

from django_taskq.db import Connection
from tests.races.feeding import child
from tests.support import rows
from tests.support.waiting import until

LOCK = "SELECT FROM django_taskq_livetask WHERE id = %s FOR UPDATE"


def test_a_lock_on_its_row_does_not_cost_a_task_what_it_last_said(
    one: Connection, worker_id: str
) -> None:
    with psycopg.connect(one.info.dsn) as other, child(worker_id) as running:
        running.before_report = lambda row: other.execute(LOCK, [row.id])
        id = rows.add(one, task="progress")
        running.wake()
        until(lambda: bool(running.feeder.hand.held_up), "its outcome waits for the lock")
        other.rollback()
        until(lambda: rows.statuses_now(one, [id]) == ["SUCCESSFUL"], "the task has ended")
    assert rows.row(one, id)["progress"] == {"done": 7}


def test_what_a_task_says_while_its_row_is_locked_is_shown_when_it_is_free(
    one: Connection, worker_id: str
) -> None:
    may_end = threading.Event()
    with psycopg.connect(one.info.dsn) as other, child(worker_id) as running:
        running.before_report = lambda row: other.execute(LOCK, [row.id])
        running.after_report = lambda row: may_end.wait(60)
        id = rows.add(one, task="progress")
        running.wake()
        until(lambda: running.feeder.hand.retry_at < float("inf"), "it was held up by the lock")
        other.rollback()
        until(lambda: rows.row(one, id)["progress"] == {"done": 7}, "its progress is shown")
        assert rows.row(one, id)["status"] == "RUNNING"
        may_end.set()
        until(lambda: rows.statuses_now(one, [id]) == ["SUCCESSFUL"], "the task has ended")
    assert rows.row(one, id)["progress"] == {"done": 7}


def test_a_task_that_ends_when_its_row_is_free_again_takes_along_what_it_said(
    one: Connection, worker_id: str
) -> None:
    may_end = threading.Event()
    with psycopg.connect(one.info.dsn) as other, child(worker_id) as running:
        running.before_report = lambda row: other.execute(LOCK, [row.id])
        running.after_report = lambda row: may_end.wait(60)
        id = rows.add(one, task="progress")
        running.wake()
        hand = running.feeder.hand
        until(lambda: hand.retry_at < float("inf"), "it was held up by the lock")
        other.rollback()
        may_end.set()
        until(lambda: rows.statuses_now(one, [id]) == ["SUCCESSFUL"], "the task has ended")
        until(lambda: hand.retry_at == float("inf"), "nothing is left to be tried again")
        assert running.feeder.is_alive()
    assert rows.row(one, id)["progress"] == {"done": 7}
