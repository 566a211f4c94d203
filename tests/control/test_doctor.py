"""What the doctor finds, and that it finds nothing where nothing is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test import override_settings
from django.utils import timezone

from django_taskq import TaskStatus, control
from django_taskq.control import (
    Finding,
    Severity,
    doctor,
    doctor_server,
    doctor_tables,
    doctor_work,
    findings,
)
from django_taskq.control.migrations import missing_migrations
from django_taskq.models.worker import WorkerKind
from tests.rows import make_row, make_worker

pytestmark = pytest.mark.django_db

INFO = {"queues": [], "concurrency": 1, "pool": "processes", "version": "1"}
ERROR, WARNING = Severity.ERROR, Severity.WARNING


def found(id: str) -> Finding:
    [finding] = [finding for finding in control.diagnose(watch=0) if finding.id == id]
    return finding


def ids() -> set[str]:
    return {finding.id for finding in control.diagnose(watch=0)}


def run(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, list[Any]], None]:
    """Let the database answer one question otherwise."""
    ask = findings.ask

    def answer(statement: str, rows: list[Any]) -> None:
        def other(alias: str, asked: str) -> list[Any]:
            return rows if asked == statement else ask(alias, asked)

        for module in (doctor, doctor_server, doctor_tables, doctor_work):
            monkeypatch.setattr(module, "ask", other)

    return answer


@pytest.fixture
def well() -> Iterator[None]:
    """Let all be well: a worker runs, and what waits is served."""
    make_worker(info=INFO)
    make_row(TaskStatus.READY, run_after=timezone.now() - timedelta(minutes=1))
    yield


@pytest.mark.usefixtures("well")
def test_where_all_is_well_nothing_is_found() -> None:
    # Another test run on this server may use many connections, or hold a transaction.
    shared = {"connections", "long-transaction", "prepared-transaction", "replication-slot"}
    shared |= {"notify-queue", "standby"}

    assert ids() - shared == set()


def test_no_tables_are_found_and_nothing_else_is_asked() -> None:
    run("ALTER TABLE django_taskq_livetask RENAME TO other")

    finding = found("tables")

    assert (finding.severity, finding.fix) == (ERROR, "manage.py migrate django_taskq")


def test_migrations_that_have_not_run_are_found() -> None:
    run("DELETE FROM django_migrations WHERE app = 'django_taskq' AND name <> '0001_tasks'")

    finding = found("migrations")

    assert finding.severity == ERROR and "0002" in finding.what


def test_a_migration_in_whose_place_others_have_run_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "squashed_migrations"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "0001_squashed.py").write_text(
        "class Migration:\n"
        "    replaces = [('django_taskq', '0001_tasks'), ('django_taskq', '0002_headers')]\n"
    )
    (package / "0003_more.py").write_text("class Migration:\n    replaces = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    with override_settings(MIGRATION_MODULES={"django_taskq": "squashed_migrations"}):
        assert missing_migrations({"0001_tasks", "0002_headers"}) == ["0003_more"]
        assert missing_migrations({"0001_tasks"}) == ["0001_squashed", "0003_more"]
    with override_settings(MIGRATION_MODULES={"django_taskq": None}):
        assert missing_migrations(set()) == []


def test_lost_settings_of_a_table_are_found_with_the_statement_that_mends_them() -> None:
    run("ALTER TABLE django_taskq_livetask RESET (autovacuum_vacuum_threshold)")

    finding = found("storage")
    assert "autovacuum_vacuum_threshold" in finding.what

    run(finding.fix)
    assert "storage" not in ids()


def test_a_table_without_autovacuum_is_found_with_the_statement_that_mends_it() -> None:
    run("ALTER TABLE django_taskq_livetask SET (autovacuum_enabled = off)")

    finding = found("autovacuum")
    assert finding.severity == ERROR

    run(finding.fix)
    assert "autovacuum" not in ids()


LIVE_OPTIONS = [
    "autovacuum_vacuum_scale_factor=0",
    "autovacuum_vacuum_threshold=10000",
    "autovacuum_vacuum_cost_delay=0",
]


def test_dead_rows_are_found(answers: Any) -> None:
    row = ["django_taskq_livetask", LIVE_OPTIONS, 10, 10, 100, 60_000, 600.0, None]
    answers(findings.TABLES, [row])

    finding = found("dead-rows")
    assert "60,000 dead rows to 100 living ones" in finding.what
    assert "last autovacuum: 10 min ago, last VACUUM by hand: never" in finding.what
    assert finding.where == "table django_taskq_livetask"
    assert "bloat" not in ids()


def test_room_that_few_rows_take_is_found(answers: Any) -> None:
    size = 600 * 1024 * 1024
    answers(
        findings.TABLES, [["django_taskq_livetask", LIVE_OPTIONS, size, size, 100, 0, None, None]]
    )

    assert "takes 1,200 MB for 100 rows" in found("bloat").what


def test_an_invalid_index_is_found(answers: Any) -> None:
    answers(findings.INVALID_INDEXES, [("django_taskq_live_ready",)])

    assert found("index").fix == "REINDEX INDEX CONCURRENTLY django_taskq_live_ready;"


@pytest.mark.parametrize(
    ("row", "id", "words"),
    [
        (
            ("session", "77", "psql, ada, idle in transaction", 5_000, 600.0),
            "long-transaction",
            ["77 (psql, ada, idle", "for 10 min", "5,000 transactions", "terminate_backend(77)"],
        ),
        (
            ("session", "78", "", 2_000_000, None),
            "long-transaction",
            ["2,000,000 transactions", "pg_terminate_backend(78)"],
        ),
        (
            ("prepared", "it's", "ada", 9, 600.0),
            "prepared-transaction",
            ["of ada", "for 10 min", "ROLLBACK PREPARED 'it''s'"],
        ),
        (
            ("slot", "lost", "inactive", 2_000_000, None),
            "replication-slot",
            ["inactive", "2,000,000", "pg_drop_replication_slot('lost')"],
        ),
        (
            ("standby", "99", "walreceiver, streaming", 2_000_000, None),
            "standby",
            ["99: walreceiver", "hot_standby_feedback"],
        ),
    ],
)
def test_who_holds_vacuum_back_is_named(
    answers: Any, row: tuple[Any, ...], id: str, words: list[str]
) -> None:
    answers(findings.HORIZON, [row])

    finding = found(id)

    assert finding.severity == WARNING
    for word in words:
        assert word in finding.what + finding.fix
    assert row[1] in finding.where.replace("\\", "") or id == "prepared-transaction"


def test_who_is_young_is_not_named(answers: Any) -> None:
    rows = [("session", "77", "", 5, 200.0), ("slot", "s", "active", 500, None)]
    answers(findings.HORIZON, rows)

    assert ids() & {"long-transaction", "replication-slot"} == set()


def test_due_tasks_that_no_worker_serves_are_found() -> None:
    make_worker(info={**INFO, "queues": ["web"]})
    for name in ("mail", "web"):
        make_row(TaskStatus.READY, queue_name=name, run_after=timezone.now() - timedelta(minutes=1))

    finding = found("no-worker")

    assert finding.severity == ERROR
    assert '"mail"' in finding.what and finding.fix == "manage.py taskworker -Q mail"
    assert finding.where == 'queue "mail"'


def test_held_tasks_are_found_with_the_name_that_was_probably_meant() -> None:
    make_row(TaskStatus.HELD, held_for="unknown:tests.tasks.ad")
    make_row(TaskStatus.HELD, held_for="unknown:tests.tasks.ad")

    finding = found("held-unknown")

    assert finding.what.startswith("2 task(s) are held: no worker knew the name 'tests.tasks.ad'.")
    assert 'Did you mean "tests.tasks.add"?' in finding.what


def test_held_tasks_that_this_project_knows_need_a_restart() -> None:
    make_row(TaskStatus.HELD, held_for="unknown:tests.tasks.add")

    assert found("held-unknown").fix.startswith("Restart the workers")


def test_a_running_task_without_a_process_is_found() -> None:
    make_row(TaskStatus.RUNNING, worker_id=uuid4())

    assert found("orphans").what.startswith("1 task(s) are RUNNING")


def test_a_worker_that_does_not_move_is_found_whatever_its_last_beat_says() -> None:
    made = make_worker(info=INFO, host="web-1", pid=7, last_seen_at=timezone.now())
    child = make_worker(kind=WorkerKind.CHILD.value, parent_id=made.id)
    make_row(TaskStatus.RUNNING, worker_id=child.id)
    make_row(TaskStatus.READY, run_after=timezone.now() - timedelta(minutes=1))

    told = {finding.id: finding for finding in control.diagnose(watch=0.3)}

    silent = told["silent-worker"]
    assert "The worker 7 on web-1 does not move its counter" in silent.what
    assert "holds 1 task(s)" in silent.what and silent.where == "worker 7 on web-1"
    # Who does not live serves nobody.
    assert "no-worker" in told


def test_a_worker_that_moves_is_not_found_whatever_its_last_beat_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = make_worker(info=INFO, last_seen_at=timezone.now() - timedelta(hours=5))
    ask = doctor_work.ask

    def beat_and_ask(alias: str, statement: str) -> list[Any]:
        answer = ask(alias, statement)
        if statement == findings.BEATS:
            run(f"UPDATE django_taskq_worker SET beat = beat + 1 WHERE id = '{made.id}'")
        return answer

    monkeypatch.setattr(doctor_work, "ask", beat_and_ask)
    began = time.monotonic()

    assert "silent-worker" not in {finding.id for finding in control.diagnose(watch=20)}
    assert time.monotonic() - began < 10


def test_tasks_that_wait_too_long_though_they_are_served_are_found() -> None:
    make_worker(info=INFO)
    make_row(TaskStatus.READY, run_after=timezone.now() - timedelta(minutes=9))

    assert "waited for 540 s, though workers serve it" in found("late").what


def test_workers_of_two_versions_are_found() -> None:
    make_worker(info=INFO)
    make_worker(info={**INFO, "version": "2"})

    assert "1, 2" in found("versions").what


def test_that_no_worker_runs_is_good_to_know() -> None:
    assert found("no-workers").severity == Severity.INFO


def test_our_checks_speak_here_too() -> None:
    with override_settings(DJANGO_TASKQ={"PAYLAOD_LIMIT": 1}):
        assert "PAYLOAD_LIMIT" in found("django_taskq.E002").what


def literal(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}'"
    return f"{value}::float8" if isinstance(value, float) else str(value)


def test_a_check_that_is_silenced_is_silent_here_too() -> None:
    with override_settings(
        DJANGO_TASKQ={"PAYLOAD_LIMTI": 1}, SILENCED_SYSTEM_CHECKS=["django_taskq.E002"]
    ):
        assert "django_taskq.E002" not in ids()


def test_checks_of_other_apps_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**kwargs: Any) -> list[Any]:
        raise RuntimeError("somebody else's")

    found_checks = doctor.registered_checks.get_checks(include_deployment_checks=True)
    monkeypatch.setattr(
        doctor.registered_checks, "get_checks", lambda **kwargs: [broken, *found_checks]
    )

    assert "django_taskq.E002" not in ids()


def server(**changes: Any) -> tuple[Any, ...]:
    with connection.cursor() as cursor:
        cursor.execute(findings.SERVER)
        values = dict(
            zip(
                (
                    *("number", "version", "pid", "vacuums", "used", "allowed"),
                    *("isolation", "notify_queue"),
                ),
                cursor.fetchone(),
                strict=True,
            )
        )
    assert set(changes) <= set(values)
    return tuple({**values, **changes}.values())


@pytest.mark.parametrize(
    ("changes", "id", "words"),
    [
        ({"number": 140012, "version": "14.12"}, "version", "14.12"),
        ({"isolation": "serializable"}, "isolation", "SERIALIZABLE"),
        ({"notify_queue": 0.25}, "notify-queue", "25.0% full"),
        ({"vacuums": False}, "autovacuum", "switched off in PostgreSQL"),
        ({"used": 90, "allowed": 100}, "connections", "90 of 100"),
        ({"pid": -1}, "pooler", "PgBouncer"),
    ],
)
def test_what_is_wrong_with_the_server_is_found(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], id: str, words: str
) -> None:
    made = ", ".join(map(literal, server(**changes)))
    monkeypatch.setattr(findings, "SERVER", f"SELECT {made}")

    assert words in found(id).what


@pytest.mark.parametrize(
    ("clock", "words"),
    [
        ("+ 100", "100.0 s (± 0.0 s) ahead of this machine"),
        ("- 100", "100.0 s (± 0.0 s) behind this machine"),
    ],
)
def test_clocks_that_are_apart_are_found(
    monkeypatch: pytest.MonkeyPatch, clock: str, words: str
) -> None:
    monkeypatch.setattr(findings, "CLOCK", f"{findings.CLOCK} {clock}")

    assert words in found("clock").what


def test_a_slow_round_trip_is_no_difference_of_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = "SELECT extract(epoch FROM clock_timestamp())::float8 FROM pg_sleep(2.5)"
    monkeypatch.setattr(findings, "CLOCK", slow)
    monkeypatch.setattr(doctor_server, "_ROUND_TRIPS", 1)

    assert "clock" not in ids()


def test_the_worst_comes_first() -> None:
    make_row(TaskStatus.HELD, held_for="unknown:gone")
    make_row(TaskStatus.RUNNING, worker_id=uuid4())

    severities = [finding.severity for finding in control.diagnose(watch=0)]

    assert severities == sorted(severities, key=list(Severity).index)
    assert {ERROR, WARNING, Severity.INFO} <= set(severities)
