"""Find the databases that hold tasks."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_taskq.backend import TaskqBackend
from django_taskq.task import implicit_backend
from django_taskq.tasks_api import has_tasks_setting, task_backends


def backends() -> dict[str, TaskqBackend]:
    """Return a backend of ours per database. Raise ImproperlyConfigured if there is none."""
    found: list[Any] = list(task_backends.all()) if has_tasks_setting() else [implicit_backend()]
    ours = {backend.database: backend for backend in found if isinstance(backend, TaskqBackend)}
    if not ours:
        kinds = ", ".join(sorted({type(backend).__name__ for backend in found}))
        raise ImproperlyConfigured(
            f"The TASKS setting names {kinds} only: its tasks are no rows, so there is nothing to "
            "run or to look at here. Leave TASKS in tests as it is in production: "
            "django_taskq.testing needs no other backend."
        )
    return ours
