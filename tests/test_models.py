"""The rows: what the database refuses, and what it fills in."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.utils import timezone

from django_taskq import TaskStatus
from django_taskq.models import FinishedTask, LiveTask, Worker
from django_taskq.statuses import FINISHED, TRANSITIONS, UNFINISHED
from tests.rows import make_row, make_worker

pytestmark = pytest.mark.django_db

CLAIM = {"claim": uuid4(), "worker_id": uuid4(), "started_at": timezone.now()}


@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        ({"status": "BROKEN"}, "django_taskq_live_status"),
        ({"status": "SUCCESSFUL"}, "django_taskq_live_status"),
        ({"status": ""}, "django_taskq_live_status"),
        ({"status": "RUNNING"}, "django_taskq_live_claim"),
        ({"status": "RUNNING", **CLAIM, "claim": None}, "django_taskq_live_claim"),
        ({"status": "RUNNING", **CLAIM, "worker_id": None}, "django_taskq_live_claim"),
        ({"status": "RUNNING", **CLAIM, "started_at": None}, "django_taskq_live_claim"),
        ({"status": "READY", **CLAIM}, "django_taskq_live_claim"),
        ({"status": "READY", "claim": uuid4()}, "django_taskq_live_claim"),
        ({"status": "READY", "worker_id": uuid4()}, "django_taskq_live_claim"),
        ({"status": "READY", "started_at": timezone.now()}, "django_taskq_live_claim"),
        ({"status": "HELD", "held_for": "x", **CLAIM}, "django_taskq_live_claim"),
        ({"status": "HELD"}, "django_taskq_live_held_for"),
        ({"status": "READY", "held_for": "unknown:x"}, "django_taskq_live_held_for"),
        ({"status": "RUNNING", **CLAIM, "held_for": "x"}, "django_taskq_live_held_for"),
        ({"priority": 101}, "django_taskq_live_priority"),
        ({"priority": -101}, "django_taskq_live_priority"),
        ({"attempts": -1}, "django_taskq_live_counts"),
        ({"crashes": -1}, "django_taskq_live_counts"),
        ({"max_attempts": 0}, "django_taskq_live_counts"),
    ],
)
def test_an_unfinished_task_that_makes_no_sense_is_refused(columns: Any, constraint: str) -> None:
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
        LiveTask.objects.create(task="tests.tasks.add", **columns)


@pytest.mark.parametrize("status", ["READY", "HELD", "RUNNING", "", "broken"])
def test_a_finished_task_that_has_not_finished_is_refused(status: str) -> None:
    with pytest.raises(IntegrityError, match="django_taskq_finished_status"), transaction.atomic():
        FinishedTask.objects.create(task="tests.tasks.add", status=status)


def test_a_process_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(IntegrityError, match="django_taskq_worker_kind"), transaction.atomic():
        make_worker(kind="JANITOR")


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("args", "[1,"),
        ("args", "nonsense"),
        ("kwargs", "{'a': 1}"),
        ("run_after", "soon"),
        ("id", "5"),
        ("max_attempts", "40000"),
    ],
)
def test_a_plain_sql_insert_of_nonsense_is_refused(column: str, text: str) -> None:
    with (
        pytest.raises(DatabaseError),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(
            f"INSERT INTO django_taskq_livetask (task, {column}) VALUES ('tests.tasks.add', %s)",
            [text],
        )


@pytest.mark.parametrize("column", ["task", "queue_name", "args", "kwargs", "run_after", "errors"])
def test_what_every_task_has_may_not_be_null(column: str) -> None:
    row = make_row(TaskStatus.READY)
    with (
        pytest.raises(IntegrityError, match=column),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(f"UPDATE django_taskq_livetask SET {column} = NULL WHERE id = %s", [row.pk])


def test_one_id_is_one_task() -> None:
    row = make_row(TaskStatus.READY)
    with pytest.raises(IntegrityError), transaction.atomic():
        LiveTask.objects.create(id=row.pk, task="tests.tasks.add")


@pytest.mark.parametrize("status", TaskStatus)
def test_a_row_of_every_status_can_be_stored_where_it_belongs(status: TaskStatus) -> None:
    row = make_row(status)
    assert type(row) is (FinishedTask if status in FINISHED else LiveTask)
    assert str(row) == f"tests.tasks.add {row.pk}"


def test_the_database_fills_in_what_is_left_out() -> None:
    row = LiveTask.objects.create(task="tests.tasks.add")
    row.refresh_from_db()
    assert isinstance(row.pk, UUID)
    assert row.pk.version == 7
    assert row.status == TaskStatus.READY
    assert (row.queue_name, row.priority) == ("default", 0)
    assert (row.args, row.kwargs, row.errors) == ([], {}, [])
    assert (row.attempts, row.crashes, row.has_successors) == (0, 0, False)
    worker = Worker.objects.create(id=uuid4(), kind="CHILD", host="box", pid=1)
    worker.refresh_from_db()
    assert (worker.info, worker.beat) == ({}, 0)
    assert str(worker) == "box:1"


def test_the_clock_of_a_row_is_that_of_its_insertion_and_not_of_the_transaction() -> None:
    first, second = make_row(TaskStatus.READY), make_row(TaskStatus.READY)
    assert first.enqueued_at < second.enqueued_at


def test_json_is_kept_as_it_was_written() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_taskq_livetask (task, args) VALUES ('x', %s) RETURNING args::text",
            ['[1e16,  -0.0, {"b": 1, "a": 2}]'],
        )
        assert cursor.fetchone() == ('[1e16,  -0.0, {"b": 1, "a": 2}]',)
    args = LiveTask.objects.get().args
    assert [type(value) for value in args[:2]] == [float, float]
    assert list(args[2]) == ["b", "a"]


def test_every_status_is_live_or_finished_and_every_arrow_is_drawn() -> None:
    assert set(TaskStatus) == UNFINISHED | FINISHED
    assert not UNFINISHED & FINISHED
    for verb, start, end in TRANSITIONS:
        # What has finished stays, unless somebody wants it to run again.
        assert start is None or start in UNFINISHED or verb == "requeue"
        assert end in TaskStatus
    assert {end for _, _, end in TRANSITIONS} == set(TaskStatus)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            "django_taskq_livetask",
            {
                "fillfactor=80",
                "autovacuum_vacuum_scale_factor=0",
                "autovacuum_vacuum_cost_delay=0",
                "vacuum_truncate=off",
            },
        ),
        ("django_taskq_worker", {"fillfactor=50", "autovacuum_vacuum_scale_factor=0"}),
    ],
)
def test_tables_that_change_all_the_time_are_stored_for_it(table: str, expected: set[str]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE relname = %s", [table])
        assert expected <= set(cursor.fetchone()[0])


def test_the_migrations_hold_what_the_models_say() -> None:
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


def test_no_migration_has_the_name_of_anothers() -> None:
    # A database in which the other project of our name has been migrated would skip it in silence.
    from django.db.migrations.loader import MigrationLoader

    names = [name for app, name in MigrationLoader(None).disk_migrations if app == "django_taskq"]
    assert names
    assert "0001_initial" not in names


@pytest.mark.django_db(transaction=True)
def test_the_migrations_can_be_undone_and_done_again() -> None:
    try:
        call_command("migrate", "django_taskq", "zero", verbosity=0)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'django_taskq%'")
            assert cursor.fetchone() == (0,)
            cursor.execute("SELECT count(*) FROM pg_proc WHERE proname LIKE 'django_taskq%'")
            assert cursor.fetchone() == (0,)
    finally:
        call_command("migrate", "django_taskq", verbosity=0)
    assert make_row(TaskStatus.READY).pk
