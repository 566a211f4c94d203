"""How a claimed task is to be run: its function and its options, those of its row included."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import iscoroutinefunction
from typing import Any

from asgiref.sync import async_to_sync

from django_taskq.retries import backoff_from_json, check_backoff
from django_taskq.task import Task
from django_taskq.task_options import in_seconds


@dataclass(slots=True)
class Run:
    """How a task is to be run: its function and its options, those of its row included."""

    task: Task[..., Any]
    func: Callable[..., Any]
    is_async: bool
    takes_context: bool
    timeout: float | None
    soft_timeout: float | None
    store_result: bool
    atomic: bool
    backoff: Any
    # Why it cannot be run: a row that was made by SQL may hold anything.
    problem: str = ""


def run_of_row(task: Task[..., Any], options: str | None) -> Run:
    """Return how to run a task whose row has these options."""
    run = run_of_task(task)
    return run if options is None else with_options(run, options)


def run_of_task(task: Task[..., Any]) -> Run:
    """Return how to run a task by its own options."""
    is_async = iscoroutinefunction(task.func)
    return Run(
        task=task,
        func=async_to_sync(task.func) if is_async else task.func,
        is_async=is_async,
        takes_context=task.takes_context,
        timeout=task.timeout,
        soft_timeout=task.soft_timeout,
        store_result=task.store_result,
        atomic=task.atomic,
        backoff=task.backoff,
    )


def with_options(run: Run, text: str) -> Run:
    """Return it with the options of a row (JSON); one made by SQL may hold what they cannot be."""
    try:
        options = json.loads(text)
        limits = {
            name: in_seconds(name, options[name]) if options[name] is not None else None
            for name in ("timeout", "soft_timeout")
            if name in options
        }
        return replace(
            run,
            timeout=limits.get("timeout", run.timeout),
            soft_timeout=limits.get("soft_timeout", run.soft_timeout),
            store_result=bool(options.get("store_result", run.store_result)),
            backoff=check_backoff(backoff_from_json(options["backoff"]))
            if "backoff" in options
            else run.backoff,
        )
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        return replace(run, problem=f"The row's options cannot be read: {error}.")
