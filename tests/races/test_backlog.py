"""A child that always has something to store or to claim still does all else that it has to."""

from __future__ import annotations

import threading
import time
from unittest import mock

import pytest

from django_taskq.db import Connection
from django_taskq.worker import prefetch
from tests.races.feeding import Child, child
from tests.support import rows
from tests.support.waiting import until


def keep_busy(running: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a child have outcomes whenever it looks for something to do, or nothing in hand."""
    monkeypatch.setattr(prefetch, "_MOST", 4)  # a backlog takes it many claims
    hand = running.feeder.hand
    collect = hand.collect

    def collect_some() -> None:
        if hand.rows and not hand.unsent:
            until(lambda: bool(running.outbox), "something has ended")
        collect()

    monkeypatch.setattr(hand, "collect", collect_some)


def test_a_suspect_is_run_while_others_wait(
    one: Connection, worker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with child(worker_id, queues=("*",)) as running:
        keep_busy(running, monkeypatch)
        with one.transaction():
            suspect = rows.add(one, task="complete", crashes=2)
            ids = [rows.add(one, task="complete") for _ in range(200)]
        running.wake()
        until(lambda: len(running.starts) > 10, "it is busy")
        running.order("x")  # as the supervisor does once a second
        until(lambda: all(id in running.starts for id in ids), "the backlog is done")
    assert list(running.starts).index(suspect) < len(ids)


def test_a_suspect_is_not_claimed_while_anything_else_is_in_hand(
    one: Connection, worker_id: str
) -> None:
    may_end = threading.Event()
    with child(worker_id) as running:
        running.before_report = lambda row: may_end.wait(60)
        before = rows.add(one, task="progress")
        running.wake()
        until(lambda: before in running.starts, "the other runs")
        suspect = rows.add(one, task="complete", crashes=2)
        running.order("x")
        until(lambda: running.feeder.claims.draining.is_under_way, "it is told")
        told = time.monotonic()
        until(lambda: running.record.silent_for(told) < 0, "the feeder has gone on")
        assert rows.statuses(one, [suspect]) == ["READY"]
        may_end.set()
        until(lambda: rows.statuses_now(one, [suspect]) == ["SUCCESSFUL"], "it has run")


def test_what_a_lost_claim_has_left_behind_comes_back_while_others_wait(
    one: Connection, worker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with child(worker_id, queues=("*",)) as running:
        keep_busy(running, monkeypatch)
        with one.transaction():
            lost = rows.add_running(one, worker_id, task="complete", run_after=rows.ago(90)).id
            ids = [rows.add(one, task="complete") for _ in range(200)]
        sweep = running.feeder.hand.give_back.sweep
        with mock.patch.object(running.feeder.hand.give_back, "sweep", wraps=sweep) as sweeps:
            running.wake()
            until(lambda: all(id in running.starts for id in ids), "the backlog is done")
    assert lost in running.starts, "it was not found in the midst of work"
    assert list(running.starts).index(lost) < len(ids) // 2
    assert set(running.starts.values()) == {1}
    assert rows.row(one, lost)["attempts"] == 1
    assert sweeps.call_count == 1, "it has looked more often than once a minute"
