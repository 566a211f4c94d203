"""Look for what is wrong with the installation, and say in plain words what to do.

    doctor_server.py    the server, the way to it, its clock
    doctor_tables.py    migrations, indexes, dead rows, and who keeps them
    doctor_work.py      tasks that nobody runs, workers that do not move

Each look is a function that yields findings; it reads, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import psycopg
from django.core.checks.registry import registry as registered_checks
from django.db import DatabaseError

from django_taskq.control import findings
from django_taskq.control.databases import database_of
from django_taskq.control.doctor_server import look_at_server, try_worker_connection
from django_taskq.control.doctor_tables import look_at_tables
from django_taskq.control.doctor_work import Pulse, look_at_work
from django_taskq.control.findings import Finding, ask, error, info, of, warning
from django_taskq.events import one_line


def diagnose(
    *, patience: float = 300.0, watch: float = 12.0, database: str | None = None
) -> list[Finding]:
    """Return what is wrong, the worst first; nothing if all is well.

    Transactions and due tasks are told of when they are older than `patience` seconds. Whether
    workers live is judged by their counters, which are read until all have moved, for `watch`
    seconds at the most (two beats are 10 s); with 0 it is not judged. Raise django.db.Error if the
    database does not answer.
    """
    alias = database_of(database)
    found = [*_checks(), *_allowed(lambda: look_at_server(alias))]
    found += try_worker_connection(alias)
    if not ask(alias, findings.TABLES_EXIST)[0][0]:
        found.append(
            error(
                "tables",
                f'The database "{alias}" has no tables of django_taskq.',
                "manage.py migrate django_taskq" + of(alias),
            )
        )
    else:
        pulse = Pulse(alias)
        found += _allowed(pulse.start)
        for look in look_at_tables(patience):
            found += _allowed(lambda look=look: look(alias))  # type: ignore[misc]
        for look in look_at_work(pulse, patience=patience, watch=watch):
            found += _allowed(lambda look=look: look(alias))  # type: ignore[misc]
    order = list(findings.Severity)
    placed = [replace(each, where=each.where or f'database "{alias}"') for each in found]
    return sorted(dict.fromkeys(placed), key=lambda finding: order.index(finding.severity))


def _allowed(look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return what a look finds; that a role may not look is a finding too."""
    try:
        return list(look())
    except DatabaseError as refused:
        if not isinstance(refused.__cause__, psycopg.errors.InsufficientPrivilege):
            raise
        return [
            info(
                "not-allowed",
                f"This role may not look: {one_line(str(refused).strip().splitlines()[0])}.",
                "Ask as a role that may, or grant it: see the guide on roles.",
            )
        ]


def _checks() -> Iterator[Finding]:
    """Repeat what our system checks say, those for a deployment too; other apps' are not asked."""
    for check in registered_checks.get_checks(include_deployment_checks=True):
        if not check.__module__.startswith(("django_taskq.", "django.tasks.", "django_tasks.")):
            continue
        for message in check(app_configs=None, databases=None):
            if str(message.id).startswith("django_taskq.") and not message.is_silenced():
                make = error if message.is_serious() else warning
                hint = str(message.hint or "See the message.")
                yield make(str(message.id), str(message.msg), hint, "settings")
