"""What the doctor finds, and that it finds nothing where nothing is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test import override_settings
from django.utils import timezone

from django_taskq import TaskStatus, control
from django_taskq.control import Finding, Severity, doctor, findings
from django_taskq.models.worker import WorkerKind
from tests.rows import make_row, make_worker, second_connection

pytestmark = pytest.mark.django_db

INFO = {"queues": [], "concurrency": 1, "pool": "processes", "version": "1"}
ERROR, WARNING = Severity.ERROR, Severity.WARNING


def found(id: str) -> Finding:
    [finding] = [finding for finding in control.diagnose() if finding.id == id]
    return finding


def ids() -> set[str]:
    return {finding.id for finding in control.diagnose()}


def run(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, list[Any]], None]:
    """Let the database answer one question otherwise."""
    ask = doctor._ask

    def answer(statement: str, rows: list[Any]) -> None:
        monkeypatch.setattr(
            doctor, "_ask", lambda alias, asked: rows if asked == statement else ask(alias, asked)
        )

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

    assert ids() - shared == set()


def test_no_tables_are_found_and_nothing_else_is_asked() -> None:
    run("ALTER TABLE django_taskq_livetask RENAME TO other")

    finding = found("tables")

    assert (finding.severity, finding.fix) == (ERROR, "manage.py migrate django_taskq")


def test_migrations_that_have_not_run_are_found() -> None:
    run("DELETE FROM django_migrations WHERE app = 'django_taskq' AND name <> '0001_tasks'")

    finding = found("migrations")

    assert finding.severity == ERROR and "0002" in finding.what


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
    row = ["django_taskq_livetask", LIVE_OPTIONS, 10, 10, 100, 60_000, 600.0]
    answers(findings.TABLES, [row])

    assert (
        "60,000 dead rows to 100 living ones (last vacuum: 10 min ago)" in found("dead-rows").what
    )
    assert "bloat" not in ids()


def test_room_that_few_rows_take_is_found(answers: Any) -> None:
    size = 600 * 1024 * 1024
    answers(findings.TABLES, [["django_taskq_livetask", LIVE_OPTIONS, size, size, 100, 0, None]])

    assert "takes 1,200 MB for 100 rows" in found("bloat").what


def test_an_invalid_index_is_found(answers: Any) -> None:
    answers(findings.INVALID_INDEXES, [("django_taskq_live_ready",)])

    assert found("index").fix == "REINDEX INDEX CONCURRENTLY django_taskq_live_ready;"


@pytest.mark.parametrize(
    ("statement", "row", "id", "words"),
    [
        (
            findings.LONG_TRANSACTIONS,
            (77, "psql", "idle in transaction", 600.0),
            "long-transaction",
            ["77 (psql)", "10 min", "pg_terminate_backend(77)"],
        ),
        (findings.PREPARED_TRANSACTIONS, ("tx", 600.0), "prepared-transaction", ["'tx'", "10 min"]),
        (
            findings.SLOTS,
            ("standby", False, 2_000_000),
            "replication-slot",
            ["inactive", "2,000,000", "pg_drop_replication_slot('standby')"],
        ),
    ],
)
def test_what_holds_vacuum_back_is_found(
    answers: Any, statement: str, row: tuple[Any, ...], id: str, words: list[str]
) -> None:
    answers(statement, [row])

    finding = found(id)

    assert finding.severity == WARNING
    for word in words:
        assert word in finding.what + finding.fix


def test_a_transaction_that_was_begun_long_ago_is_asked_for_by_its_age() -> None:
    with second_connection() as other, connection.cursor() as cursor:
        other.autocommit = False
        other.execute("SELECT 1")
        pid = other.info.backend_pid
        recent = findings.LONG_TRANSACTIONS.replace("5 minutes", "0 seconds").replace("5", "500")
        cursor.execute(recent)
        assert pid in [row[0] for row in cursor.fetchall()]
        cursor.execute(findings.LONG_TRANSACTIONS)
        assert pid not in [row[0] for row in cursor.fetchall()]


def test_due_tasks_that_no_worker_serves_are_found() -> None:
    make_worker(info={**INFO, "queues": ["web"]})
    for name in ("mail", "web"):
        make_row(TaskStatus.READY, queue_name=name, run_after=timezone.now() - timedelta(minutes=1))

    finding = found("no-worker")

    assert finding.severity == ERROR
    assert '"mail"' in finding.what and finding.fix == "manage.py taskworker -Q mail"


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


def test_a_silent_worker_is_found() -> None:
    long_ago = timezone.now() - timedelta(minutes=5)
    made = make_worker(info=INFO, host="web-1", pid=7, last_seen_at=long_ago)
    child = make_worker(kind=WorkerKind.CHILD.value, parent_id=made.id, last_seen_at=long_ago)
    make_row(TaskStatus.RUNNING, worker_id=child.id)

    finding = found("silent-worker")

    assert "7 on web-1 was not heard of for 300 s and holds 1 task(s)" in finding.what


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
                ("number", "version", "pid", "clock", "vacuums", "used", "allowed"),
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
        ({"clock": 0.0}, "clock", "behind this machine"),
        ({"clock": 4e9}, "clock", "ahead of this machine"),
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


def test_the_worst_comes_first() -> None:
    make_row(TaskStatus.HELD, held_for="unknown:gone")
    make_row(TaskStatus.RUNNING, worker_id=uuid4())

    severities = [finding.severity for finding in control.diagnose()]

    assert severities == sorted(severities, key=list(Severity).index)
    assert {ERROR, WARNING, Severity.INFO} <= set(severities)
