"""The database goes away and comes back: a worker backs off, resumes, and loses nothing."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from django_taskq.models import FinishedTask, Worker
from example_project import embedded_postgres
from tests.processes import tasks
from tests.processes.servers import PrivateServer
from tests.processes.support import (
    Gate,
    Ledger,
    TaskWorker,
    sql,
    statuses,
    wait_until,
    warm_up,
)
from tests.support.databases import migrate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def private_server() -> Iterator[PrivateServer]:
    with embedded_postgres.serve(fast=True) as url:
        migrate(url)
        yield PrivateServer(url)


@pytest.fixture
def private_database(private_server: PrivateServer, use_database: Any) -> Iterator[PrivateServer]:
    with use_database(private_server.url):
        yield private_server


@pytest.fixture
def children() -> int:
    return 2


@pytest.fixture
def private_worker(
    private_database: PrivateServer, tmp_path: Path, children: int
) -> Iterator[TaskWorker]:
    worker = TaskWorker(("-c", str(children)), url=private_database.url, directory=tmp_path)
    try:
        worker.wait_until_ready(children)
        yield worker
    finally:
        worker.stop()


def test_a_crash_of_the_database_while_tasks_run_loses_nothing(
    private_worker: TaskWorker, private_database: PrivateServer, ledger: Ledger, gate: Gate
) -> None:
    warm_up(ledger, 2)
    running = tasks.note.enqueue(ledger.path, "runs", gate=gate.path)
    ledger.start_of("runs")
    waiting = tasks.note.enqueue_many([(ledger.path, f"n{i}", 0.002) for i in range(600)])
    wait_until(lambda: len(ledger.starts()) > 20)
    private_database.crash()
    connection.close()
    # A task that runs is not disturbed; its outcome waits for the database.
    gate.open()
    private_worker.wait_for("trying again")
    private_database.start()
    for result in [running, *waiting]:
        result.wait(timeout=30)
    assert statuses() == {}
    assert FinishedTask.objects.filter(crashes__gt=0).count() == 0
    starts = Counter(ledger.tags())
    assert len(starts) == 601
    # What was answered by a COMMIT that nobody heard may have run; nothing else runs twice.
    assert starts["runs"] == 1
    # It goes on as before, with the same processes and without a growing log.
    assert tasks.add.enqueue(1, 1).wait(timeout=20) == 2
    assert len(re.findall("trying again", private_worker.output)) < 60


def test_a_database_that_is_a_standby_for_a_while_ends_no_process(
    private_worker: TaskWorker, private_database: PrivateServer, ledger: Ledger, gate: Gate
) -> None:
    """As after a failover, when a name still leads to the old server or to a replica."""
    running = tasks.note.enqueue(ledger.path, "runs", gate=gate.path)
    start = ledger.start_of("runs")
    children = private_worker.children()
    sql("ALTER SYSTEM SET default_transaction_read_only = on")
    sql("SELECT pg_reload_conf()")
    try:
        # A session learns of it a moment later. When the supervisor's has, so has the child's.
        wait_until(lambda: re.search(r"(?<!\d: )cannot execute", private_worker.output))
        gate.open()
        wait_until(lambda: re.search(r"\d: cannot execute", private_worker.output))
    finally:
        sql("ALTER SYSTEM RESET ALL")
        sql("SELECT pg_reload_conf()")
    assert running.wait(timeout=30) == start.pid
    assert tasks.add.enqueue(1, 1).wait(timeout=20) == 2
    assert private_worker.children() == children
    assert ledger.tags() == ["runs"]


def test_lost_connections_during_a_drain_lose_nothing(
    private_worker: TaskWorker, private_database: PrivateServer, ledger: Ledger
) -> None:
    warm_up(ledger, 2)
    results = tasks.note.enqueue_many([(ledger.path, f"n{i}", 0.001) for i in range(2000)])
    lost = 0
    for portion in range(200, 1600, 200):
        wait_until(lambda least=portion: len(ledger.starts()) >= least)  # type: ignore[misc]
        ((count,),) = sql(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name LIKE 'taskworker%%' AND datname = current_database()"
        )
        lost += count
    assert lost > 10
    for result in results:
        result.wait(timeout=60)
    assert statuses() == {}
    starts = Counter(ledger.tags())
    assert len(starts) == 2000
    twice = [tag for tag, count in starts.items() if count > 1]
    # Only an outcome whose connection died before its COMMIT could be sent again, and that is
    # kept and sent again; so nothing that has started starts once more.
    assert twice == []


@pytest.mark.parametrize("children", [1])
def test_a_claim_whose_answer_was_lost_is_found(
    private_worker: TaskWorker, private_database: PrivateServer, ledger: Ledger
) -> None:
    assert tasks.add.enqueue(1, 1).wait(timeout=20) == 2
    (child,) = private_worker.children().values()
    results = [tasks.note.using(run_after=3600).enqueue(ledger.path, f"lost:{i}") for i in range(3)]
    # As a claim leaves them whose COMMIT has been done and whose answer has got lost.
    sql(
        "UPDATE django_taskq_livetask SET status = 'RUNNING', run_after = statement_timestamp(), "
        "claim = %s, worker_id = %s, started_at = statement_timestamp(), attempts = 1",
        uuid4(),
        child,
    )
    sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name LIKE 'taskworker child%%' AND datname = current_database()"
    )
    # Its next statement finds the connection lost.
    assert tasks.add.enqueue(2, 2).wait(timeout=20) == 4
    for result in results:
        result.wait(timeout=20)
        assert result.attempts == 1
    assert sorted(ledger.tags()) == ["lost:0", "lost:1", "lost:2"]


def test_a_worker_that_waits_for_its_database_starts_when_it_comes(
    private_database: PrivateServer, tmp_path: Path
) -> None:
    private_database.crash()
    connection.close()
    worker = TaskWorker(("-c", "1", "--burst"), url=private_database.url, directory=tmp_path)
    try:
        try:
            worker.wait_for("waiting up to 60 s")
        finally:
            private_database.start()
        assert worker.wait() == 0
        assert "tasks registered" in worker.output
    finally:
        worker.stop()


def test_a_stop_while_the_database_is_away_ends_all_the_same(
    private_worker: TaskWorker, private_database: PrivateServer
) -> None:
    private_worker.children()
    private_database.crash()
    connection.close()
    try:
        private_worker.wait_for("trying again")
        private_worker.send(signal.SIGQUIT)
        private_worker.wait(20)
    finally:
        private_database.start()
    assert "Traceback" not in private_worker.output


def test_an_idle_worker_sends_at_most_two_queries_a_second(
    private_worker: TaskWorker, private_database: PrivateServer
) -> None:
    assert tasks.add.enqueue(1, 1).wait(timeout=20) == 2
    sql("ALTER SYSTEM SET log_statement = 'all'")
    sql("ALTER SYSTEM SET log_line_prefix = '%%m <%%a> '")
    sql("SELECT pg_reload_conf()")
    statement = re.compile(r"^(\S+ \S+) \S+ <taskworker.*> LOG:  (?:statement|execute [^:]*): (.*)")
    beats = dict(Worker.objects.values_list("id", "beat"))
    # From half a second after a beat, so that ten seconds hold two of them and not three.
    wait_until(lambda: dict(Worker.objects.values_list("id", "beat")) != beats)
    sql("SELECT pg_sleep(0.5)")
    beats = dict(Worker.objects.values_list("id", "beat"))
    try:
        begin = len(private_database.log())
        sql("SELECT pg_sleep(10)")
        sent = statement_lines(private_database.log()[begin:], statement)
    finally:
        sql("ALTER SYSTEM RESET ALL")
        sql("SELECT pg_reload_conf()")
    assert len(sent) >= 10, "nothing was counted"
    assert len(sent) / 10 <= 2, sent
    # One of them showed that the worker and its children live.
    assert len(beats) == 3
    assert all(Worker.objects.get(pk=id).beat > beat for id, beat in beats.items())


def statement_lines(log: str, statement: re.Pattern[str]) -> list[str]:
    """Return the statements of a server's log."""
    return [match.group(2) for line in log.splitlines() if (match := statement.match(line))]
