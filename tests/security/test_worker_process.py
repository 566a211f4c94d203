"""What a worker says of itself, and what a failing task can multiply into."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from django_taskq.models import FinishedTask, LiveTask, Worker
from tests.processes import tasks
from tests.processes.conftest import Starter, database, database_url, start, use_database
from tests.processes.support import Ledger, wait_until

__all__ = ["database", "database_url", "start", "use_database"]

pytestmark = pytest.mark.slow


def test_the_row_of_a_worker_says_little(start: Starter, tmp_path: Path) -> None:
    start(children=1, environment={"A_SECRET": "c4nary-of-the-environment"})
    said = [str(row) for row in Worker.objects.values()]
    keys = {key for row in Worker.objects.all() for key in row.info}
    assert len(said) >= 2
    assert "c4nary" not in str(said) and str(os.environ["PATH"]) not in str(said)
    assert keys <= {"queues", "excluded", "pool", "concurrency", "version", "slot"}, keys


def test_a_retry_is_no_second_task(start: Starter, tmp_path: Path) -> None:
    start(children=1)
    ledger = Ledger(tmp_path / "ledger")
    result = tasks.fail_until.enqueue(ledger.path, 99)
    for _ in range(3):
        assert LiveTask.objects.count() + FinishedTask.objects.count() == 1
    wait_until(lambda: FinishedTask.objects.filter(pk=result.id).exists(), what="it has failed")
    assert ledger.tags() == ["1", "2", "3"]
    assert (LiveTask.objects.count(), FinishedTask.objects.count()) == (0, 1)
