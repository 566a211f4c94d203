"""System checks: mistakes are found before they cost a task, each with an id and a way out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, router

from django_taskq import carried, conf, db, registry, task_defaults
from django_taskq.distribution import FIX
from django_taskq.router import databases_of_tasks, our_backends
from django_taskq.task import find
from django_taskq.tasks_api import has_tasks_setting, task_backends


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
        hint=FIX,
        id="django_taskq.E005",
    )


@register(Tags.compatibility)
def check_database(**kwargs: Any) -> Iterator[CheckMessage]:
    """E001: the tasks' database is not PostgreSQL."""
    for alias in databases_of_tasks():
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Django 6.1 warns of everybody who reads it
        backend = getattr(settings, "EMAIL_BACKEND", "")
    if backend != "django_taskq.mail.TaskqEmailBackend":
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
        if failure.app == "django_taskq" and any(check_settings()):
            continue  # E002 says why
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


def _databases_of_models() -> set[str]:
    """Return the aliases that other apps' models are written to."""
    models = [model for model in apps.get_models() if model._meta.app_label != "django_taskq"]
    return {router.db_for_write(model) for model in models}


@register(Tags.compatibility)
def check_one_transaction(**kwargs: Any) -> Iterator[CheckMessage]:
    """W010: tasks and models in two databases have no transaction in common."""
    try:
        databases = {backend.alias: backend.database for backend in our_backends()}
    except Exception:
        return  # Django's own check of TASKS says what is wrong
    used = _databases_of_models()
    for alias in sorted({*databases.values()} - {DEFAULT_DB_ALIAS}):
        if DEFAULT_DB_ALIAS in used:
            yield Warning(
                f'Tasks are kept in the database "{alias}", models in "{DEFAULT_DB_ALIAS}": '
                "enqueue() commits by itself, also when the transaction around it rolls back.",
                hint="Enqueue with transaction.on_commit(), or keep the tasks beside the models. "
                'If it is meant so: SILENCED_SYSTEM_CHECKS = ["django_taskq.W010"].',
                id="django_taskq.W010",
            )
    registry.discover()
    for key in registry.names():
        task = find(key)
        if not getattr(task, "atomic", False):
            continue
        alias = databases.get(getattr(task, "backend", ""))
        elsewhere = ", ".join(f'"{other}"' for other in sorted(used - {alias}))
        if alias is not None and elsewhere:
            yield Warning(
                f'The task "{key}" is atomic: its result commits together with what it writes to '
                f'"{alias}", where the tasks are kept, but not with what it writes to {elsewhere}.',
                hint="Make those writes safe to repeat. If they are, or if there are none: "
                'SILENCED_SYSTEM_CHECKS = ["django_taskq.W010"].',
                id="django_taskq.W010",
            )


@register(Tags.compatibility)
def check_router(**kwargs: Any) -> Iterator[CheckMessage]:
    """W011: our models are looked for in another database than the one with the tasks."""
    from django_taskq.models import LiveTask

    try:
        databases = databases_of_tasks()
    except Exception:
        return  # Django's own check of TASKS says what is wrong
    found = router.db_for_read(LiveTask)
    untouched = [alias for alias in databases if not router.allow_migrate_model(alias, LiveTask)]
    if found not in databases:
        problem = f'the admin looks for them in "{found}"'
    elif untouched:
        problem = f'migrate does not create the tables in "{untouched[0]}"'
    else:
        return
    yield Warning(
        f'Tasks are kept in the database "{untouched[0] if untouched else databases[0]}", but '
        f"DATABASE_ROUTERS does not know of it: {problem}.",
        hint='DATABASE_ROUTERS = ["django_taskq.router.TaskqRouter"]',
        id="django_taskq.W011",
    )


@register(Tags.compatibility)
def check_pooler(**kwargs: Any) -> Iterator[CheckMessage]:
    """W012: DJANGO_TASKQ says that there is a pooler, DATABASES asks for what it cannot keep."""
    try:
        if not conf.get().pooled:
            return
        databases = [db.user_connection(alias) for alias in databases_of_tasks()]
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
