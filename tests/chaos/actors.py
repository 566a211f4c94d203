"""Let the workers of the test project say who they are: in the ledger, and to the triggers.

Patched in from outside when the project is loaded in a worker; the product knows nothing of it.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import psycopg
from django.db.backends.signals import connection_created

from django_taskq import db
from django_taskq.worker import child, executor, opening, supervisor
from tests.chaos.recording import NOTE, SAY

# Set by the rig: the name of this worker, and where the ledger is.
WORKER, LEDGER = "CHAOS_WORKER", "CHAOS_LEDGER"

# Who this process is: "child:…" or "supervisor:…" with the id of its row.
who = ""
# The claim under which each task of this process runs.
claims: dict[str, str] = {}

_local = threading.local()


def install() -> None:
    """Have every worker process of this project say who it is."""
    _name_connections()
    _name_supervisors()
    _name_children()
    _remember_claims()


def actor() -> str:
    """Return the id of this process's row."""
    return who.partition(":")[2]


# --- the ledger -----------------------------------------------------------------------------------


def note(task: str, attempt: int, what: str) -> None:
    """Write into the ledger that a task of this process begins, ends or raises."""
    _write(NOTE, (task, attempt, claims[task], actor(), os.getpid(), what))


def say(kind: str, detail: str = "") -> None:
    """Note an event of this process: its birth, or that it is about to die.

    What happens to a supervisor happens to its children too: they are named by their worker alone.
    """
    one = actor() if who.startswith("child:") else None
    _write(SAY, (kind, one, os.environ.get(WORKER, ""), detail))


def _write(statement: str, values: tuple[Any, ...]) -> None:
    """Write on this thread's own connection; wait for a database that is away."""
    pause = threading.Event()
    while True:
        try:
            connection = getattr(_local, "connection", None)
            if connection is None or connection.closed:
                connection = psycopg.connect(
                    os.environ[LEDGER],
                    autocommit=True,
                    application_name="chaos ledger",
                    connect_timeout=5,
                )
                _local.connection = connection
            connection.execute(statement, values)
            return
        except psycopg.OperationalError:
            if (connection := getattr(_local, "connection", None)) is not None:
                connection.close()
            pause.wait(0.1)


# --- what is patched ------------------------------------------------------------------------------


def _name_connections() -> None:
    """Tell every connection of a worker who writes through it."""
    connect = db.worker_connection

    def named(*args: Any, **kwargs: Any) -> db.Connection:
        connection = connect(*args, **kwargs)
        connection.execute("SELECT set_config('chaos.actor', %s, false)", [who])
        return connection

    db.worker_connection = named
    connection_created.connect(_name_users, weak=False)


def _name_users(*, connection: Any, **kwargs: Any) -> None:
    """Do so with connections of tasks: atomic ones complete themselves there."""
    if who:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('chaos.actor', %s, false)", [who])


def _name_supervisors() -> None:
    begin = supervisor.Supervisor.run

    def run(self: supervisor.Supervisor) -> int:
        global who
        who = f"supervisor:{self.id}"
        say("watch")
        return begin(self)

    wait = opening.wait_for_database

    def wait_for_database(*args: Any) -> int | None:
        say("here")
        return wait(*args)

    supervisor.Supervisor.run = run  # type: ignore[method-assign]
    opening.wait_for_database = wait_for_database  # type: ignore[assignment]


def _name_children() -> None:
    begin = child.run_tasks

    def run_tasks(options: Any, memory: Any, order: dict[str, Any]) -> None:
        global who
        who = f"child:{order['worker_id']}"
        _local.__dict__.clear()
        say("birth", str(os.getpid()))
        begin(options, memory, order)

    child.run_tasks = run_tasks


def _remember_claims() -> None:
    execute = executor.Executor.execute
    execute_async = executor.Executor.execute_async

    def remember(self: executor.Executor, row: Any, run: Any, began: float) -> Any:
        claims[row.id] = row.claim
        return execute(self, row, run, began)

    async def remember_async(self: executor.Executor, row: Any, run: Any, began: float) -> Any:
        claims[row.id] = row.claim
        return await execute_async(self, row, run, began)

    executor.Executor.execute = remember  # type: ignore[method-assign]
    executor.Executor.execute_async = remember_async  # type: ignore[method-assign]
