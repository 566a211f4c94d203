"""System checks: mistakes are found before they cost a task, each with an id and a way out."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS

from django_taskq import carried, conf, db, registry, task_defaults
from django_taskq.task import implicit_backend
from django_taskq.tasks_api import has_tasks_setting, task_backends


def _our_backends() -> list[Any]:
    """Return the backends that keep their tasks in our tables."""
    if not has_tasks_setting():
        return [implicit_backend()]
    return [backend for backend in task_backends.all() if hasattr(backend, "database")]


def _aliases() -> list[str]:
    """Return the aliases of the databases that hold our tables."""
    return sorted({backend.database for backend in _our_backends()} or {DEFAULT_DB_ALIAS})


@register(Tags.compatibility)
def check_distribution(**kwargs: Any) -> Iterator[CheckMessage]:
    """E005: another project with our import name is installed over us."""
    try:
        metadata.distribution("django-taskq")
    except metadata.PackageNotFoundError:
        return
    yield Error(
        'The distribution "django-taskq" is installed too: another project with the same import '
        "name, whose files overwrite ours.",
        hint="pip uninstall -y django-taskq django-taskq-pg && pip install django-taskq-pg",
        id="django_taskq.E005",
    )


@register(Tags.compatibility)
def check_database(**kwargs: Any) -> Iterator[CheckMessage]:
    """E001: the tasks' database is not PostgreSQL."""
    for alias in _aliases():
        try:
            db.user_connection(alias)
        except ImproperlyConfigured as error:
            yield Error(str(error), id="django_taskq.E001")
        except Exception:
            continue  # an alias that does not exist is reported by the backend's own check


@register(Tags.compatibility)
def check_settings(**kwargs: Any) -> Iterator[CheckMessage]:
    """E002: DJANGO_TASKQ holds something that we do not know."""
    try:
        conf.get()
        carried.carriers()
        task_defaults.project_defaults()
    except ImproperlyConfigured as error:
        yield Error(str(error), id="django_taskq.E002")


@register(Tags.compatibility)
def check_mail(**kwargs: Any) -> Iterator[CheckMessage]:
    """E002: mails are enqueued, and the backend that is to send them is none."""
    if getattr(settings, "EMAIL_BACKEND", "") != "django_taskq.mail.TaskqEmailBackend":
        return
    from django_taskq.mail import check_real_backend

    try:
        check_real_backend()
    except ImproperlyConfigured as error:
        yield Error(str(error), id="django_taskq.E002")


@register(Tags.compatibility)
def check_tasks(**kwargs: Any) -> Iterator[CheckMessage]:
    """E003: two tasks have one name. W008, W009: a tasks.py cannot be imported."""
    failures = registry.discover()
    for key, (first, second) in registry.clashes().items():
        yield Error(
            f'Two tasks are called "{key}": at {first} and at {second}.',
            hint='Give one of them a name of its own: @task(name="…"); an alias may have to go.',
            id="django_taskq.E003",
        )
    for failure in failures:
        last = failure.traceback.strip().splitlines()[-1]
        if not failure.is_foreign:
            yield Warning(
                f"{failure.module} cannot be imported ({last}): a worker refuses to start.",
                hint=f"See the traceback of: import {failure.module}",
                id="django_taskq.W009",
            )
        else:
            yield Warning(
                f'{failure.module} of the installed app "{failure.app}" cannot be imported '
                f"({last}); it may be made for another task queue.",
                id="django_taskq.W008",
            )


@register(Tags.compatibility, deploy=True)
def check_default_backend(**kwargs: Any) -> Iterator[CheckMessage]:
    """W001: tasks of the default backend run in the web request or nowhere."""
    if not has_tasks_setting():
        return
    backend = task_backends["default"]
    if not hasattr(backend, "database"):
        yield Warning(
            f'TASKS["default"] is {type(backend).__name__}: its tasks do not go through the queue.',
            hint='Set its BACKEND to "django_taskq.backend.TaskqBackend".',
            id="django_taskq.W001",
        )


@register(Tags.compatibility)
def check_pooler(**kwargs: Any) -> Iterator[CheckMessage]:
    """W012: DJANGO_TASKQ says that there is a pooler, DATABASES asks for what it cannot keep."""
    try:
        if not conf.get().pooled:
            return
        databases = [db.user_connection(alias) for alias in _aliases()]
    except Exception:
        return  # E001 and E002 say what is wrong
    for database in databases:
        given = database.settings_dict
        options = given["OPTIONS"]
        for is_lost, what, fix in (
            (
                not given.get("DISABLE_SERVER_SIDE_CURSORS"),
                "lets Django use server-side cursors, which QuerySet.iterator() loses there",
                'Set its "DISABLE_SERVER_SIDE_CURSORS" to True.',
            ),
            (
                options.get("assume_role"),
                'has OPTIONS["assume_role"], and SET ROLE stays with whoever comes next',
                "Let the server set it: ALTER ROLE … SET role = …",
            ),
            (
                options.get("prepare_threshold") is not None,
                'has OPTIONS["prepare_threshold"], and prepared statements meet those of others',
                "Leave it out.",
            ),
        ):
            if is_lost:
                yield Warning(
                    'DJANGO_TASKQ["POOLED"] says that a pooler in transaction mode stands before '
                    f'the database, but DATABASES["{database.alias}"] {what}.',
                    hint=fix,
                    id="django_taskq.W012",
                )
