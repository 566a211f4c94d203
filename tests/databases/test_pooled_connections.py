"""A worker's connection through PgBouncer in transaction mode: nothing is left to the session."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import override_settings

from django_taskq import db
from django_taskq.transitions import presence
from tests.databases.pgbouncer import PgBouncer, serve_pgbouncer
from tests.support.connections import worker_connection_to
from tests.support.databases import empty_database, url_of

POOLED = {"POOLED": True}

# What a worker asks for, as current_setting() says it.
WANTED = {
    "transaction_isolation": "read committed",
    "TimeZone": "UTC",
    "lock_timeout": "1s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "30s",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
}
ASK = "SELECT " + ", ".join(f"current_setting('{name}')" for name in WANTED)


@pytest.fixture(scope="module")
def unlike_ours(server_url: str) -> Iterator[str]:
    """Yield the name of a database whose defaults are nothing like what workers ask for."""
    with empty_database(server_url) as name:
        with psycopg.connect(server_url, autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {name} SET default_transaction_isolation='serializable'")
            admin.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Kathmandu'")
        with psycopg.connect(url_of(server_url, name), autocommit=True) as direct:
            direct.execute("CREATE TABLE noted (word text PRIMARY KEY)")
        yield name


@contextmanager
def pooled(bouncer: PgBouncer, database: str, **options: Any) -> Iterator[db.Connection]:
    with (
        override_settings(DJANGO_TASKQ=POOLED),
        worker_connection_to(bouncer.url(database)) as connection,
    ):
        yield connection


@pytest.fixture
def connection(pgbouncer: PgBouncer, unlike_ours: str) -> Iterator[db.Connection]:
    with pooled(pgbouncer, unlike_ours) as opened:
        opened.execute("DELETE FROM noted")
        yield opened


def settings_seen(cursor: db.Cursor) -> dict[str, str]:
    row = cursor.fetchone()
    assert row is not None
    return dict(zip(WANTED, row, strict=True))


def test_a_single_statement_has_the_settings_of_workers(connection: db.Connection) -> None:
    assert settings_seen(connection.execute(ASK)) == WANTED
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_every_statement_of_a_pipeline_has_them(connection: db.Connection) -> None:
    with connection.pipeline():
        asked = [connection.execute(ASK) for _ in range(3)]
    assert [settings_seen(cursor) for cursor in asked] == [WANTED] * 3


def test_every_statement_of_a_transaction_has_them(connection: db.Connection) -> None:
    with connection.transaction():
        assert settings_seen(connection.execute(ASK)) == WANTED
        with connection.transaction(), connection.pipeline():
            asked = connection.execute(ASK)
        assert settings_seen(asked) == WANTED


def test_nothing_of_it_stays_behind_for_others(
    connection: db.Connection, pgbouncer: PgBouncer, unlike_ours: str
) -> None:
    # As many as the pool holds: every server process has served us.
    with pooled(pgbouncer, unlike_ours) as another:
        with connection.transaction(), another.transaction():
            connection.execute("SELECT 1")
            another.execute("SELECT 1")
        with psycopg.connect(pgbouncer.url(unlike_ours), autocommit=True) as somebody:
            for _ in range(3):
                row = somebody.execute(ASK, prepare=False).fetchone()
                assert row is not None
                assert row[:2] == ("serializable", "Asia/Kathmandu")
                assert set(row[2:]) == {"0", "auto", "on"}


def test_a_pipeline_is_one_transaction_of_one_server_process(connection: db.Connection) -> None:
    ask = "SELECT pg_current_xact_id()::text, pg_backend_pid()"
    for _ in range(5):
        with connection.pipeline():
            first, second = connection.execute(ask), connection.execute(ask)
        assert first.fetchall() == second.fetchall()
    assert connection.execute(ask).fetchall() != first.fetchall()


def test_an_error_in_a_pipeline_undoes_all_of_it(connection: db.Connection) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation), connection.pipeline():
        connection.execute("INSERT INTO noted VALUES ('one')")
        connection.execute("INSERT INTO noted VALUES ('one')")
    assert connection.execute("SELECT * FROM noted").fetchall() == []
    with connection.pipeline():
        connection.execute("INSERT INTO noted VALUES ('two')")
    assert connection.execute("SELECT * FROM noted").fetchall() == [("two",)]


def test_an_error_of_ours_in_a_pipeline_undoes_all_of_it(connection: db.Connection) -> None:
    with pytest.raises(ZeroDivisionError), connection.pipeline():
        connection.execute("INSERT INTO noted VALUES ('one')")
        _ = 1 / 0
    assert connection.execute("SELECT * FROM noted").fetchall() == []


def test_a_transaction_that_fails_is_undone(connection: db.Connection) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
        connection.execute("INSERT INTO noted VALUES ('one')")
        connection.execute("INSERT INTO noted VALUES ('one')")
    assert connection.execute("SELECT * FROM noted").fetchall() == []
    assert settings_seen(connection.execute(ASK)) == WANTED


def test_a_lock_is_not_waited_for_longer_than_a_second(
    connection: db.Connection, server_url: str, unlike_ours: str
) -> None:
    with psycopg.connect(url_of(server_url, unlike_ours)) as holder:
        holder.execute("LOCK TABLE noted")
        began = time.monotonic()
        with pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute("SELECT * FROM noted")
        assert time.monotonic() - began < 10
    assert connection.execute("SELECT * FROM noted").fetchall() == []


def test_statements_that_ask_to_be_prepared_are_not(
    connection: db.Connection, pgbouncer: PgBouncer, unlike_ours: str
) -> None:
    with pooled(pgbouncer, unlike_ours) as other:
        for _ in range(6):
            for one in (connection, other):
                one.execute("SELECT %(n)s::int", {"n": 1}, prepare=True)
                with one.pipeline():
                    one.execute("SELECT %(n)s::text", {"n": 1}, prepare=True)
    assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)


def test_times_arrive_as_texts_in_utc(connection: db.Connection) -> None:
    row = connection.execute("SELECT '2026-01-02 03:04:05.5+00'::timestamptz").fetchone()
    assert row == ("2026-01-02 03:04:05.5+00",)


def test_plans_need_not_be_forgotten(connection: db.Connection) -> None:
    db.forget_plans(connection)  # DISCARD would reach whoever uses the server process next
    assert presence.tables_exist(connection) is False


def test_the_role_to_assume_is_assumed_in_each_transaction(
    pgbouncer: PgBouncer, unlike_ours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        connections["default"].settings_dict, "OPTIONS", {"assume_role": "pg_monitor"}
    )
    ask = "SELECT current_user::text"
    with pooled(pgbouncer, unlike_ours) as connection:
        with connection.pipeline():
            asked = connection.execute(ask)
        assert asked.fetchone() == ("pg_monitor",)
        with connection.transaction():
            assert connection.execute(ask).fetchone() == ("pg_monitor",)
        assert connection.execute(ask).fetchone() == ("pg_monitor",)
        with psycopg.connect(pgbouncer.url(unlike_ours), autocommit=True) as somebody:
            assert somebody.execute(ask).fetchone() != ("pg_monitor",)


# --- without the setting --------------------------------------------------------------------------


def test_without_the_setting_the_message_names_it(pgbouncer: PgBouncer, unlike_ours: str) -> None:
    with (
        pytest.raises(ImproperlyConfigured, match=r'"default".*\{"POOLED": True\}'),
        worker_connection_to(pgbouncer.url(unlike_ours)),
    ):
        pass


def test_a_pooler_that_drops_startup_options_is_noticed(server_url: str, unlike_ours: str) -> None:
    with (
        serve_pgbouncer(server_url, ignored="options") as bouncer,
        pytest.raises(ImproperlyConfigured, match=r'drops them.*\{"POOLED": True\}'),
        worker_connection_to(bouncer.url(unlike_ours)),
    ):
        pass


def test_startup_options_of_the_project_are_named_as_what_is_refused(
    pgbouncer: PgBouncer, unlike_ours: str
) -> None:
    url = f"{pgbouncer.url(unlike_ours)}?options=-c%20search_path%3Dpublic"
    with (
        override_settings(DJANGO_TASKQ=POOLED),
        pytest.raises(ImproperlyConfigured, match=r'\["OPTIONS"\]\["options"\]'),
        worker_connection_to(url),
    ):
        pass
