"""Which database keeps the tasks, and a router that leads our models there."""

from __future__ import annotations

from typing import Any

from django.db import DEFAULT_DB_ALIAS
from django.db.models import Model

from django_taskq.task import implicit_backend
from django_taskq.tasks_api import has_tasks_setting, task_backends

_APP_LABEL = "django_taskq"


class TaskqRouter:
    """Keep our tables in the databases that TASKS names, and out of all others.

    Has no opinion on other apps' models.
    """

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        """Return the database of our rows."""
        return database_of_tasks() if model._meta.app_label == _APP_LABEL else None

    def db_for_write(self, model: type[Model], **hints: Any) -> str | None:
        """Return the database of our rows."""
        return self.db_for_read(model)

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        """Allow our migrations where tasks are kept, and nowhere else."""
        return db in databases_of_tasks() if app_label == _APP_LABEL else None


def our_backends() -> list[Any]:
    """Return the backends that keep their tasks in our tables."""
    if not has_tasks_setting():
        return [implicit_backend()]
    return [backend for backend in task_backends.all() if hasattr(backend, "database")]


def databases_of_tasks() -> list[str]:
    """Return the aliases of all databases with our tables."""
    return sorted({backend.database for backend in our_backends()}) or [DEFAULT_DB_ALIAS]


def database_of_tasks() -> str:
    """Return the one that our models are read from: the default backend's, or else the first."""
    backends = {backend.alias: str(backend.database) for backend in our_backends()}
    return backends.get("default") or databases_of_tasks()[0]
