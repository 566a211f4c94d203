"""Whatever a task raises, and whatever stands in its row, costs no process and no other task."""

from __future__ import annotations

import json

import pytest

from django_taskq.models import FinishedTask
from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import sql, wait_until
from tests.support import nasty

pytestmark = pytest.mark.slow

ROWS = [
    {"args": "null"},
    {"args": "[" * 3000 + "]" * 3000},
    {"kwargs": '{"message": ' + "1" * 5000 + "}"},
    {"options": "[]"},
    {"options": '{"timeout": "soon"}'},
    {"options": '{"backoff": {}}'},
]


@pytest.mark.parametrize("pool", ["processes", "threads", "asyncio"])
def test_no_error_and_no_row_ends_a_process(pool: str, start: Starter) -> None:
    worker = start("-v", "0", pool=pool, children=2)
    children = worker.children()
    for kind in nasty.RAISERS:
        tasks.raise_nasty.enqueue(kind)
        tasks.raise_nasty_async.enqueue(kind)
    for row in ROWS:
        ((name, value),) = row.items()
        for task in ("fail", "note_async"):
            sql(
                f"INSERT INTO django_taskq_livetask (task, {name}) VALUES (%s, %s)",
                f"tests.processes.tasks.{task}",
                value,
            )
    count = 2 * (len(nasty.RAISERS) + len(ROWS))
    wait_until(lambda: FinishedTask.objects.count() == count)
    found = sql("SELECT status, crashes, attempts, errors::text FROM django_taskq_finishedtask")
    assert {status for status, *_ in found} <= {"FAILED", "CANCELLED"}
    assert all((crashes, attempts) == (0, 1) for _, crashes, attempts, _ in found)
    assert all(json.loads(errors) for *_, errors in found)
    assert tasks.add.enqueue(1, 2).wait(timeout=20) == 3
    assert worker.children() == children
