"""A worker is asked to stop."""

from __future__ import annotations

import os
import signal
import time

import pytest

from django_taskq.models import Worker
from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import (
    Gate,
    Ledger,
    TaskWorker,
    is_alive,
    sql,
    statuses,
    wait_until,
    warm_up,
)

pytestmark = pytest.mark.slow


def assert_nothing_is_left(worker: TaskWorker) -> None:
    assert not any(map(is_alive, worker._seen))
    assert not Worker.objects.exists()
    assert statuses()["RUNNING"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_the_running_task_finish_and_gives_the_rest_back(
    number: int, start: Starter, ledger: Ledger, gate: Gate
) -> None:
    worker = start(children=1)
    warm_up(ledger, 1)
    running, *_ = tasks.note.enqueue_many(
        [(ledger.path, "runs", 0.0, gate.path)] + [(ledger.path, f"n{i}") for i in range(20)]
    )
    ledger.start_of("runs")
    wait_until(lambda: statuses()["RUNNING"] == 21, 0.9)
    worker.send(number)
    wait_until(lambda: statuses() == {"RUNNING": 1, "READY": 20}, 5, "the rest goes back at once")
    assert worker.process.poll() is None
    gate.open()
    assert worker.wait(10) == 0
    running.refresh()
    assert running.row_status == "SUCCESSFUL"
    assert sql("SELECT DISTINCT attempts, crashes FROM django_taskq_livetask") == [(0, 0)]
    assert ledger.tags() == ["runs"]
    assert_nothing_is_left(worker)


def test_after_the_grace_time_the_running_task_goes_back_too(
    start: Starter, ledger: Ledger
) -> None:
    worker = start("--shutdown-timeout", "0.5", children=2)
    results = [
        tasks.note.enqueue(ledger.path, "sleeps", seconds=30),
        tasks.hold_the_gil.enqueue(ledger.path, "in-c-code", 30),
    ]
    wait_until(lambda: len(ledger.starts()) == 2)
    asked = time.monotonic()
    worker.send(signal.SIGTERM)
    assert worker.wait(10) == 0
    assert 0.5 <= time.monotonic() - asked < 3.5
    for result in results:
        result.refresh()
        assert (result.row_status, result.attempts, result.errors) == ("READY", 0, [])
    assert sql("SELECT DISTINCT crashes FROM django_taskq_livetask") == [(0,)]
    assert_nothing_is_left(worker)


@pytest.mark.parametrize(
    "numbers", [[signal.SIGTERM, signal.SIGTERM], [signal.SIGQUIT]], ids=["twice", "SIGQUIT"]
)
def test_asked_twice_it_stops_at_once(numbers: list[int], start: Starter, ledger: Ledger) -> None:
    worker = start(children=2)
    result = tasks.note.enqueue(ledger.path, "sleeps", seconds=30)
    ledger.start_of("sleeps")
    *first, last = numbers
    for number in first:
        worker.send(number)
        worker.wait_for("once more to stop now")
    worker.send(last)
    asked = time.monotonic()
    assert worker.wait(10) == 0
    assert time.monotonic() - asked < 2
    result.refresh()
    assert (result.row_status, result.attempts) == ("READY", 0)
    assert_nothing_is_left(worker)


def test_ctrl_c_is_not_felt_by_tasks(start: Starter, ledger: Ledger, gate: Gate) -> None:
    worker = start(children=2)
    result = tasks.note.enqueue(ledger.path, "runs", gate=gate.path)
    ledger.start_of("runs")
    os.killpg(worker.pid, signal.SIGINT)
    worker.wait_for("Stopping")
    gate.open()
    assert worker.wait(10) == 0
    result.refresh()
    assert result.row_status == "SUCCESSFUL"
    assert result.errors == []
    assert "Traceback" not in worker.output and "KeyboardInterrupt" not in worker.output
    assert_nothing_is_left(worker)


def test_a_signal_to_every_process_of_the_worker_does_not_end_tasks(
    start: Starter, ledger: Ledger, gate: Gate
) -> None:
    """A service manager sends SIGTERM to all processes of a unit, children included."""
    worker = start(children=2)
    result = tasks.note.enqueue(ledger.path, "runs", gate=gate.path)
    ledger.start_of("runs")
    for pid in (worker.nursery(), *worker.children()):
        os.kill(pid, signal.SIGTERM)
    worker.send(signal.SIGTERM)
    worker.wait_for("Stopping")
    gate.open()
    assert worker.wait(10) == 0
    result.refresh()
    assert (result.row_status, len(ledger.starts())) == ("SUCCESSFUL", 1)
    assert_nothing_is_left(worker)


def test_a_task_can_see_that_its_worker_stops(start: Starter, ledger: Ledger) -> None:
    worker = start(children=1)
    result = tasks.work_until_stopped.enqueue(ledger.path)
    ledger.start_of("started")
    worker.send(signal.SIGTERM)
    assert worker.wait(10) == 0
    result.refresh()
    assert result.return_value == "asked to stop"


def test_an_idle_worker_stops_at_once(start: Starter) -> None:
    worker = start(children=2)
    asked = time.monotonic()
    worker.send(signal.SIGTERM)
    assert worker.wait(10) == 0
    assert time.monotonic() - asked < 2
    assert_nothing_is_left(worker)


def test_a_worker_that_is_just_starting_stops_too(start: Starter) -> None:
    worker = start(children=2, ready=False)
    connected = """
        SELECT FROM pg_stat_activity
        WHERE application_name = 'taskworker' AND datname = current_database()
    """
    wait_until(lambda: sql(f"SELECT 1 WHERE EXISTS ({connected})"))
    asked = time.monotonic()
    worker.send(signal.SIGTERM)
    assert worker.wait(20) == 0
    assert time.monotonic() - asked < 5
    assert "Traceback" not in worker.output
    assert_nothing_is_left(worker)
