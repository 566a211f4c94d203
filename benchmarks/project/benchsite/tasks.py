from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from django_taskq import task


@task
def noop(number: int = 0) -> None:
    """Do nothing: what remains is the queue's own cost."""


@task
def clock() -> float:
    """Return when it was started."""
    return time.time()


@task
async def async_noop() -> None:
    """Do nothing, as a coroutine."""


@task
def wait(seconds: float) -> None:
    """Wait as for another server."""
    time.sleep(seconds)


@task
async def async_wait(seconds: float) -> None:
    """Wait as for another server, as a coroutine."""
    await asyncio.sleep(seconds)


# Old commits, which --against runs too, do not know the option.
with suppress(TypeError):

    @task(atomic=True)
    def atomic_noop() -> None:
        """Do nothing in a transaction that stores the result."""
