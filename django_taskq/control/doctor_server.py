"""The doctor's looks at the server, at the way to it, and at its clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
from django.core.exceptions import ImproperlyConfigured

from django_taskq import conf, db
from django_taskq.control import findings
from django_taskq.control.findings import Finding, ask, error, info, warning
from django_taskq.events import one_line
from django_taskq.transitions import enqueue

# Clocks further apart than this (seconds) put tasks visibly early or late.
_APART = 2.0
# The NOTIFY queue (8 GB) is emptied as fast as listeners read; when it is full, commits fail.
_NOTIFY_QUEUE = 0.01
# How long our own notification may be under way; workers wait longer.
_NOTIFIED_WITHIN = 3.0
_ROUND_TRIPS = 5

# It takes no parameter: the channel is a constant.
LISTEN = f"LISTEN {enqueue.CHANNEL}"


def look_at_server(alias: str) -> Iterator[Finding]:
    """Look at the server's version, settings and connections, at the clock, and at the path."""
    [row] = ask(alias, findings.SERVER)
    number, version, pid, vacuums, used, allowed, isolation, notify_queue = row
    if number < 150000:
        yield error("version", f"PostgreSQL is {version}.", "PostgreSQL 15 or later is needed.")
    if not vacuums:
        yield error(
            "autovacuum",
            "autovacuum is switched off in PostgreSQL: dead rows pile up and claims get slow.",
            "ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf();",
            "the server",
        )
    if used > 0.8 * allowed:
        yield warning(
            "connections",
            f"{used} of {allowed} connections are in use.",
            "Raise max_connections, lower --concurrency, or put web processes behind PgBouncer.",
            "the server",
        )
    if isolation != "read committed":
        yield info(
            "isolation",
            f"This project's transactions are {isolation.upper()}: where two meet, one fails "
            "with a serialization failure. Workers ask for READ COMMITTED for their own; atomic "
            "tasks that fail so are run again.",
            "Repeat transactions that enqueue, or leave the level at READ COMMITTED.",
        )
    if notify_queue > _NOTIFY_QUEUE:
        yield warning(
            "notify-queue",
            f"The queue of NOTIFY is {notify_queue:.1%} full: some session listens and does not "
            "read. When it is full, transactions that notify fail.",
            "End the session that listens inside of a transaction: the server's log names it when "
            "the queue is half full.",
            "the server",
        )
    yield from _clock(alias)
    yield from _search_path(alias)
    raw: Any = db.user_connection(alias).connection
    if raw is not None and raw.info.backend_pid != pid and not _is_pooled():
        yield warning(
            "pooler",
            "A pooler, such as PgBouncer, is between here and PostgreSQL.",
            'Let workers connect to PostgreSQL directly, or set DJANGO_TASKQ["POOLED"] = True.',
            f'DATABASES["{alias}"]',
        )


def _clock(alias: str) -> Iterator[Finding]:
    """Compare the clocks: the server read its own about halfway through a round trip."""
    best = (float("inf"), 0.0)
    with db.reading_cursor(alias) as cursor:
        for _ in range(_ROUND_TRIPS):
            here, began = time.time(), time.monotonic()
            cursor.execute(findings.CLOCK)
            [theirs] = cursor.fetchone()
            half = (time.monotonic() - began) / 2
            best = min(best, (half, theirs - (here + half)))
    doubt, difference = best
    if abs(difference) - doubt > _APART:
        ahead = "ahead of" if difference > 0 else "behind"
        yield warning(
            "clock",
            f"The database's clock is {abs(difference):.1f} s (± {doubt:.1f} s) {ahead} this "
            "machine's.",
            "Run NTP on both: run_after and ids are made by one clock and read by the other.",
            "this machine and the server",
        )


def _search_path(alias: str) -> Iterator[Finding]:
    """Look whether somebody could put a table or a function in the way of ours."""
    schemas = ask(alias, findings.SEARCH_PATH)
    ours = [name for name, _, has_tables in schemas if has_tables]
    if len(ours) > 1:
        yield warning(
            "search-path",
            f"Several schemas in the search_path have our tables: {', '.join(ours)}. Those in "
            f"{ours[0]} are used.",
            f"ALTER ROLE … SET search_path = {ours[0]}, pg_temp; or drop the others.",
        )
    for name, is_open, has_tables in schemas:
        if is_open:
            yield warning(
                "search-path",
                f"Everybody may create tables and functions in the schema {name}, where names are "
                "looked up: they could stand in for ours.",
                f"REVOKE CREATE ON SCHEMA {name} FROM PUBLIC;",
                f"schema {name}",
            )
        if has_tables:
            return


def try_worker_connection(alias: str) -> Iterator[Finding]:
    """Connect as a worker does, and try whether a notification arrives."""
    try:
        settings = conf.get()
        connection = db.worker_connection(alias, name="taskqueue doctor")
    except (ImproperlyConfigured, psycopg.Error) as refused:
        yield error(
            "worker-connection",
            f"A worker cannot connect: {one_line(str(refused).strip(), 500)}",
            "Mend that, or see the guides on database connections and on PgBouncer.",
            f'DATABASES["{alias}"]',
        )
        return
    with connection:
        if settings.listen and (settings.listen_dsn or not settings.pooled):
            yield from _try_to_listen(alias, connection, settings.listen_dsn)


def _try_to_listen(alias: str, connection: db.Connection, dsn: str) -> Iterator[Finding]:
    # What begins so is no hint: it wakes no worker.
    payload = f"probe:doctor-{uuid4()}"
    try:
        if dsn:
            with db.listening_connection(
                alias, dsn, connect_timeout=2, answer_within=2 * _NOTIFIED_WITHIN
            ) as listening:
                arrived = _arrives(listening, connection, payload)
        else:
            with db.worker_connection(alias, name="taskqueue doctor") as other:
                arrived = _arrives(connection, other, payload)
    except psycopg.Error as refused:
        arrived = False
        why = f" ({one_line(str(refused).strip(), 300)})"
    else:
        why = ""
    if not arrived:
        yield warning(
            "listen",
            f"LISTEN does not work: a notification did not arrive within {_NOTIFIED_WITHIN:g} s"
            f"{why}. New tasks start within a second instead of at once.",
            'DJANGO_TASKQ["LISTEN_DSN"] has to lead around any pooler to the same database.'
            if dsn
            else 'Behind a pooler set DJANGO_TASKQ["POOLED"] and "LISTEN_DSN".',
            'DJANGO_TASKQ["LISTEN_DSN"]' if dsn else f'DATABASES["{alias}"]',
        )


def _arrives(listening: db.Connection, sending: db.Connection, payload: str) -> bool:
    listening.execute(LISTEN)
    enqueue.probe(sending, payload)
    end = time.monotonic() + _NOTIFIED_WITHIN
    while (left := end - time.monotonic()) > 0:
        for notification in listening.notifies(timeout=left, stop_after=1):
            if notification.payload == payload:
                return True
    return False


def _is_pooled() -> bool:
    """Say whether the settings know of a pooler; bad settings are found by their own check."""
    try:
        return conf.get().pooled
    except ImproperlyConfigured:
        return False
