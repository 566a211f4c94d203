"""A supervisor ends what expired while it waited, a little at a time."""

from __future__ import annotations

import logging
import time

import psycopg
import pytest

from django_taskq.db import Connection
from django_taskq.exceptions import TaskExpired
from django_taskq.task import task
from django_taskq.worker import expiry
from django_taskq.worker.expiry import Expiry


@task
def never() -> None:
    raise AssertionError("it is not to run")


def test_many_expired_tasks_end_in_batches_and_the_log_says_how_many_once(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="django_taskq.worker")
    connection.execute(
        "INSERT INTO django_taskq_livetask (task, queue_name, expires_at) "
        "SELECT 'x', 'of nobody', clock_timestamp() - interval '1 second' "
        "FROM generate_series(1, 1500) AS n"
    )
    duty = Expiry()
    assert 5 < duty.next_at - time.monotonic() < 61, "not together with its neighbours"

    began = time.monotonic()
    duty.end_expired(connection)
    took = time.monotonic() - began
    assert began + took <= duty.next_at < time.monotonic() + took + 1, "there may be more"
    duty.end_expired(connection)
    assert duty.next_at - time.monotonic() > 30, "an idle worker looks once a minute"
    duty.end_expired(connection)

    assert [r.getMessage() for r in caplog.records] == [
        "Ended 1500 task(s) that expired while they waited."
    ]


def test_its_result_says_that_it_expired(connection: Connection) -> None:
    result = never.using(queue_name="of nobody", expires_after=60).enqueue()
    connection.execute(
        "UPDATE django_taskq_livetask SET expires_at = clock_timestamp() WHERE id = %s",
        [result.id],
    )

    Expiry().end_expired(connection)

    with pytest.raises(TaskExpired, match="not started within its expires_after"):
        result.wait(timeout=0)
    [error] = result.errors
    assert result.worker_ids == []
    assert (error.attempt, error.worker) == (0, "")


def test_rows_that_the_database_refuses_do_not_end_the_worker(
    connection: Connection, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(connection: Connection, *, error: str) -> int:
        raise psycopg.errors.CheckViolation("made by hand")

    monkeypatch.setattr(expiry, "expire_waiting", refuse)
    duty = Expiry()

    duty.end_expired(connection)

    assert "made by hand" in caplog.text
    assert duty.next_at - time.monotonic() > 30, "and not at once again"
