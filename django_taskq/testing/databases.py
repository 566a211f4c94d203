"""Find the databases that hold tasks."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured

from django_taskq.backend import TaskqBackend
from django_taskq.router import our_backends
from django_taskq.tasks_api import task_backends


def backends() -> dict[str, TaskqBackend]:
    """Return a backend of ours per database. Raise ImproperlyConfigured if there is none."""
    ours = {b.database: b for b in our_backends() if isinstance(b, TaskqBackend)}
    if not ours:
        kinds = ", ".join(sorted({type(backend).__name__ for backend in task_backends.all()}))
        raise ImproperlyConfigured(
            f"The TASKS setting names {kinds} only: its tasks are no rows, so there is nothing to "
            "run or to look at here. Leave TASKS in tests as it is in production: "
            "django_taskq.testing needs no other backend."
        )
    return ours
