"""While a new version is deployed, old and new code, and old and new tables, meet."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from django.db import connection

from django_taskq import control
from django_taskq.exceptions import SignatureMismatch
from django_taskq.models import FinishedTask, LiveTask
from django_taskq.serialization import class_path
from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import Ledger, sql, wait_until

pytestmark = pytest.mark.slow

OLDER, NEWER = "tests.processes.settings_older", "tests.processes.settings_newer"


def enqueue(name: str, args: str, count: int = 1) -> list[str]:
    """Enqueue as whatever code would have done it."""
    rows = sql(
        "INSERT INTO django_taskq_livetask (task, args) "
        "SELECT %s, %s::json FROM generate_series(1, %s) RETURNING id::text",
        name,
        args,
        count,
    )
    return [row[0] for row in rows]


def finished(ids: list[str]) -> list[FinishedTask]:
    wait_until(lambda: FinishedTask.objects.filter(pk__in=ids).count() == len(ids), 40)
    return list(FinishedTask.objects.filter(pk__in=ids))


def test_a_task_of_new_code_waits_for_a_worker_that_knows_it(start: Starter) -> None:
    old = start(children=1, settings=OLDER)
    added = enqueue("upgrade.added", "[1]", 5)
    kept = enqueue("upgrade.kept", "[1]", 5)
    assert {row.return_value for row in finished(kept)} == {"older 1"}
    wait_until(lambda: LiveTask.objects.filter(status="HELD").count() == 5)
    start(children=1, settings=NEWER)  # both run, as in the middle of a deployment
    kept = enqueue("upgrade.kept", "[2]", 5)
    assert {row.return_value for row in finished(kept)} <= {"older 2", "newer 2"}
    old.send(signal.SIGTERM)
    for row in finished(added):
        assert (row.status, row.return_value) == ("SUCCESSFUL", "newer 1")
        assert (row.attempts, row.errors) == (1, []), "waiting costs nothing"


@pytest.mark.parametrize(
    ("settings", "args", "words"),
    [
        pytest.param(
            NEWER, "[7]", "missing a required argument: 'width'", id="an-old-row-in-new-code"
        ),
        pytest.param(
            OLDER, "[7, 100]", "too many positional arguments", id="a-new-row-in-old-code"
        ),
    ],
)
def test_a_task_with_another_signature_fails_once_and_can_be_retried_with_the_right_code(
    settings: str, args: str, words: str, start: Starter
) -> None:
    worker = start(children=1, settings=settings)
    ids = enqueue("upgrade.resized", args)
    (row,) = finished(ids)
    assert (row.status, row.attempts, len(row.errors)) == ("FAILED", 1, 1)
    assert row.errors[0]["exception_class_path"] == class_path(SignatureMismatch)
    assert words in row.errors[0]["message"]
    worker.send(signal.SIGTERM)
    assert worker.wait(20) == 0
    start(children=1, settings=OLDER if settings == NEWER else NEWER)
    assert control.retry(ids).count == 1
    (row,) = finished(ids)
    assert row.status == "SUCCESSFUL"


def test_workers_go_on_while_the_tables_get_what_the_next_version_adds(
    start: Starter, ledger: Ledger
) -> None:
    worker = start("-v", "0", children=2)
    results: list[Any] = []

    def keep_busy() -> None:
        calls = [(ledger.path, f"n{len(results) + i}", 0.001) for i in range(150)]
        results.extend(tasks.note.enqueue_many(calls))
        done = len(results) - 100
        wait_until(lambda: len(ledger.starts()) > done)

    keep_busy()
    tables = ("livetask", "finishedtask", "worker")
    for table in tables:
        sql(f"ALTER TABLE django_taskq_{table} ADD COLUMN next_version text")
        keep_busy()
        sql(f"ALTER TABLE django_taskq_{table} ADD COLUMN next_flag boolean NOT NULL DEFAULT false")
        keep_busy()
    connection.ensure_connection()
    sql("CREATE INDEX CONCURRENTLY next_index ON django_taskq_livetask (task)")
    sql(
        "ALTER TABLE django_taskq_livetask ADD CONSTRAINT next_check "
        "CHECK (next_version IS NULL) NOT VALID"
    )
    keep_busy()
    try:
        for result in results:
            result.wait(timeout=30)
        crashed = tasks.die.enqueue(ledger.path, "dies", 1)
        assert crashed.wait(timeout=30) == "survived"
        assert not FinishedTask.objects.exclude(status="SUCCESSFUL").exists()
        assert len(set(ledger.tags())) == len(results) + 1
        # Nothing failed, not even once: what was prepared for the old tables goes on.
        assert "trying again" not in worker.output
        assert "is tried again" not in worker.output
        assert "Traceback" not in worker.output
    finally:
        for table in tables:
            sql(
                f"ALTER TABLE django_taskq_{table} DROP COLUMN IF EXISTS next_version, "
                "DROP COLUMN IF EXISTS next_flag"
            )
        sql("DROP INDEX IF EXISTS next_index")
