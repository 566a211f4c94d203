"""A burst ends when nothing is due any more; not when a claim has come back with less."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest

from django_taskq import db
from django_taskq.db import Connection
from django_taskq.worker.children import Children
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.supervisor import Supervisor
from tests.support import rows


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    """Yield a supervisor whose children have found nothing to claim."""
    started = Supervisor(WorkerOptions(database="default", burst=True), print)
    with mock.patch.object(Children, "are_idle", True):
        yield started
    started.signals.restore()


@pytest.mark.parametrize("crashes", [0, 2], ids=["a task", "a suspect"])
def test_a_due_task_that_somebody_holds_keeps_a_burst_from_its_end(
    supervisor: Supervisor, connection: Connection, crashes: int
) -> None:
    rows.add(connection, crashes=crashes)

    with db.worker_connection("default", name="test other") as other:
        with other.transaction():
            other.execute("DELETE FROM django_taskq_livetask")
            supervisor._tick(connection)
            assert not supervisor._is_stopping
        supervisor._tick(connection)

    assert supervisor._is_stopping
