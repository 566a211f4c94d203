"""Many tasks, several workers, and a transaction that never ends: each task runs once."""

from __future__ import annotations

import signal

import psycopg
import pytest
from django.db import transaction

from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import Ledger, sql, statuses, wait_until

pytestmark = pytest.mark.slow


def test_two_workers_share_the_tasks_and_run_each_once(start: Starter, ledger: Ledger) -> None:
    first, second = start("-v", "0", children=2, ready=False), start("-v", "0", children=2)
    first.wait_until_ready(2)
    for _ in range(4):
        tasks.note.enqueue_many([(ledger.path, "n", 0.001)] * 500)
    wait_until(lambda: statuses() == {})
    starts = ledger.starts()
    assert len(starts) == 2000
    pids = {start.pid for start in starts}
    assert pids & set(first.children()) and pids & set(second.children())
    rows = sql(
        "SELECT status, attempts, count(*) FROM django_taskq_finishedtask GROUP BY status, attempts"
    )
    assert rows == [("SUCCESSFUL", 1, 2000)]


def test_a_drain_under_a_held_snapshot_misses_nothing(
    start: Starter, ledger: Ledger, database: str
) -> None:
    with psycopg.connect(database) as holder, psycopg.connect(database) as late:
        holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        holder.execute("SELECT count(*) FROM django_taskq_livetask")
        # Enqueued before all others, committed in the middle of the drain.
        late.execute(
            "INSERT INTO django_taskq_livetask (task, args) "
            "SELECT 'tests.processes.tasks.note', json_build_array(%s::text, 'late') "
            "FROM generate_series(1, 5)",
            [ledger.path],
        )
        with transaction.atomic():
            for _ in range(10):
                tasks.note.enqueue_many([(ledger.path, "n", 0.0003)] * 2000)
        start("-v", "0", children=2)
        wait_until(lambda: len(ledger.starts()) > 3_000)
        late.commit()
        committed_at = len(ledger.starts())
        wait_until(lambda: statuses() == {})
    tags = ledger.tags()
    assert committed_at < 20_000, "it came too late to be in the middle"
    assert tags.count("late") == 5
    assert len(tags) == 20_005
    rows = sql(
        "SELECT status, attempts, count(*) FROM django_taskq_finishedtask GROUP BY status, attempts"
    )
    assert rows == [("SUCCESSFUL", 1, 20_005)]


def test_a_stop_in_the_middle_of_a_drain_leaves_each_task_to_run_once(
    start: Starter, ledger: Ledger
) -> None:
    first = start("-v", "0", children=2)
    tasks.note.enqueue_many([(ledger.path, f"n{i}", 0.001) for i in range(1500)])
    wait_until(lambda: len(ledger.starts()) > 300)
    first.send(signal.SIGTERM)
    assert first.wait() == 0
    stopped_at = len(ledger.starts())
    assert statuses() == {"READY": 1500 - stopped_at}
    assert start("-v", "0", "--burst", children=2, ready=False).wait() == 0
    assert statuses() == {}
    assert len(ledger.starts()) == len(set(ledger.tags())) == 1500
