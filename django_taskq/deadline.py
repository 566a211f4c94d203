"""A connection that does not wait for ever: whoever pulls a cable says no goodbye.

TCP notices after a quarter of an hour that nobody is there any more, and never if something between
(a pooler, a proxy) still answers for it.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg

T = TypeVar("T")


class NoAnswer(psycopg.OperationalError):
    """The database has not answered in time; the connection is closed."""


class WorkerConnection(psycopg.Connection[tuple[Any, ...]]):
    """Close itself and raise NoAnswer when an answer is too long in coming."""

    # Seconds.
    answer_within = float("inf")

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        """Wait for an answer, as psycopg does for every statement and each end of a pipeline."""
        try:
            return super().wait(_until(gen, self.answer_within), *args, **kwargs)
        except NoAnswer:
            self.close()  # at once: a pipeline or a transaction around it would wait once more
            raise


def _until(gen: Generator[Any, Any, T], seconds: float) -> Generator[Any, Any, T]:
    """Pass a generator of psycopg through; raise NoAnswer if it waits for longer in all."""
    deadline = time.monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            # Nothing, about ten times a second while nothing happens.
            ready = yield wanted
            if not ready and time.monotonic() >= deadline:
                raise NoAnswer(f"no answer within {seconds:g} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        value: T = end.value
        return value
