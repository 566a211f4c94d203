"""How a worker begins: it waits for its database, makes itself known, and says what it found."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable

import psycopg
from django.db import DEFAULT_DB_ALIAS

from django_taskq import __version__, registry
from django_taskq.control.migrations import missing_migrations
from django_taskq.db import Connection
from django_taskq.events import one_line, worker_log
from django_taskq.router import databases_of_tasks
from django_taskq.transitions import claim, presence
from django_taskq.worker.console import banner
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.signals import StopSignals
from django_taskq.worker.store import brief

# 75: try again. No database at the start, or others have declared this worker dead.
EXIT_OK, EXIT_ERROR, EXIT_NO_DATABASE = 0, 1, 75


def wait_for_database(
    connect: Callable[[], Connection], options: WorkerOptions, signals: StopSignals
) -> int | None:
    """Connect; a database that is down is waited for, but not for ever.

    Return None once the database is there with our tables as this code needs them, else the exit
    code of the worker.
    """
    deadline = time.monotonic() + options.database_wait
    told = False
    while not signals.count:
        try:
            return None if _is_migrated(connect(), options) else EXIT_ERROR
        except psycopg.OperationalError as error:
            if time.monotonic() >= deadline:
                worker_log.error("No database after %g s: %s", options.database_wait, brief(error))
                return EXIT_NO_DATABASE
            if not told:
                worker_log.warning(
                    "The database %r cannot be reached (%s); waiting up to %g s for it.",
                    options.database,
                    brief(error),
                    options.database_wait,
                )
                told = True
        select.select([signals.wake], [], [], 0.5)
        signals.drain()
    return EXIT_OK


def _is_migrated(connection: Connection, options: WorkerOptions) -> bool:
    """Say whether our migrations have run; those of a newer version may have, too."""
    if options.database == DEFAULT_DB_ALIAS:
        fix = "run manage.py migrate"
    else:
        fix = f"run manage.py migrate django_taskq --database {options.database}"
    if not presence.tables_exist(connection):
        known = databases_of_tasks()
        if options.database not in known:
            fix = f"TASKS keeps the tasks in {', '.join(known)}"
        worker_log.error(
            "The database %r has no tables of django_taskq: %s.", options.database, fix
        )
        return False
    applied = presence.applied_migrations(connection)
    if applied is not None and (missing := missing_migrations(applied)):
        worker_log.error(
            "The database %r lacks migrations of django_taskq (%s): %s.",
            options.database,
            one_line(", ".join(missing)),
            fix,
        )
        return False
    return True


def arrive(connection: Connection, worker_id: str, options: WorkerOptions) -> None:
    """Make a supervisor known, with what people want to know of it."""
    presence.arrive(
        connection,
        id=worker_id,
        kind="SUPERVISOR",
        parent_id=None,
        host=socket.gethostname(),
        pid=os.getpid(),
        info={
            "queues": list(options.queues),
            "excluded": list(options.excluded),
            "concurrency": options.concurrency,
            "pool": options.pool,
            "version": __version__,
        },
    )


def banner_of(connection: Connection, options: WorkerOptions) -> str:
    """Return what the worker says of itself."""
    major, minor = divmod(connection.info.server_version, 10_000)
    waiting = claim.count_waiting(connection)
    # The project's: our own, which sends mails, would puzzle who counts.
    known = sum(not name.startswith("django_taskq.") for name in registry.names())
    facts = {
        "version": __version__,
        "database": connection.info.dbname,
        "postgresql": f"{major}.{minor}",
        "host": socket.gethostname(),
        "tasks": f"{known} task{'s' if known != 1 else ''}",
        "waiting": f"{waiting:,}" + ("+" if waiting >= claim.COUNT_LIMIT else ""),
    }
    return banner(options, facts)
