from __future__ import annotations

from django_taskq import task


@task(name="upgrade.kept")
def kept(number: int) -> str:
    """Stay as it is."""
    return f"older {number}"


@task(name="upgrade.resized", max_attempts=5, backoff=0)
def resized(photo: int) -> str:
    """Take one argument."""
    return f"older {photo}"
