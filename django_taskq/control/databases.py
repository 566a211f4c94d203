"""Which database an operator means."""

from __future__ import annotations

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from django_taskq import db
from django_taskq.exceptions import TaskqError
from django_taskq.router import databases_of_tasks
from django_taskq.suggestions import did_you_mean


class ControlError(TaskqError, ValueError):
    """What was asked for makes no sense; the message says what would."""


def database_of(given: str | None = None) -> str:
    """Return the alias of the database with the tables; `given` if it is one.

    Raise ControlError if there is no such database, or several and none was given.
    """
    aliases = databases_of_tasks()
    if given is None and len(aliases) > 1:
        raise ControlError(
            f"Tasks are kept in several databases ({', '.join(aliases)}): say which one you mean."
        )
    alias = given or aliases[0]
    if alias not in settings.DATABASES:
        near = did_you_mean(alias, settings.DATABASES)
        raise ControlError(f'There is no database "{alias}" in DATABASES.{near}')
    try:
        db.user_connection(alias)
    except ImproperlyConfigured as error:
        raise ControlError(str(error)) from None
    return alias
