"""A whole worker is gone, and nobody is left to say what it held: the others find out."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from django_taskq import TaskCrashed, clocks
from django_taskq.models import FinishedTask, LiveTask, Worker
from example_project import embedded_postgres
from tests.processes import brisk, tasks
from tests.processes.conftest import Starter
from tests.processes.servers import PrivateServer
from tests.processes.support import Gate, Ledger, TaskWorker, is_alive, statuses, wait_until
from tests.support.databases import migrate
from tests.support.proxy import serve_proxy

pytestmark = pytest.mark.slow

BRISK = "tests.processes.brisk_settings"
TTL = 5.0


@pytest.fixture
def start_brisk(start: Starter) -> Callable[..., TaskWorker]:
    """Start workers that beat every 0.5 s, and count as dead after 5."""

    def start_one(*arguments: str, **options: Any) -> TaskWorker:
        return start(*arguments, settings=BRISK, **options)

    return start_one


def kill(worker: TaskWorker) -> None:
    """Let a machine die: all processes at once, without a word."""
    processes = {worker.pid, worker.nursery(), *worker.children()}
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
    worker.process.wait()
    wait_until(lambda: not any(map(is_alive, processes)), what="its processes die")


def ids_of(worker: TaskWorker) -> set[str]:
    """Return the ids of the rows of a worker."""
    parent = Worker.objects.get(kind="SUPERVISOR", pid=worker.pid)
    return {str(parent.id), *worker.children().values()}


def in_list(ids: set[str]) -> int:
    return Worker.objects.filter(pk__in=ids).count()


def test_tasks_of_a_worker_that_is_gone_run_elsewhere(
    start_brisk: Starter, ledger: Ledger, gate: Gate
) -> None:
    lost = start_brisk(children=3)
    running = [tasks.note.enqueue(ledger.path, tag, gate=gate.path) for tag in ("a", "b")]
    once = tasks.note_once.enqueue(ledger.path, "once", gate.path)
    wait_until(lambda: len(ledger.starts()) == 3)
    gone = ids_of(lost)
    other = start_brisk(children=2)
    kill(lost)
    wait_until(lambda: in_list(gone) == 0, 30, "its rows go")
    wait_until(
        lambda: ledger.tags().count("a") + ledger.tags().count("b") == 4, 5, "they run again"
    )
    gate.open()
    for result in running:
        result.wait(timeout=20)
        assert result.attempts == 1
        assert FinishedTask.objects.get(pk=result.id).crashes == 1
        (error,) = result.errors
        assert f"of the worker {lost.pid} on" in error.message
    with pytest.raises(TaskCrashed, match="not started again"):
        once.wait(timeout=20)
    assert Counter(ledger.tags()) == {"a": 2, "b": 2, "once": 1}
    assert f"The worker {lost.pid} on" in other.output


def test_a_suspended_worker_finds_itself_dead_and_changes_nothing(
    start_brisk: Starter, ledger: Ledger, gate: Gate
) -> None:
    zombie = start_brisk(children=1)
    result = tasks.note.enqueue(ledger.path, "runs", gate=gate.path)
    ledger.start_of("runs")
    gone = ids_of(zombie)
    start_brisk(children=1)
    zombie.send(signal.SIGSTOP)
    try:
        wait_until(lambda: len(ledger.starts()) == 2, 30, "the task runs elsewhere")
        assert in_list(gone) == 0
        gate.open()  # both processes come to the end of it
        result.wait(timeout=20)
        zombie.wait_for("came too late")
    finally:
        zombie.send(signal.SIGCONT)
    assert zombie.wait(20) == 75
    assert "declared dead" in zombie.output
    row = FinishedTask.objects.get(pk=result.id)
    assert str(row.worker_id) not in gone
    assert (row.status, row.attempts, row.crashes) == ("SUCCESSFUL", 1, 1)
    assert tasks.add.enqueue(1, 1).wait(timeout=20) == 2


@pytest.mark.chaos
def test_a_connection_that_is_dead_but_looks_alive_holds_nobody_up(
    database: str, tmp_path: Path, ledger: Ledger, gate: Gate
) -> None:
    with serve_proxy(database) as proxy:
        name = str(connection.settings_dict["NAME"])
        flags = ("-c", "1", "--shutdown-timeout", "3")
        worker = TaskWorker(flags, url=proxy.url(name), directory=tmp_path, settings=BRISK)
        try:
            worker.wait_until_ready(1)
            result = tasks.note.enqueue(ledger.path, "runs", gate=gate.path)
            ledger.start_of("runs")
            proxy.hold("request", "answer")
            worker.wait_for("no answer within 3 s; trying again", 20)
            proxy.clear()
            worker.wait_for("The database answers again", 20)
            gate.open()
            result.wait(timeout=60)
            proxy.hold("request", "answer")
            worker.send(signal.SIGTERM)
            assert worker.wait(30) == 0
        finally:
            proxy.clear()
            worker.stop()
    assert FinishedTask.objects.get(pk=result.id).crashes == 0
    assert ledger.tags() == ["runs"]


@pytest.mark.chaos
@pytest.mark.parametrize("pool", ["processes", "threads", "asyncio", "solo"])
def test_a_worker_that_comes_later_rescues_what_it_finds_in_every_pool(
    start_brisk: Starter, ledger: Ledger, gate: Gate, pool: str
) -> None:
    lost = start_brisk(children=2, pool=pool)
    result = tasks.note.enqueue(ledger.path, "runs", gate=gate.path)
    ledger.start_of("runs")
    gone = ids_of(lost)
    lost.process.kill()
    lost.process.wait()
    start_brisk(children=1, pool=pool)
    wait_until(lambda: len(ledger.starts()) == 2, 30, "it runs again")
    assert in_list(gone) == 0
    gate.open()
    result.wait(timeout=20)
    assert (result.attempts, FinishedTask.objects.get(pk=result.id).crashes) == (1, 1)


@pytest.mark.chaos
def test_a_worker_whose_project_takes_long_to_load_anew_is_not_dead(
    start_brisk: Starter, tmp_path: Path, ledger: Ledger, gate: Gate
) -> None:
    is_slow = tmp_path / "slow"
    loading = start_brisk(children=1, environment={brisk.SLOW: str(is_slow)})
    result = tasks.note.enqueue(ledger.path, "runs", gate=gate.path)
    ledger.start_of("runs")
    own = Worker.objects.get(kind="SUPERVISOR", pid=loading.pid).pk
    start_brisk("-Q", "another", children=1)
    is_slow.touch()
    os.kill(loading.nursery(), signal.SIGKILL)
    loading.wait_for("The nursery died")
    time.sleep(2 * TTL)
    assert Worker.objects.filter(pk=own).exists()
    is_slow.unlink()
    gate.open()
    result.wait(timeout=30)
    # Its supervisor was there to say that nobody is to blame.
    assert FinishedTask.objects.get(pk=result.id).crashes == 0


@pytest.mark.chaos
def test_a_lock_that_keeps_a_supervisor_from_settling_a_death_makes_nobody_dead(
    start_brisk: Starter, ledger: Ledger, gate: Gate
) -> None:
    worker = start_brisk(children=1)
    result = tasks.note.enqueue(ledger.path, "runs", gate=gate.path)
    ledger.start_of("runs")
    own = ids_of(worker)
    start_brisk("-Q", "another", children=1)
    with transaction.atomic():
        LiveTask.objects.select_for_update().get(pk=result.id)
        os.kill(next(iter(worker.children())), signal.SIGKILL)
        worker.wait_for("trying again")
        time.sleep(2 * TTL)
        assert in_list(own) == len(own)
    gate.open()
    result.wait(timeout=30)
    # Told by the one who knows how it died, and not by the others.
    (error,) = result.errors
    assert "was killed by SIGKILL" in error.message


@pytest.mark.chaos
def test_a_long_drain_is_no_death(start_brisk: Starter, ledger: Ledger, gate: Gate) -> None:
    leaving = start_brisk("--shutdown-timeout", "60", children=1)
    result = tasks.note.enqueue(ledger.path, "runs", gate=gate.path)
    ledger.start_of("runs")
    own = ids_of(leaving)
    start_brisk(children=1)
    leaving.send(signal.SIGTERM)
    time.sleep(3 * TTL)
    assert in_list(own) == len(own)
    gate.open()
    assert leaving.wait(20) == 0
    result.wait(timeout=20)
    assert FinishedTask.objects.get(pk=result.id).crashes == 0
    assert ledger.tags() == ["runs"]


@pytest.mark.chaos
@pytest.mark.timeout(180)
def test_a_lost_host_is_rescued_within_40_seconds(
    start: Starter, ledger: Ledger, gate: Gate
) -> None:
    lost = start(children=1)
    tasks.note.enqueue(ledger.path, "runs", gate=gate.path)
    ledger.start_of("runs")
    start(children=1)
    time.sleep(clocks.BEAT)  # the other one has seen it
    killed_at = time.monotonic()
    kill(lost)
    wait_until(lambda: len(ledger.starts()) == 2, 60, "it runs again")
    seconds = ledger.starts()[1].at - killed_at
    assert clocks.TTL - clocks.BEAT <= seconds <= clocks.TTL + clocks.SWEEP + clocks.BEAT
    gate.open()
    wait_until(lambda: statuses() == {}, 20)


@pytest.fixture
def private_server(use_database: Any) -> Iterator[PrivateServer]:
    """Yield a server that may be stopped, to which Django is connected too."""
    with embedded_postgres.serve(fast=True) as url:
        migrate(url)
        with use_database(url):
            yield PrivateServer(url)


@pytest.mark.chaos
@pytest.mark.timeout(180)
def test_an_outage_kills_nobody(
    private_server: PrivateServer, tmp_path: Path, ledger: Ledger, gate: Gate
) -> None:
    workers = [
        TaskWorker(("-c", "2"), url=private_server.url, directory=tmp_path, settings=BRISK)
        for _ in range(3)
    ]
    try:
        for worker in workers:
            worker.wait_until_ready(2)
        calls = [(ledger.path, f"n{n}", 0.0, gate.path) for n in range(6)]
        results = tasks.note.enqueue_many(calls)
        wait_until(lambda: len(ledger.starts()) == 6)
        before = set(Worker.objects.values_list("pk", flat=True))
        private_server.crash()
        connection.close()
        time.sleep(3 * TTL)
        private_server.start()
        for worker in workers:
            worker.wait_for("The database answers again")
        time.sleep(2 * TTL)  # long enough to condemn whoever is slow
        assert set(Worker.objects.values_list("pk", flat=True)) == before
        gate.open()
        for result in results:
            result.wait(timeout=30)
    finally:
        for worker in workers:
            worker.stop()
    assert not FinishedTask.objects.exclude(crashes=0).exists()
    assert len(ledger.starts()) == 6
    assert not any("declared dead" in worker.output for worker in workers)
