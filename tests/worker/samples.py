"""Tasks for the tests of the worker's parts, and claimed rows of them."""

from __future__ import annotations

import contextvars
import decimal
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

from django.utils import timezone, translation

from django_taskq import Cancel, Retry, Snooze, TaskContext, exponential, task
from django_taskq.ids import new_id
from django_taskq.task import Task
from django_taskq.transitions.claim import Claimed

MARK: contextvars.ContextVar[str] = contextvars.ContextVar("MARK", default="untouched")


class Speechless(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@task
def give(value: Any = None) -> Any:
    return value


@task
async def give_async(value: Any = None) -> Any:
    return value


@task(store_result=False)
def keep_nothing(value: Any) -> Any:
    return value


@task
def unstorable(kind: str) -> Any:
    return {
        "object": object(),
        "set": {1},
        "nul": "a\x00b",
        "surrogate": "\ud800",
        "nan": float("nan"),
        "key": {1: 2},
        "large": "x" * (1024 * 1024 + 1),
        "model": type,
    }[kind]


@task
def endless() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def _raise(kind: str, message: str) -> None:
    raise {
        "ValueError": ValueError,
        "KeyError": KeyError,
        "SystemExit": SystemExit,
        "KeyboardInterrupt": KeyboardInterrupt,
        "GeneratorExit": GeneratorExit,
        "Speechless": Speechless,
        "FileNotFoundError": FileNotFoundError,
        "OSError": OSError,
    }[kind](message)


@task
def fail(kind: str, message: str = "") -> None:
    _raise(kind, message)


@task(max_attempts=3, backoff=(1, 20))
def fail_thrice(kind: str, message: str = "") -> None:
    _raise(kind, message)


@task(max_attempts=9, retry_on=OSError, give_up_on=FileNotFoundError, backoff=7)
def fail_choosy(kind: str, message: str = "") -> None:
    _raise(kind, message)


@task(max_attempts=9, backoff=exponential(base=10, cap=100))
def fail_exponentially() -> None:
    raise ValueError


def wait_by_hand(attempt: int, error: BaseException) -> float | None:
    return None if "hopeless" in str(error) else attempt * 100.0 + len(str(error))


@task(max_attempts=9, backoff=wait_by_hand)
def fail_by_hand(message: str) -> None:
    raise ValueError(message)


def no_idea(attempt: int, error: BaseException) -> float:
    raise ZeroDivisionError("backoff is broken")


@task(max_attempts=9, backoff=no_idea)
def fail_with_a_broken_backoff() -> None:
    raise ValueError("the task is broken")


@task(max_attempts=2, backoff=5, retry_on=())
def ask_for_retry(delay: float | None = None, again: str = "") -> None:
    raise Retry(again, delay=delay)


@task
def ask_for_snooze(minutes: int) -> None:
    raise Snooze(timedelta(minutes=minutes))


@task
def ask_for_cancel(reason: str = "") -> None:
    raise Cancel(reason)


@task(soft_timeout=5)
def limited() -> str:
    return "in time"


@task(soft_timeout=5)
def limited_and_failing() -> None:
    raise ValueError


@task(takes_context=True, max_attempts=4)
def tell(context: TaskContext, *args: Any) -> dict[str, Any]:
    context.progress(1, 2, "half")
    return {
        "attempt": context.attempt,
        "max_attempts": context.max_attempts,
        "is_stopping": context.is_stopping,
        "id": context.task_result.id,
        "args": list(context.task_result.args),
        "errors": [error.message for error in context.task_result.errors],
    }


@task(at_most_once=True)
def try_once(what: str) -> None:
    raise {"Retry": Retry(delay=1), "Snooze": Snooze(1), "ValueError": ValueError("no")}[what]


@task(takes_context=True)
def tell_cancelled(context: TaskContext) -> bool:
    return context.is_cancelled


@task
def leave_traces() -> None:
    MARK.set("touched")
    translation.activate("de")
    timezone.activate("Asia/Tokyo")
    decimal.getcontext().prec = 3


@task
async def leave_traces_async() -> None:
    MARK.set("touched")
    translation.activate("de")
    timezone.activate("Asia/Tokyo")
    decimal.getcontext().prec = 3


@task
def see_traces() -> list[Any]:
    return [
        MARK.get(),
        translation.get_language(),
        timezone.get_current_timezone_name(),
        decimal.getcontext().prec,
    ]


@task
async def see_traces_async() -> list[Any]:
    return see_traces()


@task
def enqueue_another() -> str:
    return give.enqueue(1).id


@task(takes_context=True)
def see_headers(context: TaskContext) -> dict[str, Any]:
    return dict(context.task_result.headers)


def claimed(of: Task[..., Any] | Callable[..., Any] | str, *args: Any, **changes: Any) -> Claimed:
    """Return a row as a claim brings it."""
    values: dict[str, Any] = {
        "id": new_id(),
        "task": of if isinstance(of, str) else getattr(of, "key", ""),
        "queue_name": "default",
        "priority": 0,
        "args": json.dumps(args),
        "kwargs": "{}",
        "run_after": "2026-01-02 03:04:05.678901+00",
        "enqueued_at": "2026-01-02 03:04:05.678901+00",
        "attempts": 1,
        "max_attempts": None,
        "is_expired": False,
        "is_cancelled": False,
        "options": None,
        "headers": None,
        "errors": None,
        "claim": str(uuid4()),
    }
    return Claimed(**{**values, **changes})
