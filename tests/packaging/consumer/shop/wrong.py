"""Calls that must be errors for both checkers: a comment that nothing needs is an error itself."""

from __future__ import annotations

from django_taskq import task
from shop.tasks import bare, configured, on_a_loop, told


def wrong() -> None:
    bare.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    bare.enqueue("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bare.enqueue(1, z=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    bare.enqueue(1, "a", "b")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    configured.enqueue(1, True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    told.enqueue(1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    on_a_loop.enqueue("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bare("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bare.using(retries=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    bare.using(priority="high")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bare.enqueue(1).wait() + 1  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    task(retries=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    task(max_attempts="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def wrong_on_a_loop() -> None:
    await bare.aenqueue("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
