"""The doctor's findings, each with the trouble itself: nothing is pretended."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import environ
import psycopg
import pytest
from django.db import connection
from django.test import override_settings

from django_taskq import control
from django_taskq.control import Finding, Severity, doctor_server, doctor_tables
from example_project import embedded_postgres
from tests.databases.pgbouncer import PgBouncer, serve_pgbouncer
from tests.processes.conftest import Starter, database, database_url, start, use_database
from tests.rows import second_connection
from tests.support.databases import migrate

__all__ = ["database", "database_url", "start", "use_database"]

committing = pytest.mark.django_db(transaction=True)


def diagnosed(**options: Any) -> dict[str, Finding]:
    """Return the findings by their names."""
    return {finding.id: finding for finding in control.diagnose(**{"watch": 0, **options})}


def execute(*statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


# --- dead rows, and who keeps them ----------------------------------------------------------------


@committing
def test_a_snapshot_that_keeps_dead_rows_and_the_rows_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor_tables, "_DEAD_ROWS", 1_000)
    with second_connection() as holder:
        holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        holder.autocommit = False
        holder.execute("SET application_name = 'forgotten report'")
        holder.execute("SELECT 'a secret in a query'")
        pid = holder.info.backend_pid
        execute(
            "INSERT INTO django_taskq_livetask (task) SELECT 'x' FROM generate_series(1, 3000)",
            "DELETE FROM django_taskq_livetask",
            "SELECT pg_stat_force_next_flush()",
            "VACUUM django_taskq_livetask",
        )
        told = {f.id: f for f in control.diagnose(patience=0, watch=0)}
        named = [f for f in control.diagnose(patience=0, watch=0) if f.where == f"session {pid}"]
    assert "3,000 dead rows to 0 living ones" in told["dead-rows"].what
    assert "last VACUUM by hand: 0 min ago" in told["dead-rows"].what
    [holds] = named
    assert "forgotten report" in holds.what
    assert f"pg_terminate_backend({pid})" in holds.fix
    assert "secret" not in str(told)
    execute("VACUUM django_taskq_livetask", "SELECT pg_stat_force_next_flush()")
    assert "dead-rows" not in diagnosed()


@committing
def test_a_session_that_holds_nothing_back_is_not_named() -> None:
    with second_connection() as idle:
        idle.autocommit = False
        idle.execute("SELECT 1")  # READ COMMITTED: its snapshot is gone
        told = control.diagnose(patience=0, watch=0)
        assert f"session {idle.info.backend_pid}" not in {finding.where for finding in told}


# --- the way to the server ------------------------------------------------------------------------


@committing
def test_an_index_that_was_left_invalid_is_found() -> None:
    execute("INSERT INTO django_taskq_livetask (task) VALUES ('same'), ('same')")
    with pytest.raises(Exception, match="could not create unique index"):
        execute("CREATE UNIQUE INDEX CONCURRENTLY left_over ON django_taskq_livetask (task)")
    try:
        told = diagnosed()["index"]
        assert told.severity == Severity.ERROR and "left_over" in told.what
    finally:
        execute("DROP INDEX left_over")


@committing
def test_another_isolation_level_is_told() -> None:
    execute("SET default_transaction_isolation = 'repeatable read'")
    try:
        assert "REPEATABLE READ" in diagnosed()["isolation"].what
    finally:
        connection.close()


@committing
def test_a_schema_in_which_everybody_may_put_something_in_the_way_is_found() -> None:
    execute("CREATE SCHEMA anybodys", "GRANT CREATE ON SCHEMA anybodys TO PUBLIC")
    try:
        assert "search-path" not in diagnosed()
        execute("SET search_path = anybodys, public")
        told = diagnosed()["search-path"]
        assert "anybodys" in told.what and told.where == "schema anybodys"
        execute(told.fix)
        assert "search-path" not in diagnosed()
        execute("CREATE TABLE anybodys.django_taskq_livetask ()")
        seen = list(doctor_server._search_path("default"))
        assert [f.what.partition(":")[0] for f in seen] == [
            "Several schemas in the search_path have our tables"
        ]
    finally:
        execute("DROP SCHEMA anybodys CASCADE")
        connection.close()


@pytest.fixture(scope="module")
def bouncer(server_url: str) -> Iterator[PgBouncer]:
    with serve_pgbouncer(server_url) as running:
        yield running


@committing
def test_a_pooler_that_nobody_was_told_of_is_found(bouncer: PgBouncer) -> None:
    name = str(connection.settings_dict["NAME"])
    settings = environ.Env.db_url_config(bouncer.url(name))
    connection.close()
    with mock.patch.dict(connection.settings_dict, settings):
        told = diagnosed()
        connection.close()
    assert told["pooler"].severity == Severity.WARNING
    refused = told["worker-connection"]
    assert refused.severity == Severity.ERROR and "POOLED" in refused.what


@committing
def test_a_listen_that_a_pooler_loses_is_found(bouncer: PgBouncer) -> None:
    name = str(connection.settings_dict["NAME"])
    with override_settings(DJANGO_TASKQ={"POOLED": True, "LISTEN_DSN": bouncer.url(name)}):
        told = diagnosed()["listen"]
    assert "did not arrive within 3 s" in told.what and "LISTEN_DSN" in told.where

    nowhere = "host=127.0.0.1 port=1"
    with override_settings(DJANGO_TASKQ={"POOLED": True, "LISTEN_DSN": nowhere}):
        assert "refused" in diagnosed()["listen"].what

    with override_settings(DJANGO_TASKQ={"LISTEN": False}):
        assert "listen" not in diagnosed()


@pytest.mark.slow
@committing
def test_a_notify_queue_that_somebody_does_not_read_is_found() -> None:
    with second_connection() as deaf, second_connection() as other:
        deaf.execute("LISTEN django_taskq_test")
        deaf.autocommit = False
        deaf.execute("SELECT 1")  # inside of a transaction nothing is delivered
        other.execute(
            "SELECT count(pg_notify('django_taskq_test', n || repeat('x', 7900))) "
            "FROM generate_series(1, 13000) AS n"
        )
        told = diagnosed()["notify-queue"]
        assert re.search(r"[1-9]\.\d% full", told.what)


# --- workers --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_that_was_stopped_is_told_from_one_that_works(start: Starter) -> None:
    worker = start(children=1)
    assert "silent-worker" not in diagnosed(watch=12.0)
    worker.send(signal.SIGSTOP)
    try:
        told = diagnosed(watch=7.0)["silent-worker"]
        assert f"worker {worker.pid} on" in told.where
    finally:
        worker.send(signal.SIGCONT)


# --- what a server of its own allows --------------------------------------------------------------


@pytest.mark.slow
def test_prepared_transactions_and_slots_are_named(tmp_path: Path, django_db_blocker: Any) -> None:
    home = tmp_path / "server"
    with (
        embedded_postgres.serve(home, fast=True) as url,
        psycopg.connect(url, autocommit=True) as admin,
    ):
        admin.execute("ALTER SYSTEM SET max_prepared_transactions = 5")
        admin.execute("ALTER SYSTEM SET wal_level = 'logical'")
    with embedded_postgres.serve(home, fast=True) as url:
        migrate(url)
        settings = environ.Env.db_url_config(url)
        with (
            django_db_blocker.unblock(),
            mock.patch.dict(connection.settings_dict, settings),
            mock.patch.object(doctor_tables, "_OLD", 0),
        ):
            connection.close()
            execute(
                "SELECT pg_create_logical_replication_slot('nobody_reads', 'pgoutput')",
                "BEGIN",
                "CREATE TABLE written ()",
                "PREPARE TRANSACTION 'it''s forgotten'",
            )
            told = diagnosed(patience=0)
            assert told["replication-slot"].where == "replication slot nobody_reads"
            assert "it's forgotten" in told["prepared-transaction"].what
            for fix in ("prepared-transaction", "replication-slot"):
                execute(re.search(r"(ROLLBACK [^;]*|SELECT [^;]*);", told[fix].fix)[1])  # type: ignore[index]
            left = diagnosed(patience=0)
            assert not {"prepared-transaction", "replication-slot"} & set(left)
            connection.close()
