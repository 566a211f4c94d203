"""The doctor's looks at our tables, and at who keeps their dead rows from being removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from django.db.migrations.recorder import MigrationRecorder

from django_taskq import db
from django_taskq.control import findings
from django_taskq.control.findings import Finding, ask, error, of, warning
from django_taskq.control.migrations import missing_migrations

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
# More dead rows than this, and than twice the living ones, slow claims down.
_DEAD_ROWS = 50_000
# How old a snapshot may be whose age in seconds nobody tells, in transactions.
_OLD = 1_000_000
# So many holders are named.
_NAMED = 5


def look_at_tables(patience: float) -> tuple[Callable[[str], Iterator[Finding]], ...]:
    """Return the looks; who holds the horizon for longer than `patience` seconds is named."""
    return (_migrations, _storage, partial(_horizon, patience=patience))


def _migrations(alias: str) -> Iterator[Finding]:
    recorded = MigrationRecorder(db.user_connection(alias)).applied_migrations()
    missing = missing_migrations({name for app, name in recorded if app == "django_taskq"})
    if missing:
        yield error(
            "migrations",
            f"Migrations have not run: {', '.join(missing)}.",
            "manage.py migrate django_taskq" + of(alias),
        )


def _storage(alias: str) -> Iterator[Finding]:
    """Look at how our tables are kept, and at dead rows and room that they take."""
    for name, options, size, indexes, live, dead, autovacuumed, vacuumed in ask(
        alias, findings.TABLES
    ):
        where = f"table {name}"
        given = dict(option.partition("=")[::2] for option in options)
        if given.get("autovacuum_enabled") in {"off", "false", "0"}:
            yield error(
                "autovacuum",
                f"autovacuum is switched off for {name}: dead rows pile up and claims get slow.",
                f"ALTER TABLE {name} RESET (autovacuum_enabled);",
                where,
            )
        lost = {k: v for k, v in _STORAGE.get(name, {}).items() if given.get(k) != v}
        if lost:
            yield warning(
                "storage",
                f"{name} has lost settings of its own: {', '.join(lost)}.",
                f"ALTER TABLE {name} SET ({', '.join(f'{k} = {v}' for k, v in lost.items())});",
                where,
            )
        if dead > _DEAD_ROWS and dead > 2 * live:
            yield warning(
                "dead-rows",
                f"{name} holds {dead:,} dead rows to {live:,} living ones (last autovacuum: "
                f"{_ago(autovacuumed)}, last VACUUM by hand: {_ago(vacuumed)}).",
                f"Find what keeps VACUUM from removing them (other findings), then: VACUUM {name};",
                where,
            )
        room = size + indexes
        if name == _LIVE and room > 500 * _MEGABYTE and room > 20_000 * max(live, 1):
            yield warning(
                "bloat",
                f"{name} takes {room // _MEGABYTE:,} MB for {live:,} rows.",
                f"In a quiet hour, with the workers stopped: VACUUM FULL {name};",
                where,
            )
    for (name,) in ask(alias, findings.INVALID_INDEXES):
        yield error(
            "index",
            f"The index {name} is not valid, so no statement uses it.",
            f"REINDEX INDEX CONCURRENTLY {name};",
            f"index {name}",
        )


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds / 60:.0f} min ago"


def _horizon(alias: str, *, patience: float) -> Iterator[Finding]:
    """Name who keeps VACUUM from removing what has died, the oldest first."""
    holders = [
        row
        for row in ask(alias, findings.HORIZON)
        if (row[4] >= patience if row[4] is not None else (row[3] or 0) >= _OLD)
    ]
    for holder, name, who, xids, seconds in holders[:_NAMED]:
        since = "" if seconds is None else f"for {_span(seconds)} "
        held = f"No row that died in the last {xids or 0:,} transactions can be removed."
        match holder:
            case "session":
                yield warning(
                    "long-transaction",
                    f"The session {name} ({who}) has had a transaction open {since}with a "
                    f"snapshot or writes of its own. {held}",
                    f"End it where it comes from, or: SELECT pg_terminate_backend({name});",
                    f"session {name}",
                )
            case "prepared":
                yield warning(
                    "prepared-transaction",
                    f"The prepared transaction {name!r} of {who} has been open {since}. {held}",
                    f"As {who}, in this database: ROLLBACK PREPARED {_literal(name)}; or COMMIT "
                    "PREPARED it.",
                    f"prepared transaction {name!r}",
                )
            case "slot":
                yield warning(
                    "replication-slot",
                    f"The {who} replication slot {name} keeps what its reader has not seen. {held}",
                    "Let its reader catch up"
                    + (
                        "."
                        if who == "active"
                        else f", or drop it: SELECT pg_drop_replication_slot('{name}');"
                    ),
                    f"replication slot {name}",
                )
            case _:
                yield warning(
                    "standby",
                    f"A standby (session {name}: {who}) has an old snapshot, and "
                    f"hot_standby_feedback keeps its rows. {held}",
                    "End the long query on the standby, or switch hot_standby_feedback off there.",
                    f"standby, session {name}",
                )


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
