"""Somebody's lock on its row does not cost a task what it last said of its progress."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from django_taskq.db import Connection
from tests.races.feeding import Child, child
from tests.support import rows
from tests.support.waiting import until

LOCK = "SELECT FROM django_taskq_livetask WHERE id = %s FOR UPDATE"


@contextmanager
def one_that_speaks_under_a_lock(
    one: Connection, worker_id: str, *, may_end: threading.Event
) -> Iterator[tuple[str, Child, psycopg.Connection[Any]]]:
    """Run a task that says something while somebody has locked its row; give its id and both.

    When the block is left the task has ended, and what it has said is there.
    """
    with psycopg.connect(one.info.dsn) as other, child(worker_id) as running:
        running.before_report = lambda row: other.execute(LOCK, [row.id])
        running.after_report = lambda row: may_end.wait(60)
        id = rows.add(one, task="progress")
        running.wake()
        until(lambda: running.feeder.hand.retry_at < float("inf"), "the lock holds it up")
        yield id, running, other
        until(lambda: rows.statuses_now(one, [id]) == ["SUCCESSFUL"], "the task has ended")
        until(lambda: running.feeder.hand.retry_at == float("inf"), "nothing is left to be stored")
    assert rows.row(one, id)["progress"] == {"done": 7}


def test_a_lock_on_its_row_does_not_cost_a_task_what_it_last_said(
    one: Connection, worker_id: str
) -> None:
    may_end = threading.Event()
    may_end.set()
    with one_that_speaks_under_a_lock(one, worker_id, may_end=may_end) as (_, running, other):
        until(lambda: bool(running.feeder.hand.held_up), "its outcome waits for the lock")
        other.rollback()


def test_what_a_task_says_while_its_row_is_locked_is_shown_when_it_is_free(
    one: Connection, worker_id: str
) -> None:
    may_end = threading.Event()
    with one_that_speaks_under_a_lock(one, worker_id, may_end=may_end) as (id, _, other):
        other.rollback()
        until(lambda: rows.row(one, id)["progress"] == {"done": 7}, "its progress is shown")
        assert rows.row(one, id)["status"] == "RUNNING"
        may_end.set()


def test_a_task_that_ends_when_its_row_is_free_again_takes_along_what_it_said(
    one: Connection, worker_id: str
) -> None:
    may_end = threading.Event()
    with one_that_speaks_under_a_lock(one, worker_id, may_end=may_end) as (_, _, other):
        other.rollback()
        may_end.set()
