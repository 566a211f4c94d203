"""Look for what is wrong with the installation, and say in plain words what to do.

Each look is a function that yields findings; it reads, and changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from shlex import quote
from typing import Any

from django.core.checks.registry import registry as registered_checks
from django.core.exceptions import ImproperlyConfigured
from django.db.migrations.executor import MigrationExecutor

from django_taskq import conf, db, registry
from django_taskq.control import findings
from django_taskq.control.databases import database_of
from django_taskq.control.findings import Finding, error, info, warning
from django_taskq.control.overview import oldest_due, workers
from django_taskq.suggestions import did_you_mean

# What the first migration sets, as far as speed hangs on it.
_STORAGE = {
    "django_taskq_livetask": {
        "autovacuum_vacuum_scale_factor": "0",
        "autovacuum_vacuum_threshold": "10000",
        "autovacuum_vacuum_cost_delay": "0",
    },
    "django_taskq_worker": {"autovacuum_vacuum_scale_factor": "0"},
}
_LIVE = "django_taskq_livetask"
_MEGABYTE = 1024 * 1024


def diagnose(*, database: str | None = None) -> list[Finding]:
    """Return what is wrong, the worst first; nothing if all is well.

    Raise django.db.Error if the database does not answer.
    """
    alias = database_of(database)
    found = [*_checks(), *_server(alias)]
    if not _ask(alias, findings.TABLES_EXIST)[0][0]:
        found.append(
            error(
                "tables",
                f'The database "{alias}" has no tables of django_taskq.',
                "manage.py migrate django_taskq" + _of(alias),
            )
        )
    else:
        for look in _LOOKS:
            found += look(alias)
    order = list(findings.Severity)
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _ask(alias: str, statement: str) -> list[Any]:
    with db.reading_cursor(alias) as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


def _of(alias: str) -> str:
    return "" if alias == "default" else f" --database {alias}"


def _checks() -> Iterator[Finding]:
    """Repeat what our system checks say, those for a deployment too; other apps' are not asked."""
    for check in registered_checks.get_checks(include_deployment_checks=True):
        if not check.__module__.startswith(("django_taskq.", "django.tasks.", "django_tasks.")):
            continue
        for message in check(app_configs=None, databases=None):
            if str(message.id).startswith("django_taskq.") and not message.is_silenced():
                make = error if message.is_serious() else warning
                hint = str(message.hint or "See the message.")
                yield make(str(message.id), str(message.msg), hint)


def _server(alias: str) -> Iterator[Finding]:
    """Look at the server, the way to it, its clock and its connections."""
    began = time.time()
    with db.reading_cursor(alias) as cursor:
        cursor.execute(findings.SERVER)
        number, version, pid, clock, vacuums, used, allowed = cursor.fetchone()
    middle = (began + time.time()) / 2
    if number < 150000:
        yield error("version", f"PostgreSQL is {version}.", "PostgreSQL 15 or later is needed.")
    if abs(clock - middle) > 2:
        ahead = "ahead of" if clock > middle else "behind"
        yield warning(
            "clock",
            f"The database's clock is {abs(clock - middle):.0f} s {ahead} this machine's.",
            "Run NTP on both: run_after and ids are made by one clock and read by the other.",
        )
    if not vacuums:
        yield error(
            "autovacuum",
            "autovacuum is switched off in PostgreSQL: dead rows pile up and claims get slow.",
            "ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf();",
        )
    if used > 0.8 * allowed:
        yield warning(
            "connections",
            f"{used} of {allowed} connections are in use.",
            "Raise max_connections, lower --concurrency, or put web processes behind PgBouncer.",
        )
    raw: Any = db.user_connection(alias).connection
    if raw is not None and raw.info.backend_pid != pid and not _is_pooled():
        yield warning(
            "pooler",
            "A pooler, such as PgBouncer, is between here and PostgreSQL.",
            'Let workers connect to PostgreSQL directly, or set DJANGO_TASKQ["POOLED"] = True.',
        )


def _is_pooled() -> bool:
    """Say whether the settings know of a pooler; bad settings are found by their own check."""
    try:
        return conf.get().pooled
    except ImproperlyConfigured:
        return False


def _migrations(alias: str) -> Iterator[Finding]:
    executor = MigrationExecutor(db.user_connection(alias))
    targets = [key for key in executor.loader.graph.leaf_nodes() if key[0] == "django_taskq"]
    missing = [migration.name for migration, _ in executor.migration_plan(targets)]
    if missing:
        yield error(
            "migrations",
            f"Migrations have not run: {', '.join(missing)}.",
            "manage.py migrate django_taskq" + _of(alias),
        )


def _storage(alias: str) -> Iterator[Finding]:
    """Look at how our tables are kept, and at dead rows and room that they take."""
    for name, options, size, indexes, live, dead, vacuumed in _ask(alias, findings.TABLES):
        given = dict(option.partition("=")[::2] for option in options)
        if given.get("autovacuum_enabled") in {"off", "false", "0"}:
            yield error(
                "autovacuum",
                f"autovacuum is switched off for {name}: dead rows pile up and claims get slow.",
                f"ALTER TABLE {name} RESET (autovacuum_enabled);",
            )
        lost = {k: v for k, v in _STORAGE.get(name, {}).items() if given.get(k) != v}
        if lost:
            yield warning(
                "storage",
                f"{name} has lost settings of its own: {', '.join(lost)}.",
                f"ALTER TABLE {name} SET ({', '.join(f'{k} = {v}' for k, v in lost.items())});",
            )
        if dead > 50_000 and dead > 2 * live:
            ago = "never" if vacuumed is None else f"{vacuumed / 60:.0f} min ago"
            yield warning(
                "dead-rows",
                f"{name} holds {dead:,} dead rows to {live:,} living ones (last vacuum: {ago}).",
                f"Find what keeps VACUUM from removing them (other findings), then: VACUUM {name};",
            )
        room = size + indexes
        if name == _LIVE and room > 500 * _MEGABYTE and room > 20_000 * max(live, 1):
            yield warning(
                "bloat",
                f"{name} takes {room // _MEGABYTE:,} MB for {live:,} rows.",
                f"In a quiet hour, with the workers stopped: VACUUM FULL {name};",
            )
    for (name,) in _ask(alias, findings.INVALID_INDEXES):
        yield error(
            "index",
            f"The index {name} is not valid, so no statement uses it.",
            f"REINDEX INDEX CONCURRENTLY {name};",
        )


def _what_holds_vacuum_back(alias: str) -> Iterator[Finding]:
    for pid, name, state, seconds in _ask(alias, findings.LONG_TRANSACTIONS):
        who = f"{pid} ({name})" if name else f"{pid}"
        yield warning(
            "long-transaction",
            f"The session {who} has had a transaction open for {seconds / 60:.0f} min ({state}): "
            "no dead row since then can be removed.",
            f"End it where it comes from, or: SELECT pg_terminate_backend({pid});",
        )
    for name, seconds in _ask(alias, findings.PREPARED_TRANSACTIONS):
        yield warning(
            "prepared-transaction",
            f"The prepared transaction {name!r} has been open for {seconds / 60:.0f} min: no dead "
            "row since then can be removed.",
            "COMMIT PREPARED or ROLLBACK PREPARED it.",
        )
    for name, active, age in _ask(alias, findings.SLOTS):
        yield warning(
            "replication-slot",
            f"The {'active' if active else 'inactive'} replication slot {name} keeps dead rows of "
            f"the last {age:,} transactions.",
            "Let its standby catch up"
            + ("." if active else f", or drop it: SELECT pg_drop_replication_slot('{name}');"),
        )


def _work(alias: str) -> Iterator[Finding]:
    """Look for tasks that nobody will run."""
    living = [worker for worker in workers(database=alias) if not worker.is_silent]
    waits: dict[str, float] = {}
    for name, seconds in oldest_due(alias):
        waits[name] = max(seconds, waits.get(name, 0.0))
    for name, seconds in sorted(waits.items()):
        if seconds > 5 and not any(worker.serves(name) for worker in living):
            yield error(
                "no-worker",
                f'Tasks in the queue "{name}" have been due for {seconds:.0f} s, and no worker '
                "that runs serves it.",
                f"manage.py taskworker -Q {quote(name)}",
            )
    registry.discover()
    for held_for, count in _ask(alias, findings.HELD_NAMES):
        reason, _, name = held_for.partition(":")
        if reason != "unknown":
            continue
        known = registry.get(name) is not None
        yield warning(
            "held-unknown",
            f"{count:,} task(s) are held: no worker knew the name {name!r}."
            + ("" if known else did_you_mean(name, registry.names())),
            "Restart the workers: this project knows it."
            if known
            else "Deploy code that knows it (an alias for the old name will do), or: "
            f"manage.py taskqueue cancel --status HELD --task {quote(name)}",
        )


def _processes(alias: str) -> Iterator[Finding]:
    known = workers(database=alias)
    for worker in known:
        if worker.is_silent:
            yield warning(
                "silent-worker",
                f"The worker {worker.pid or worker.id} on {worker.host} was not heard of for "
                f"{worker.last_seen_seconds:.0f} s and holds {worker.claimed} task(s).",
                "If it is dead, any other worker takes its tasks back within a minute: "
                "manage.py taskworker" + _of(alias),
            )
    if not known:
        yield info("no-workers", "No worker runs.", "manage.py taskworker" + _of(alias))
    versions = sorted({worker.version for worker in known if worker.version})
    if len(versions) > 1:
        yield warning(
            "versions",
            f"Workers of several versions run: {', '.join(versions)}.",
            "Restart the older ones.",
        )
    [(orphans,)] = _ask(alias, findings.ORPHANS)
    if orphans:
        yield error(
            "orphans",
            f"{orphans:,} task(s) are RUNNING whose process is not in the list of workers.",
            "A worker that knows these tasks takes them back within seconds: start one. If their "
            "code is gone, see the guide on deploying: “After a machine has died”.",
        )


_LOOKS: tuple[Callable[[str], Iterator[Finding]], ...] = (
    _migrations,
    _storage,
    _what_holds_vacuum_back,
    _work,
    _processes,
)
