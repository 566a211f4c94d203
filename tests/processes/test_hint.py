"""How soon an idle worker starts what is enqueued."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from statistics import median

import pytest
from django.db import transaction

from django_taskq.models import Worker
from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import Gate, Ledger, sql, wait_until

pytestmark = pytest.mark.slow


def latencies(ledger: Ledger, count: int) -> list[float]:
    """Enqueue one after the other; return how long each waited for its start."""
    waited = []
    for number in range(count):
        with transaction.atomic():
            result = tasks.note.enqueue(ledger.path, f"n{number}")
        committed = time.monotonic()
        result.wait(timeout=20)
        waited.append(ledger.start_of(f"n{number}").at - committed)
    return waited


def test_a_hint_wakes_an_idle_worker(start: Starter, ledger: Ledger) -> None:
    start(children=2)
    waited = latencies(ledger, 9)
    assert median(waited) < 0.5, waited
    assert max(waited) < 2.0, waited


def test_an_idle_worker_does_not_doubt_that_hints_arrive(start: Starter) -> None:
    worker = start(children=1)

    def has_beaten_twice() -> bool:
        row = Worker.objects.get(kind="SUPERVISOR", pid=worker.pid)
        return row.last_seen_at - row.started_at > timedelta(seconds=6)

    wait_until(has_beaten_twice, 30)
    assert "LISTEN" not in worker.output


def test_without_hints_a_task_starts_at_the_next_tick(
    start: Starter, ledger: Ledger, tmp_path: Path
) -> None:
    (tmp_path / "deaf.py").write_text(
        "from tests.processes.settings import *\nDJANGO_TASKQ = {'LISTEN': False}\n"
    )
    start(children=2, settings="deaf")
    waited = latencies(ledger, 5)
    assert median(waited) < 1.5, waited


def test_a_task_due_soon_starts_when_it_is_due(start: Starter, ledger: Ledger) -> None:
    start(children=1)
    results = [tasks.note.using(run_after=0.7).enqueue(ledger.path, f"n{i}") for i in range(3)]
    for result in results:
        result.wait(timeout=20)
        assert 0 <= (result.started_at - result.run_after).total_seconds() < 1.5


LOOKED_FOR_WORK = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND state = 'idle' AND query ~ 'django_taskq:find_lanes'
"""


@pytest.mark.parametrize("queues", [(), ("-Q", "*")], ids=["all-queues", "named-queues"])
def test_a_process_that_finds_more_than_it_can_take_wakes_the_next(
    start: Starter, ledger: Ledger, gate: Gate, queues: tuple[str, ...]
) -> None:
    size = 5
    start(*queues, children=size, settings="tests.processes.unhurried_settings")
    wait_until(lambda: sql(LOOKED_FOR_WORK) == [(size,)], what="each has looked and found none")
    # One commit, one hint; and the supervisor looks once behind it.
    results = tasks.note.enqueue_many([(ledger.path, f"n{i}", 0.0, gate.path) for i in range(size)])
    wait_until(lambda: len(ledger.tags()) == size, 10, "each process has one")
    gate.open()
    for result in results:
        result.wait(timeout=20)
