"""Which database an operator means."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS

from django_taskq import db
from django_taskq.exceptions import TaskqError
from django_taskq.suggestions import did_you_mean
from django_taskq.task import implicit_backend
from django_taskq.tasks_api import has_tasks_setting, task_backends


class ControlError(TaskqError, ValueError):
    """What was asked for makes no sense; the message says what would."""


def our_backends() -> list[Any]:
    """Return the backends that keep their tasks in our tables."""
    if not has_tasks_setting():
        return [implicit_backend()]
    return [backend for backend in task_backends.all() if hasattr(backend, "database")]


def database_of(given: str | None = None) -> str:
    """Return the alias of the database with the tables; `given` if it is one.

    Raise ControlError if there is no such database, or several and none was given.
    """
    aliases = sorted({backend.database for backend in our_backends()})
    if given is None and len(aliases) > 1:
        raise ControlError(
            f"Tasks are kept in several databases ({', '.join(aliases)}): say which one you mean."
        )
    alias = given or (aliases[0] if aliases else DEFAULT_DB_ALIAS)
    if alias not in settings.DATABASES:
        near = did_you_mean(alias, settings.DATABASES)
        raise ControlError(f'There is no database "{alias}" in DATABASES.{near}')
    try:
        db.user_connection(alias)
    except ImproperlyConfigured as error:
        raise ControlError(str(error)) from None
    return alias
