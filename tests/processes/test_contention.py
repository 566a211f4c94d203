"""Locks, deadlocks and other isolation levels are in the way, and no task hears of it."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import environ
import psycopg
import pytest
from django.contrib.auth.models import Group
from django.db import connection

from django_taskq.models import FinishedTask, LiveTask
from tests.processes import tasks
from tests.processes.support import Ledger, TaskWorker, sql, statuses, wait_until

pytestmark = pytest.mark.slow

Starter = Callable[..., TaskWorker]

LOCK = """
SELECT pg_advisory_xact_lock(n) FROM generate_series(1, 20) AS n;
SELECT FROM django_taskq_livetask WHERE id IN (
  SELECT id FROM django_taskq_livetask ORDER BY random() LIMIT 5) FOR UPDATE;
SELECT pg_sleep({seconds})
"""


class Nuisance(threading.Thread):
    """Somebody who locks rows of tasks, in any order, and lets go of them after a while."""

    def __init__(self, url: str, *, longest: float) -> None:
        super().__init__(name="nuisance")
        self.url = url
        self.longest = longest
        self.is_over = threading.Event()
        self.held = 0

    def run(self) -> None:
        dice = random.Random(7)
        with psycopg.connect(self.url, autocommit=True) as own:
            while not self.is_over.is_set():
                # It is the one that a deadlock ends, sometimes.
                with suppress(psycopg.OperationalError), own.transaction(force_rollback=True):
                    own.execute(LOCK.format(seconds=dice.choice([0.0, 0.02, 0.1, self.longest])))
                    self.held += 1
                # When few tasks are left they are all locked. If that never ended, no claim, which
                # passes over what is locked, would ever find one free.
                self.is_over.wait(dice.choice([0.0, 0.02, 0.1]))


@contextmanager
def nuisance(url: str, *, longest: float = 0.3) -> Iterator[Nuisance]:
    somebody = Nuisance(url, longest=longest)
    somebody.start()
    try:
        yield somebody
    finally:
        somebody.is_over.set()
        somebody.join()


@pytest.fixture(params=["repeatable read", "serializable"])
def isolation(request: pytest.FixtureRequest, database: str) -> Iterator[str]:
    """Let the server's default isolation be another one than workers need."""
    name = environ.Env.db_url_config(database)["NAME"]
    sql(f"ALTER DATABASE {name} SET default_transaction_isolation = '{request.param}'")
    connection.close()
    yield request.param
    sql(f"ALTER DATABASE {name} RESET default_transaction_isolation")
    connection.close()


def run_among_nuisances(start: Starter, url: str, ledger: Ledger, count: int) -> None:
    worker = start("-v", "0")
    children = worker.children()
    with nuisance(url) as somebody:
        noted = tasks.note.enqueue_many([(ledger.path, f"n{n}", 0.002) for n in range(count)])
        retried = [tasks.fail_until.enqueue(f"{ledger.path}.retried", 2) for _ in range(5)]
        written = [
            tasks.write_and_enqueue.enqueue(f"{ledger.path}.atomic", f"g{n}")
            for n in range(count // 20)
        ]
        for result in [*noted, *retried, *written]:
            result.wait(timeout=110)
        wait_until(lambda: statuses() == {})
    assert somebody.held > 5

    ended = Counter(FinishedTask.objects.values_list("status", flat=True))
    assert set(ended) == {"SUCCESSFUL"}, ended
    failed = FinishedTask.objects.exclude(errors=[]).exclude(task__endswith=".fail_until")
    assert not failed.exists(), failed.values_list("errors", flat=True)[:3]
    assert not FinishedTask.objects.filter(crashes__gt=0).exists()
    assert Counter(ledger.tags()) == {f"n{n}": 1 for n in range(count)}
    assert Group.objects.filter(name__startswith="g").count() == len(written)
    assert worker.children() == children, "no process has ended"
    assert "Traceback" not in worker.output, worker.output


def test_all_tasks_succeed_among_locks_above_read_committed(
    start: Starter, database: str, isolation: str, ledger: Ledger
) -> None:
    run_among_nuisances(start, database, ledger, 400)


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_thousands_of_tasks_succeed_among_locks_above_read_committed(
    start: Starter, database: str, isolation: str, ledger: Ledger
) -> None:
    run_among_nuisances(start, database, ledger, 5000)


def test_a_task_whose_row_somebody_holds_keeps_no_other_from_its_end(
    start: Starter, database: str, ledger: Ledger, gate: Any
) -> None:
    """Such as a SELECT … FOR UPDATE in a forgotten psql."""
    worker = start(children=1)
    held = tasks.note.enqueue(ledger.path, "held", gate=gate.path)
    ledger.start_of("held")
    with psycopg.connect(database) as somebody:
        somebody.execute("SELECT FROM django_taskq_livetask WHERE id = %s FOR UPDATE", [held.id])
        gate.open()
        results = tasks.add.enqueue_many([(n, 1) for n in range(50)])
        for n, result in enumerate(results):
            assert result.wait(timeout=20) == n + 1
        assert LiveTask.objects.get().status == "RUNNING"
        somebody.rollback()
    assert held.wait(timeout=20) > 0
    assert ledger.tags() == ["held"]
    assert "Traceback" not in worker.output
