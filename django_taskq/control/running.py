"""Run a task here and now, as a worker would: for debuggers, and to try it."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import transaction

from django_taskq.exceptions import ArgumentsError
from django_taskq.ids import new_id
from django_taskq.results import TaskResult
from django_taskq.serialization import dump_arguments, dump_value
from django_taskq.statuses import TaskStatus
from django_taskq.task import Task, TaskContext, find_or_raise
from django_taskq.tasks_api import TaskResultStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What a task came to that ran here."""

    task: str
    return_value: Any
    seconds: float
    # Why a worker could not have stored the value, if so.
    problem: str | None


def run_here(
    name: str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> Ran:
    """Run a registered task in this thread: no row, no worker, no retry, no time limit.

    The arguments go through JSON as those of a stored task do. `report` is called with what the
    task says by `context.progress()`. Raise UnknownTask, ArgumentsError, or what the task raises.
    """
    task = find_or_raise(name)
    texts = dump_arguments(task.name, args, kwargs or {})
    given: list[Any] = json.loads(texts[0])
    named: dict[str, Any] = json.loads(texts[1])
    if task.takes_context:
        given.insert(0, _context(task, list(given), named, report))
    try:
        inspect.signature(task.func).bind(*given, **named)
    except TypeError as error:
        shown = inspect.signature(task.func)
        raise ArgumentsError(f"{task.key}: {error}. The task is {task.name}{shown}.") from None
    began = time.monotonic()
    with _transaction(task):
        value = task.call(*given, **named)
    seconds = time.monotonic() - began
    problem = None
    if task.store_result:
        try:
            dump_value(task.name, value)
        except (TypeError, ValueError, RecursionError) as error:
            problem = str(error)
    return Ran(task=task.key, return_value=value, seconds=seconds, problem=problem)


def _transaction(task: Task[..., Any]) -> AbstractContextManager[Any]:
    """Open the transaction that an atomic task runs in."""
    database = getattr(task.get_backend(), "database", None)
    if getattr(task, "atomic", False) and database is not None:
        opened: AbstractContextManager[Any] = transaction.atomic(using=database)
        return opened
    return nullcontext()


def _context(
    task: Task[..., Any],
    args: list[Any],
    kwargs: dict[str, Any],
    report: Callable[[dict[str, Any]], None] | None,
) -> TaskContext:
    now = datetime.now(UTC)
    result: TaskResult[Any] = TaskResult(
        task=task,
        id=new_id(),
        status=TaskResultStatus.RUNNING,
        row_status=TaskStatus.RUNNING,
        enqueued_at=now,
        started_at=now,
        finished_at=None,
        last_attempted_at=now,
        args=args,
        kwargs=kwargs,
        backend=task.backend,
        errors=[],
        worker_ids=[],
        attempts=1,
        max_attempts=task.max_attempts,
        run_after=now,
    )
    return TaskContext(task_result=result, report=report)
