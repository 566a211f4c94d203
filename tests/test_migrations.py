"""Migrations stop no site: they lock no table for long, rewrite none, and take nothing away."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import environ
import psycopg
import pytest
from django.core.management import call_command
from django.db import OperationalError, connection
from django.db.migrations.loader import MigrationLoader

from tests.support.databases import empty_database, url_of

# The tables of the first migration are new: it may do with them what it likes.
FIRST = "0001_tasks"

# What holds a lock for longer the more rows there are, or fails old code that still runs.
FORBIDDEN = {
    "rewrites or reads the table": r"ALTER COLUMN \S+ (SET DATA )?TYPE|SET NOT NULL",
    "has a default that is computed for each row": r"ADD COLUMN .* DEFAULT .*\(",
    "is refused where there are rows": r"ADD COLUMN (?!.*DEFAULT)[^,;]* NOT NULL",
    "builds an index while nobody can write": r"CREATE (UNIQUE )?INDEX (?!CONCURRENTLY)",
    "waits for everybody": r"DROP INDEX (?!CONCURRENTLY)|\bREINDEX (?!.*CONCURRENTLY)",
    "builds an index as well": r"ADD CONSTRAINT \S+ (UNIQUE|EXCLUDE|PRIMARY KEY) ?\(",
    "reads the table under a lock": r"ADD CONSTRAINT (?!.*NOT VALID)\S+ (CHECK|FOREIGN KEY)",
    "takes away what old code uses": r"DROP (COLUMN|TABLE|FUNCTION|CONSTRAINT)|\bRENAME\b",
    "touches every row": r"^\s*(UPDATE|DELETE|TRUNCATE|CLUSTER|VACUUM|LOCK)\b",
}


def offences(statements: list[str], *, is_atomic: bool) -> list[str]:
    """Say what of a migration's SQL could stop a site."""
    found = [
        f"{why}: {statement}"
        for statement in statements
        for why, pattern in FORBIDDEN.items()
        if re.search(pattern, statement, re.IGNORECASE | re.MULTILINE)
    ]
    text = "\n".join(statements)
    if is_atomic and "VALIDATE CONSTRAINT" in text and "ADD CONSTRAINT" in text:
        found.append("validates under the lock of the addition")
    if not is_atomic and len(statements) > 1:
        found.append("can be left half done")
    return found


def later_migrations() -> list[str]:
    graph = MigrationLoader(None).graph
    (leaf,) = graph.leaf_nodes("django_taskq")
    return [name for app, name in graph.forwards_plan(leaf) if app == "django_taskq"][1:]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", later_migrations())
def test_no_migration_stops_a_site(name: str) -> None:
    loader = MigrationLoader(None)
    migration = loader.get_migration("django_taskq", name)
    state = loader.project_state(("django_taskq", name), at_end=False)
    with connection.schema_editor(collect_sql=True, atomic=migration.atomic) as editor:
        migration.apply(state, editor, collect_sql=True)
    statements = [line for line in editor.collected_sql if not line.startswith("--")]
    assert statements
    assert not offences(statements, is_atomic=migration.atomic)


@pytest.mark.parametrize(
    "statement",
    [
        'ALTER TABLE "t" ALTER COLUMN "a" TYPE bigint USING "a"::bigint;',
        'ALTER TABLE "t" ALTER COLUMN "a" SET NOT NULL;',
        'ALTER TABLE "t" ADD COLUMN "a" uuid DEFAULT django_taskq_new_id() NOT NULL;',
        'ALTER TABLE "t" ADD COLUMN "a" text NOT NULL;',
        'CREATE INDEX "i" ON "t" ("a");',
        'CREATE UNIQUE INDEX "i" ON "t" ("a");',
        'DROP INDEX IF EXISTS "i";',
        'ALTER TABLE "t" ADD CONSTRAINT "c" UNIQUE ("a");',
        'ALTER TABLE "t" ADD CONSTRAINT "c" CHECK ("a" > 0);',
        'ALTER TABLE "t" ADD CONSTRAINT "c" FOREIGN KEY ("a") REFERENCES "o" ("id");',
        'ALTER TABLE "t" DROP COLUMN "a" CASCADE;',
        'ALTER TABLE "t" RENAME COLUMN "a" TO "b";',
        'DROP TABLE "t" CASCADE;',
        'UPDATE "t" SET "a" = 1;',
    ],
)
def test_what_would_stop_a_site_is_found(statement: str) -> None:
    assert offences([statement], is_atomic=True)


@pytest.mark.parametrize(
    "statement",
    [
        'ALTER TABLE "t" ADD COLUMN "a" text NULL;',
        'ALTER TABLE "t" ADD COLUMN "a" boolean DEFAULT false NOT NULL;',
        'CREATE INDEX CONCURRENTLY "i" ON "t" ("a") WHERE "b" IS NOT NULL;',
        'ALTER TABLE "t" ADD CONSTRAINT "c" CHECK ("a" > 0) NOT VALID;',
        'ALTER TABLE "t" VALIDATE CONSTRAINT "c";',
    ],
)
def test_what_stops_no_site_is_allowed(statement: str) -> None:
    assert not offences([statement], is_atomic=True)


# --- under traffic -------------------------------------------------------------------------------


@pytest.fixture
def database(server_url: str, django_db_blocker: Any) -> Iterator[str]:
    """Point Django at a database of its own; nobody may wait for a lock there for a second."""
    with empty_database(server_url) as name:
        url = url_of(server_url, name)
        changed = environ.Env.db_url_config(url)
        changed["OPTIONS"] = {**changed.get("OPTIONS", {}), "options": "-c lock_timeout=1s"}
        with django_db_blocker.unblock(), mock.patch.dict(connection.settings_dict, changed):
            connection.close()
            try:
                yield url
            finally:
                connection.close()


class Traffic(threading.Thread):
    """Enqueue, claim and finish with the columns of the first migration, as old code does."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.is_over = threading.Event()
        self.rounds = 0
        # The longest that a round of short transactions took, and what went wrong.
        self.slowest = 0.0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with psycopg.connect(self.url, autocommit=True) as raw:
                raw.execute("SET lock_timeout = '1s'")
                while not self.is_over.is_set():
                    began = time.monotonic()
                    self._round(raw)
                    self.slowest = max(self.slowest, time.monotonic() - began)
                    self.rounds += 1
        except BaseException as error:
            self.error = error

    def _round(self, raw: psycopg.Connection[Any]) -> None:
        (id,) = raw.execute(  # type: ignore[misc]
            "INSERT INTO django_taskq_livetask (task) VALUES ('traffic') RETURNING id"
        ).fetchone()
        raw.execute(
            "UPDATE django_taskq_livetask SET status = 'RUNNING', claim = gen_random_uuid(), "
            "worker_id = gen_random_uuid(), started_at = now(), attempts = 1 WHERE id = %s",
            [id],
        )
        raw.execute(
            "WITH gone AS (DELETE FROM django_taskq_livetask WHERE id = %s RETURNING id, task) "
            "INSERT INTO django_taskq_finishedtask (id, task, status) "
            "SELECT id, task, 'SUCCESSFUL' FROM gone",
            [id],
        )


def migrate(name: str) -> None:
    """Run a migration as an operator does: one that gives up for a lock is started again.

    It gives up before those who wait behind it do; autovacuum, say, lets go after a second only.
    """
    is_atomic = MigrationLoader(None).get_migration("django_taskq", name).atomic
    # What runs in no transaction keeps nobody waiting, and would be left half done.
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('lock_timeout', %s, false)", ["200ms" if is_atomic else "0"]
        )
    for left in range(29, -1, -1):
        try:
            return call_command("migrate", "django_taskq", name, verbosity=0)
        except OperationalError as error:
            if not left or not isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
                raise
            time.sleep(0.1)


def files() -> list[tuple[Any, ...]]:
    """Return where the tables lie: a table that is rewritten gets a new file."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname, relfilenode FROM pg_class WHERE relkind = 'r' "
            "AND relname LIKE 'django_taskq%' ORDER BY relname"
        )
        return list(cursor.fetchall())


def test_each_migration_runs_under_traffic_and_nobody_waits_for_a_second(database: str) -> None:
    call_command("migrate", "django_taskq", FIRST, verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_taskq_livetask (task) SELECT 'waits' FROM generate_series(1, 20000)"
        )
    before = files()
    traffic = Traffic(database)
    traffic.start()
    try:
        for name in later_migrations():
            ran = traffic.rounds
            migrate(name)
            while traffic.rounds < ran + 5 and traffic.error is None:
                time.sleep(0.01)
    finally:
        traffic.is_over.set()
        traffic.join()
    assert traffic.error is None
    assert traffic.slowest < 1.0
    assert files() == before, "a table was rewritten"
