"""Know which `django.tasks` there is: Django 6's own, or the backport `django-tasks` on 5.2.

The only file that does. Both have one API; two exceptions and the logger have other names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

if TYPE_CHECKING:  # the stubs hold django.tasks, whatever Django is installed
    from django.tasks import TaskResultStatus, task_backends
    from django.tasks.backends.base import BaseTaskBackend
    from django.tasks.base import (
        DEFAULT_TASK_PRIORITY,
        TASK_MAX_PRIORITY,
        TASK_MIN_PRIORITY,
        TASK_REFRESH_ATTRS,
        TaskError,
    )
    from django.tasks.base import Task as DjangoTask
    from django.tasks.base import TaskContext as DjangoTaskContext
    from django.tasks.base import TaskResult as DjangoTaskResult
    from django.tasks.exceptions import (
        InvalidTask,
        TaskResultDoesNotExist,
        TaskResultMismatch,
    )
    from django.tasks.signals import task_enqueued, task_finished, task_started

    BaseTask = DjangoTask
    BaseTaskResult = DjangoTaskResult
    BaseTaskContext = DjangoTaskContext[Any, Any]
    LOGGER_NAME = "django.tasks"
else:
    if django.VERSION >= (6, 0):
        from django.tasks import TaskResultStatus, signals, task_backends
        from django.tasks.backends.base import BaseTaskBackend
        from django.tasks.base import (
            DEFAULT_TASK_PRIORITY,
            TASK_MAX_PRIORITY,
            TASK_MIN_PRIORITY,
            TASK_REFRESH_ATTRS,
            TaskError,
        )
        from django.tasks.base import Task as DjangoTask
        from django.tasks.base import TaskContext as DjangoTaskContext
        from django.tasks.base import TaskResult as DjangoTaskResult
        from django.tasks.exceptions import (
            InvalidTask,
            TaskResultDoesNotExist,
            TaskResultMismatch,
        )

        LOGGER_NAME = "django.tasks"
    else:
        try:
            from django_tasks import TaskResultStatus, task_backends
        except ImportError as error:
            raise ImproperlyConfigured(
                f"django_taskq on Django {django.get_version()} needs the backport of "
                "django.tasks: pip install 'django-taskq-pg[django52]'"
            ) from error
        # Importing these two registers the backport's checks and its log receivers, so that
        # "django_tasks" need not stand in INSTALLED_APPS.
        from django_tasks import checks as _checks  # noqa: F401
        from django_tasks import signals
        from django_tasks.backends.base import BaseTaskBackend
        from django_tasks.base import (
            DEFAULT_TASK_PRIORITY,
            TASK_MAX_PRIORITY,
            TASK_MIN_PRIORITY,
            TASK_REFRESH_ATTRS,
            TaskError,
        )
        from django_tasks.base import Task as DjangoTask
        from django_tasks.base import TaskContext as DjangoTaskContext
        from django_tasks.base import TaskResult as DjangoTaskResult
        from django_tasks.exceptions import InvalidTaskError as InvalidTask
        from django_tasks.exceptions import TaskResultDoesNotExist, TaskResultMismatch

        LOGGER_NAME = "django_tasks"

    task_enqueued = signals.task_enqueued
    task_started = signals.task_started
    task_finished = signals.task_finished

    class _Subscriptable:
        """Let a class that has no type parameters at run time be written with some."""

        def __init__(self, base):
            self.base = base

        def __getitem__(self, parameters):
            return self.base

    BaseTask = _Subscriptable(DjangoTask)
    BaseTaskResult = _Subscriptable(DjangoTaskResult)
    BaseTaskContext = DjangoTaskContext

# The receivers that Django connects itself, to write its log lines.
DJANGO_LOG_RECEIVERS = 1


def has_tasks_setting() -> bool:
    """Say whether the project has a TASKS setting of its own."""
    # A method of LazySettings' wrapped object, which the stubs do not know.
    return bool(settings.is_overridden("TASKS"))  # type: ignore[misc]


__all__ = [
    "DEFAULT_TASK_PRIORITY",
    "DJANGO_LOG_RECEIVERS",
    "LOGGER_NAME",
    "TASK_MAX_PRIORITY",
    "TASK_MIN_PRIORITY",
    "TASK_REFRESH_ATTRS",
    "BaseTask",
    "BaseTaskBackend",
    "BaseTaskContext",
    "BaseTaskResult",
    "DjangoTask",
    "DjangoTaskContext",
    "DjangoTaskResult",
    "InvalidTask",
    "TaskError",
    "TaskResultDoesNotExist",
    "TaskResultMismatch",
    "TaskResultStatus",
    "has_tasks_setting",
    "task_backends",
    "task_enqueued",
    "task_finished",
    "task_started",
]
