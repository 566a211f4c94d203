"""Statements name tables without a schema: what that means, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID

import environ
import psycopg
import pytest
from django.db import connection, transaction

from django_taskq.models import FinishedTask, LiveTask
from tests.processes import tasks
from tests.processes.conftest import Starter, database, database_url, start, starter, use_database
from tests.processes.support import wait_until
from tests.rows import second_connection
from tests.support.databases import empty_database, migrate, url_of

__all__ = ["database", "database_url", "start", "use_database"]


@pytest.mark.django_db(transaction=True)
def test_the_function_that_makes_ids_calls_what_it_was_made_with() -> None:
    with second_connection() as other:
        other.execute("CREATE SCHEMA tricks")
        try:
            for name in ("set_bit(bytea, integer, integer)", "set_bit(bytea, bigint, integer)"):
                other.execute(
                    f"CREATE FUNCTION tricks.{name} RETURNS bytea LANGUAGE sql "
                    "RETURN decode(repeat('00', 16), 'hex')"
                )
            other.execute(
                "CREATE FUNCTION tricks.gen_random_uuid() RETURNS uuid LANGUAGE sql "
                "RETURN '00000000-0000-0000-0000-000000000000'::uuid"
            )
            other.execute("SET search_path = tricks, pg_catalog, public")
            [id] = other.execute("SELECT django_taskq_new_id()").fetchone() or [None]
            assert isinstance(id, UUID) and id.version == 7
            [again] = other.execute("SELECT django_taskq_new_id()").fetchone() or [None]
            assert again != id and again.int & 0xFFFF
        finally:
            other.execute("DROP SCHEMA tricks CASCADE")


@pytest.mark.django_db(transaction=True)
def test_a_temporary_table_stands_in_for_ours_in_its_own_session_only() -> None:
    with second_connection() as other:
        other.execute("CREATE TEMP TABLE django_taskq_livetask (task text)")
        other.execute("INSERT INTO django_taskq_livetask (task) VALUES ('into the void')")
        assert LiveTask.objects.count() == 0
        # What the guide on roles sets.
        other.execute("SET search_path = public, pg_temp")
        other.execute("INSERT INTO django_taskq_livetask (task) VALUES ('into the queue')")
        assert LiveTask.objects.get().task == "into the queue"


@contextmanager
def in_schema(server_url: str) -> Iterator[str]:
    """Yield the URL of a database whose tables are in a schema of their own."""
    with empty_database(server_url) as name:
        plain = url_of(server_url, name)
        with psycopg.connect(plain, autocommit=True) as admin:
            admin.execute("CREATE SCHEMA app")
        url = f"{plain}{'&' if '?' in plain else '?'}options=-c%20search_path%3Dapp"
        migrate(url)
        yield url


@pytest.mark.slow
def test_tables_may_stand_in_any_schema_of_the_path(
    server_url: str, tmp_path: Path, django_db_blocker: Any
) -> None:
    with in_schema(server_url) as url, django_db_blocker.unblock():
        settings = environ.Env.db_url_config(url)
        with mock.patch.dict(connection.settings_dict, settings):
            connection.close()
            with connection.cursor() as cursor:
                cursor.execute("SELECT to_regclass('app.django_taskq_livetask')::text")
                assert cursor.fetchone() == ("django_taskq_livetask",)
            with starter(url, tmp_path) as start_one:
                start_one(children=1)
                assert tasks.add.enqueue(1, 2).wait(timeout=30) == 3
                many = tasks.add.enqueue_many([(n, n) for n in range(50)])
                assert [result.wait(timeout=30) for result in many] == [2 * n for n in range(50)]
            connection.close()


@pytest.mark.slow
def test_an_atomic_task_that_changes_its_path_fails_and_leaves_nothing(start: Starter) -> None:
    """Its completion would not find the table: then nothing of it may be committed."""
    worker = start(children=1)
    result = tasks.wander_off.enqueue("elsewhere")
    wait_until(lambda: FinishedTask.objects.filter(pk=result.id).exists(), what="it has ended")
    result.refresh()
    assert result.row_status == "FAILED"
    assert "does not exist" in result.errors[-1].message
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM auth_group WHERE name = 'elsewhere'")
        assert cursor.fetchone() == (0,)
    # The next one in that process, on that connection, finds everything where it was.
    assert tasks.add.enqueue(1, 2).wait(timeout=30) == 3
    with transaction.atomic():
        atomic = tasks.write_and_enqueue.enqueue(str(Path(worker._output.parent) / "l"), "here")
    assert atomic.wait(timeout=30) == "here"
