from __future__ import annotations

from django_taskq import task


@task(name="upgrade.kept")
def kept(number: int) -> str:
    """Stay as it is."""
    return f"newer {number}"


@task(name="upgrade.resized", max_attempts=5, backoff=0)
def resized(photo: int, width: int) -> str:
    """Take two arguments."""
    return f"newer {photo} {width}"


@task(name="upgrade.added")
def added(number: int) -> str:
    """Be new."""
    return f"newer {number}"
