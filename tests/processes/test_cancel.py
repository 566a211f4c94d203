"""Somebody asks running tasks to end: they see it within two seconds, and end as they like."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from django_taskq import TaskCancelled
from django_taskq.statuses import TaskStatus
from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import Gate, Ledger, statuses, wait_until

pytestmark = pytest.mark.slow


def seen_after(ledger: Ledger, asked_at: float) -> float:
    """Return how many seconds it took until the task knew."""
    return ledger.start_of("seen").at - asked_at


@pytest.mark.parametrize(
    ("then", "status"),
    [
        ("cancel", TaskStatus.CANCELLED),
        ("end", TaskStatus.SUCCESSFUL),
        ("fail", TaskStatus.CANCELLED),
        ("snooze", TaskStatus.CANCELLED),
        ("die", TaskStatus.CANCELLED),
    ],
)
def test_a_running_task_sees_within_two_seconds_that_it_is_to_end(
    start: Starter, ledger: Ledger, then: str, status: TaskStatus
) -> None:
    start(children=1)
    result = tasks.work_until_cancelled.enqueue(ledger.path, then)
    ledger.start_of("started")

    assert result.cancel() is False
    asked_at = time.monotonic()

    assert result.cancel_requested is True
    assert seen_after(ledger, asked_at) < 2.0
    wait_until(lambda: not statuses(), 20, "it has ended")
    result.refresh()
    assert result.row_status == status
    assert ledger.tags() == ["started", "seen"]
    if status == TaskStatus.CANCELLED:
        with pytest.raises(TaskCancelled):
            result.wait(timeout=1)
    else:
        assert result.return_value == "done all the same"


def test_without_hints_it_is_seen_within_two_seconds_too(
    start: Starter, ledger: Ledger, tmp_path: Path
) -> None:
    (tmp_path / "deaf.py").write_text(
        "from tests.processes.settings import *\nDJANGO_TASKQ = {'LISTEN': False}\n"
    )
    start(children=2, settings="deaf")
    result = tasks.work_until_cancelled.enqueue(ledger.path, "end")
    ledger.start_of("started")

    result.cancel()

    assert seen_after(ledger, time.monotonic()) < 2.0


@pytest.mark.parametrize("pool", ["threads", "asyncio", "solo"])
def test_it_is_seen_in_every_pool(start: Starter, ledger: Ledger, gate: Gate, pool: str) -> None:
    start(pool=pool, children=1 if pool == "solo" else 3)
    if pool != "solo":  # another task beside it is not meant
        beside = tasks.note.enqueue(ledger.path, "beside", gate=gate.path)
        ledger.start_of("beside")
    task = tasks.wait_until_cancelled if pool == "asyncio" else tasks.work_until_cancelled
    result = task.enqueue(*([ledger.path] if pool == "asyncio" else [ledger.path, "cancel"]))
    ledger.start_of("started")

    result.cancel()

    assert seen_after(ledger, time.monotonic()) < 2.0
    wait_until(lambda: result.refresh() or result.is_finished, 10)
    assert result.row_status == TaskStatus.CANCELLED
    if pool != "solo":
        beside.refresh()
        assert (beside.row_status, beside.cancel_requested) == (TaskStatus.RUNNING, False)
        gate.open()


def test_a_worker_that_claims_no_more_passes_it_on_all_the_same(
    start: Starter, ledger: Ledger
) -> None:
    start("--max-tasks", "1", children=1)
    result = tasks.work_until_cancelled.enqueue(ledger.path, "end")
    ledger.start_of("started")

    result.cancel()

    assert seen_after(ledger, time.monotonic()) < 2.0
