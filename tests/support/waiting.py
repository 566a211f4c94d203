"""Run a statement that has to wait for a lock, and go on when it does wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg

T = TypeVar("T")

_DEADLINE = 20.0


def until(condition: Callable[[], bool], what: str) -> None:
    """Return when the condition holds. Fail after twenty seconds."""
    deadline = time.monotonic() + _DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {_DEADLINE:g} s in vain until {what}")
        time.sleep(0.002)


def start_and_wait_until_blocked(
    call: Callable[[], T], waiting: psycopg.Connection[Any], watcher: psycopg.Connection[Any]
) -> Future[T]:
    """Start `call` on the connection `waiting`, and return once it waits for somebody's lock."""
    pid = waiting.info.backend_pid

    def waits() -> bool:
        found = watcher.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", [pid]).fetchone()
        return bool(found and found[0])

    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    until(lambda: future.done() or waits(), "the statement waits for a lock")
    assert not future.done(), f"the statement did not wait: {future.result()!r}"
    return future
