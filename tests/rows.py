"""Put rows into the tables behind the package's back: tests look at what it makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
from django.db import connection
from django.utils import timezone

from django_taskq.models import FinishedTask, LiveTask, Worker
from django_taskq.models.worker import WorkerKind
from django_taskq.results import TaskResult
from django_taskq.statuses import FINISHED, TaskStatus
from django_taskq.tasks_api import DjangoTask, TaskResultStatus

# Django's own backends, by the path that they have in this version.
_DJANGO = DjangoTask.__module__.removesuffix(".base")
DUMMY = f"{_DJANGO}.backends.dummy.DummyBackend"
IMMEDIATE = f"{_DJANGO}.backends.immediate.ImmediateBackend"
OURS = "django_taskq.backend.TaskqBackend"

# What Django's `status` says of a row in each of ours.
DJANGO_STATUS = {
    TaskStatus.READY: TaskResultStatus.READY,
    TaskStatus.HELD: TaskResultStatus.READY,
    TaskStatus.RUNNING: TaskResultStatus.RUNNING,
    TaskStatus.SUCCESSFUL: TaskResultStatus.SUCCESSFUL,
    TaskStatus.FAILED: TaskResultStatus.FAILED,
    TaskStatus.CANCELLED: TaskResultStatus.FAILED,
    TaskStatus.EXPIRED: TaskResultStatus.FAILED,
}

# The error that stands last in a row that ended without a value.
LAST_ERROR = {
    TaskStatus.FAILED: "builtins.ValueError",
    TaskStatus.CANCELLED: "django_taskq.exceptions.TaskCancelled",
    TaskStatus.EXPIRED: "django_taskq.exceptions.TaskExpired",
}


def make_row(status: TaskStatus, **columns: Any) -> LiveTask | FinishedTask:
    """Insert a row of this status that obeys the constraints; columns may say otherwise."""
    values: dict[str, Any] = {"task": "tests.tasks.add", "args": [1, 2], "status": status.value}
    if status == TaskStatus.HELD:
        values["held_for"] = "unknown:tests.tasks.add"
    if status == TaskStatus.RUNNING:
        values |= {"claim": uuid4(), "worker_id": uuid4(), "started_at": timezone.now()}
        values["attempts"] = 1
    if status in FINISHED:
        values |= {"attempts": 1, "max_attempts": 1}
    if status in LAST_ERROR:
        values["errors"] = [make_error(LAST_ERROR[status], "because")]
    model = FinishedTask if status in FINISHED else LiveTask
    row = model.objects.create(**{**values, **columns})
    row.refresh_from_db()
    return row


def make_error(class_path: str, message: str, *, attempt: int = 1) -> dict[str, Any]:
    """Make the record of a failed attempt as the worker writes it."""
    return {
        "exception_class_path": class_path,
        "message": message,
        "traceback": f"Traceback (most recent call last):\n{class_path}: {message}\n",
        "attempt": attempt,
        "worker": "018f0000-0000-7000-8000-000000000001",
        "started_at": "2026-01-01T12:00:00+00:00",
        "finished_at": "2026-01-01T12:00:01.5+00:00",
    }


def make_worker(**columns: Any) -> Worker:
    """Insert the row of a process."""
    values = {"id": uuid4(), "kind": WorkerKind.SUPERVISOR.value, "host": "box", "pid": 42}
    return Worker.objects.create(**{**values, **columns})


def finish(
    result: TaskResult[Any],
    value: Any = None,
    *,
    status: TaskStatus = TaskStatus.SUCCESSFUL,
    errors: list[dict[str, Any]] | None = None,
) -> None:
    """End an enqueued task as a worker would, on this thread's connection."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH gone AS (DELETE FROM django_taskq_livetask WHERE id = %s RETURNING *)
            INSERT INTO django_taskq_finishedtask (id, task, queue_name, priority, args, kwargs,
              run_after, enqueued_at, attempts, max_attempts, worker_id, started_at, errors,
              status, return_value)
            SELECT id, task, queue_name, priority, args, kwargs, run_after, enqueued_at,
              attempts + 1, max_attempts, gen_random_uuid(), clock_timestamp(), %s::jsonb, %s,
              %s::json
            FROM gone
            """,
            [result.id, json.dumps(errors or []), status.value, json.dumps(value)],
        )
        assert cursor.rowcount == 1, "there was no such live task"


@contextmanager
def second_connection() -> Iterator[psycopg.Connection[Any]]:
    """Open another connection to the tests' database: somebody else's view of it."""
    parameters = connection.get_connection_params()
    for djangos in ("cursor_factory", "context"):
        parameters.pop(djangos, None)
    with psycopg.connect(**parameters, autocommit=True) as other:
        yield other


def live(result: TaskResult[Any] | str | UUID) -> LiveTask:
    """Return the row of an enqueued task."""
    return LiveTask.objects.get(pk=getattr(result, "id", result))
