"""What the flags and the settings say together."""

from __future__ import annotations

import os
import sys
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError

from django_taskq import conf, db
from django_taskq.management.colors import is_color_unwanted
from django_taskq.management.mistakes import usage
from django_taskq.router import databases_of_tasks
from django_taskq.suggestions import did_you_mean
from django_taskq.worker.options import WorkerOptions

# As many as a record of running tasks is made for.
_MOST_AT_ONCE = 1000


def options_of(flags: dict[str, Any]) -> WorkerOptions:
    """Return how the worker is to be. Raise CommandError where it cannot be so."""
    try:
        settings = conf.get()
        alias = _checked_alias(flags["database"] or _database())
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from None
    pool = flags["pool"] or settings.pool
    host, port = _given(flags["health_port"], conf.address_of(settings.health_port))
    can_reload = pool != "solo" and not flags["burst"] and not flags["max_tasks"]
    return WorkerOptions(
        database=alias,
        queues=_names(flags["queues"]),
        excluded=_names(flags["exclude_queues"]),
        pool=pool,
        concurrency=_concurrency(pool, flags["concurrency"], settings),
        burst=flags["burst"],
        max_tasks=flags["max_tasks"],
        max_tasks_per_child=_given(flags["max_tasks_per_child"], settings.max_tasks_per_child),
        max_memory_per_child=_given(flags["max_memory_per_child"], settings.max_memory_per_child),
        shutdown_timeout=_given(flags["shutdown_timeout"], settings.shutdown_timeout),
        database_wait=settings.database_wait,
        listen=settings.listen,
        reload=can_reload and _given(flags["reload"], bool(django_settings.DEBUG)),
        preload=flags["preload"],
        health_host=host,
        health_port=port,
        verbosity=flags["verbosity"],
        color=wants_color(flags),
    )


def _database() -> str:
    """Return the alias of the one database that our backends use."""
    aliases = databases_of_tasks()
    if len(aliases) > 1:
        raise usage(
            f"Tasks are kept in several databases ({', '.join(aliases)}): say which one this "
            "worker serves, with --database."
        )
    return aliases[0]


def _checked_alias(alias: str) -> str:
    if alias not in django_settings.DATABASES:
        near = did_you_mean(alias, django_settings.DATABASES)
        raise usage(f'There is no database "{alias}" in DATABASES.{near}')
    db.user_connection(alias)  # refuses all but PostgreSQL
    return alias


def _concurrency(pool: str, given: int | None, settings: conf.Settings) -> int:
    """Return how many tasks run at once. Raise CommandError where that many cannot."""
    if pool == "solo":
        if given is not None and given > 1:
            raise usage(f"-P solo runs one task at a time, not -c {given}.")
        return 1
    count = given or settings.concurrency or conf.POOLS[pool] or os.cpu_count() or 1
    if pool != "processes" and count > _MOST_AT_ONCE:
        raise usage(
            f"-P {pool} runs up to {_MOST_AT_ONCE} tasks at once in a process, not {count}: start "
            "several workers."
        )
    return count


def wants_color(flags: dict[str, Any]) -> bool:
    """Say whether lines of the log are coloured: as the flags say, or on a terminal."""
    if flags["no_color"] or flags["force_color"]:
        return bool(flags["force_color"])
    return sys.stdout.isatty() and not is_color_unwanted()


def _given(value: Any, default: Any) -> Any:
    """Return what the command line or the environment says, or else the setting."""
    return default if value is None else value


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
