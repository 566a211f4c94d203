"""Tasks of a project that is fully typed: both checkers must accept every line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, assert_type

from django_taskq import (
    Cancel,
    Retry,
    Snooze,
    Task,
    TaskContext,
    TaskResult,
    aenqueue,
    enqueue,
    exponential,
    task,
)


@task
def bare(order_id: int, note: str = "") -> str:
    return f"{order_id}{note}"


@task(queue_name="mail", max_attempts=5, retry_on=(ConnectionError,), backoff=30, timeout=60)
def configured(order_id: int, *, urgent: bool) -> list[int]:
    if urgent:
        raise Retry("later", delay=timedelta(seconds=5))
    if order_id == 2:
        raise Snooze(5)
    if order_id == 3:
        raise Cancel("withdrawn")
    return [order_id]


@task(backoff=exponential(base=2, cap=60), give_up_on=PermissionError)
async def on_a_loop(order_id: int) -> float:
    return 1.5


@task(takes_context=True)
def told(context: TaskContext, order_id: int) -> int:
    context.progress(1, 2, "half")
    return assert_type(context.attempt, int)


@task(backoff=lambda attempt, error: attempt * 2.0 if attempt < 3 else None)
def chosen(order_id: int) -> None:
    return None


def use() -> None:
    assert_type(bare(1, "x"), str)
    assert_type(bare.enqueue(1), TaskResult[str])
    assert_type(bare.enqueue(order_id=1, note="x").wait(timeout=30), str)
    assert_type(configured.enqueue(1, urgent=True).wait(timeout=30), list[int])
    assert_type(told.enqueue(1), TaskResult[int])
    assert_type(on_a_loop.enqueue(1).wait(timeout=1), float)
    assert_type(bare.using(priority=3, run_after=timedelta(hours=1)).enqueue(1), TaskResult[str])
    assert_type(bare.enqueue_many([(1,), {"order_id": 2}]), Sequence[TaskResult[str]])
    assert_type(enqueue("shop.tasks.bare", 1), TaskResult[Any])
    assert_type(bare.get_result("id"), TaskResult[str])
    assert_type(bare.enqueue(1).cancel(), bool)
    accepts_any(bare, told, on_a_loop)


async def use_on_a_loop() -> None:
    result = await bare.aenqueue(1)
    assert_type(result, TaskResult[str])
    assert_type(await result.async_wait(timeout=1), str)
    assert_type(await on_a_loop.acall(1), float)
    assert_type(await aenqueue("shop.tasks.bare", 1), TaskResult[Any])


def accepts_any(*tasks: Task[..., Any]) -> int:
    return len(tasks)
