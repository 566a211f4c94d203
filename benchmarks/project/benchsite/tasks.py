from __future__ import annotations

import time

from django_taskq import task


@task
def noop(number: int = 0) -> None:
    """Do nothing: what remains is the queue's own cost."""


@task
def clock() -> float:
    """Return when it was started."""
    return time.time()
