"""Read and validate the one setting, `DJANGO_TASKQ`: a dict, every key optional."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import cache
from typing import Any, cast

import psycopg
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver
from psycopg.conninfo import conninfo_to_dict

from django_taskq.suggestions import did_you_mean

# Where a worker can run tasks, and how many at once if nobody says; 0 is the number of processors.
POOLS = {"processes": 0, "threads": 10, "asyncio": 100, "solo": 1}


def _dotted_paths(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(path, str) for path in value):
        raise ImproperlyConfigured(
            f'DJANGO_TASKQ["{key}"] is {value!r}; it takes a list of dotted paths.'
        )
    return tuple(value)


def _dict_of_options(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ImproperlyConfigured(
            f'DJANGO_TASKQ["{key}"] is {value!r}; it takes a dict of options of @task.'
        )
    return value


def address_of(value: int | str) -> tuple[str, int]:
    """Return the host and the port of 8001, "8001" or "HOST:8001". Raise ValueError."""
    host, _, port = str(value).rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{value!r} is no port, and no HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def _port(name: str, value: Any) -> int | str:
    if type(value) in (int, str):
        with contextlib.suppress(ValueError):
            address_of(value)
            return cast("int | str", value)
    raise ImproperlyConfigured(
        f'DJANGO_TASKQ["{name}"] is {value!r}; it takes a port or "HOST:PORT".'
    )


def _age(name: str, value: Any) -> float | None:
    """Return a time to keep something in seconds. Raise ImproperlyConfigured if it is none."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if seconds is None:
        return None
    if type(seconds) not in (int, float) or not 0 <= seconds < float("inf"):
        raise ImproperlyConfigured(
            f'DJANGO_TASKQ["{name}"] is {value!r}; it takes seconds from 0 up, a timedelta, '
            "or None to keep everything."
        )
    return float(seconds)


def _names_and_patterns(key: str, value: Any) -> tuple[Any, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(
        isinstance(getattr(rule, "pattern", rule), str) for rule in value
    ):
        raise ImproperlyConfigured(
            f'DJANGO_TASKQ["{key}"] is {value!r}; it takes a list of names and compiled patterns.'
        )
    return tuple(value)


def _connection_string(key: str, value: Any) -> str:
    try:
        conninfo_to_dict(value)
        return str(value)
    except (psycopg.ProgrammingError, TypeError, AttributeError):
        # Not shown: there may be a password in it.
        raise ImproperlyConfigured(
            f'DJANGO_TASKQ["{key}"] is no connection string. It takes "host=db.internal port=5432" '
            'or "postgresql://db.internal:5432/name".'
        ) from None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Hold the validated settings; a key of the dict is the field's name in capitals."""

    # The largest arguments that enqueue() accepts, in bytes of JSON.
    payload_limit: int = 64 * 1024
    # The largest return value that is stored, in bytes of JSON.
    result_limit: int = 1024 * 1024
    # Where a worker runs tasks: "processes", "threads", "asyncio" or "solo".
    pool: str = "processes"
    # How many tasks a worker runs at once; 0 is the number of processors, 10 with the pool
    # "threads" and 100 with "asyncio".
    concurrency: int = 0
    # A child of a worker is replaced after so many tasks; 0 is no limit.
    max_tasks_per_child: int = 0
    # A child is replaced when it holds more memory than this, in megabytes; 0 is no limit.
    max_memory_per_child: int = 0
    # How long running tasks may go on after a worker was asked to stop, in seconds.
    shutdown_timeout: float = 25.0
    # How long a worker that starts waits for a database that is down, in seconds.
    database_wait: float = 60.0
    # How long finished tasks are kept, in seconds; a timedelta may be given. None is for ever.
    retention: float | None = field(default=7 * 24 * 3600.0, metadata={"check": _age})
    # Where a worker answers probes: a port of 127.0.0.1, or "HOST:PORT"; 0 is nowhere.
    health_port: int | str = field(default=0, metadata={"check": _port})
    # Whether the worker listens for hints; without them new tasks start within a second.
    listen: bool = True
    # The carriers of context from enqueue to the run, by their dotted paths.
    context: tuple[str, ...] = field(
        default=("django_taskq.carried.Language",), metadata={"check": _dotted_paths}
    )
    # The email backend that sends what django_taskq.mail.TaskqEmailBackend has enqueued.
    email_backend: str = "django.core.mail.backends.smtp.EmailBackend"
    # The queue of those mails.
    email_queue: str = "default"
    # Whether workers reach PostgreSQL through a pooler in transaction mode, such as PgBouncer.
    pooled: bool = False
    # Where to listen, as a connection string: for workers whose DATABASES lead through a pooler.
    # What it leaves out (user, password, dbname) is as in DATABASES.
    listen_dsn: str = field(default="", metadata={"check": _connection_string})
    # Options of tasks that their @task leaves open.
    task_defaults: dict[str, Any] = field(
        default_factory=dict, metadata={"check": _dict_of_options}
    )

    # Secret arguments of all tasks: their names and patterns; None is Django's rule for settings.
    redact: tuple[Any, ...] | None = field(default=None, metadata={"check": _names_and_patterns})

    def __post_init__(self) -> None:
        self._check_types()
        if self.pool not in POOLS:
            raise ImproperlyConfigured(
                f'DJANGO_TASKQ["POOL"] is {self.pool!r}.{did_you_mean(self.pool, POOLS)} '
                f"Known pools: {', '.join(POOLS)}."
            )

    def _check_types(self) -> None:
        for option in fields(self):
            value: Any = getattr(self, option.name)
            # What is no plain number or flag brings the function that checks it and puts it right.
            if "check" in option.metadata:
                checked = option.metadata["check"](option.name.upper(), value)
                object.__setattr__(self, option.name, checked)
                continue
            wanted: Any = type(option.default)
            if wanted is float and type(value) is int:
                continue
            if type(value) is not wanted:
                raise ImproperlyConfigured(
                    f'DJANGO_TASKQ["{option.name.upper()}"] is {value!r}; '
                    f"it takes {_WORDS[wanted]}."
                )
            if wanted in (int, float) and not value >= 0:
                raise ImproperlyConfigured(
                    f'DJANGO_TASKQ["{option.name.upper()}"] is {value!r}; it may not be negative.'
                )


_WORDS: dict[type, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
}


@cache
def get() -> Settings:
    """Return the project's settings. Raise ImproperlyConfigured on a bad key or value."""
    given: Any = getattr(django_settings, "DJANGO_TASKQ", {})
    if not isinstance(given, dict):
        raise ImproperlyConfigured(f"DJANGO_TASKQ is {given!r}; it takes a dict.")
    known = [option.name.upper() for option in fields(Settings)]
    for key in given:
        if key not in known:
            raise ImproperlyConfigured(
                f"DJANGO_TASKQ has an unknown key {key!r}.{did_you_mean(str(key).upper(), known)} "
                f"Known keys: {', '.join(known)}."
            )
    return Settings(**{key.lower(): value for key, value in given.items()})


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "DJANGO_TASKQ":
        get.cache_clear()
