"""Real workers behind a real PgBouncer in transaction mode, with fewer servers than clients."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import environ
import psycopg
import pytest
from django.contrib.auth.models import Group
from django.db import IntegrityError, connection, transaction
from psycopg.pq import TransactionStatus

from django_taskq import hints
from django_taskq.exceptions import TaskCrashed, TaskFailed
from django_taskq.ids import TaskId
from django_taskq.models import FinishedTask, LiveTask
from django_taskq.transitions import enqueue
from tests.databases.pgbouncer import PgBouncer, serve_pgbouncer
from tests.plans.cases import settled
from tests.processes import tasks
from tests.processes.support import Gate, Ledger, TaskWorker, sql, statuses, wait_until
from tests.processes.test_contention import run_among_nuisances

pytestmark = pytest.mark.slow

Starter = Callable[..., TaskWorker]


@pytest.fixture
def name(database: str) -> str:
    """Return the name of the database that tests and workers share."""
    return str(environ.Env.db_url_config(database)["NAME"])


@pytest.fixture
def start_behind(pgbouncer: PgBouncer, name: str, tmp_path: Path) -> Iterator[Starter]:
    """Start workers that reach the database through PgBouncer; the test itself goes around it."""
    with ExitStack() as running:

        def start_one(
            *arguments: str, children: int = 3, bouncer: PgBouncer = pgbouncer, **setting: Any
        ) -> TaskWorker:
            worker = TaskWorker(
                ("-c", str(children), *arguments),
                url=bouncer.url(name),
                directory=tmp_path,
                settings="tests.databases.settings",
                environment={"DJANGO_TASKQ": json.dumps({"POOLED": True, **setting})},
            )
            running.callback(worker.stop)
            worker.wait_until_ready(children)
            return worker

        yield start_one


@pytest.fixture(params=["read committed", "repeatable read", "serializable"])
def isolation(request: pytest.FixtureRequest, name: str) -> Iterator[str]:
    """Let the server's default isolation be another one than workers need."""
    sql(f"ALTER DATABASE {name} SET default_transaction_isolation = '{request.param}'")
    sql(f"ALTER DATABASE {name} SET timezone = 'Asia/Kathmandu'")
    yield request.param
    sql(f"ALTER DATABASE {name} RESET ALL")


@pytest.mark.usefixtures("isolation")
def test_tasks_of_all_kinds_come_to_what_they_should(
    start_behind: Starter, ledger: Ledger, gate: Gate
) -> None:
    worker = start_behind("-v", "2")
    many = tasks.note.enqueue_many([(ledger.path, f"n{i}", 0.001) for i in range(1500)])
    added = tasks.add.enqueue(2, 3)
    retried = tasks.fail_until.enqueue(f"{ledger.path}.retried", 3)
    failed = tasks.fail.enqueue("as it should")
    crashed = tasks.die.enqueue(f"{ledger.path}.crashed")
    survived = tasks.die.enqueue(f"{ledger.path}.survived", times=1)
    late = tasks.hang_once.enqueue(f"{ledger.path}.late")
    later = tasks.note.using(run_after=1.0).enqueue(ledger.path, "later")
    group = tasks.write_group.enqueue("written through PgBouncer")
    atomic = tasks.write_and_enqueue.enqueue(ledger.path, "enqueued-by-an-atomic-task")
    torn = tasks.die_before_commit.enqueue(f"{ledger.path}.torn", "enqueued-once")
    snoozed = tasks.snooze_until.enqueue(gate.path)
    told = tasks.report.enqueue(gate.path)
    wait_until(lambda: LiveTask.objects.filter(progress__done=1).exists())
    gate.open()
    assert added.wait(timeout=30) == 5
    assert retried.wait(timeout=30) == 3
    assert group.wait(timeout=30) > 0
    assert atomic.wait(timeout=60) == "enqueued-by-an-atomic-task"
    assert torn.wait(timeout=60) == "enqueued-once"
    assert later.wait(timeout=30) > 0
    assert later.started_at is not None and later.run_after is not None
    assert later.started_at >= later.run_after
    assert snoozed.wait(timeout=30) == 1
    assert told.wait(timeout=30) == "done"
    with pytest.raises(TaskFailed, match="as it should"):
        failed.wait(timeout=30)
    with pytest.raises(TaskCrashed):
        crashed.wait(timeout=60)
    assert survived.wait(timeout=60) == "survived"
    assert late.wait(timeout=60) == "second time"
    for result in many:
        result.wait(timeout=60)
    wait_until(lambda: statuses() == {})
    for name in ("enqueued-by-an-atomic-task", "enqueued-once"):
        assert Group.objects.filter(name=name).count() == 1
    assert {tag for tag in ledger.tags() if tag.startswith("n")} == {f"n{i}" for i in range(1500)}
    assert "trying again" not in worker.output, worker.output


@pytest.mark.usefixtures("isolation")
def test_many_tasks_run_once_each(start_behind: Starter, ledger: Ledger) -> None:
    first, second = start_behind("-v", "0"), start_behind("-v", "0")
    # Longer than a tick, for one worker alone: the other finds work too.
    for _ in range(4):
        tasks.note.enqueue_many([(ledger.path, "n", 0.005)] * 500)
    wait_until(lambda: statuses() == {})
    starts = ledger.starts()
    assert len(starts) == 2000
    pids = {start.pid for start in starts}
    assert pids & set(first.children()) and pids & set(second.children())
    for worker in (first, second):
        assert "trying again" not in worker.output, worker.output


@pytest.mark.parametrize("isolation", ["serializable"], indirect=True)
@pytest.mark.usefixtures("isolation")
def test_all_tasks_succeed_among_locks_above_read_committed(
    start_behind: Starter, database: str, ledger: Ledger
) -> None:
    run_among_nuisances(start_behind, database, ledger, 200)


@pytest.mark.parametrize("pool", ["threads", "asyncio", "solo"])
def test_tasks_run_in_each_pool(start_behind: Starter, ledger: Ledger, pool: str) -> None:
    slots = 1 if pool == "solo" else 4
    worker = start_behind("-P", pool, "-c", str(slots), children=1)
    results = tasks.note.enqueue_many([(ledger.path, f"n{i}", 0.001) for i in range(200)])
    written = [tasks.write_group.enqueue(f"group {i}") for i in range(5)]
    retried = tasks.fail_until.enqueue(f"{ledger.path}.retried", 2)
    for result in [*results, *written, retried]:
        result.wait(timeout=60)
    assert len(ledger.tags()) == 200
    assert "trying again" not in worker.output, worker.output


def test_a_stop_gives_back_what_has_not_started(
    start_behind: Starter, ledger: Ledger, gate: Gate
) -> None:
    worker = start_behind(children=1)
    running = tasks.note.enqueue(ledger.path, "runs", gate=gate.path)
    ledger.start_of("runs")
    tasks.add.enqueue_many([(1, 1)] * 10)
    worker.process.terminate()
    worker.wait_for("Stopping")
    gate.open()
    assert worker.wait(30) == 0
    running.refresh()
    assert running.is_finished
    assert statuses() == {"READY": 10}


def test_a_pgbouncer_that_ends_and_comes_back_loses_nothing(
    server_url: str, start_behind: Starter, ledger: Ledger
) -> None:
    with serve_pgbouncer(server_url) as bouncer:
        worker = start_behind(bouncer=bouncer)
        results = tasks.note.enqueue_many([(ledger.path, f"n{i}", 0.002) for i in range(1000)])
        wait_until(lambda: len(ledger.starts()) > 100)
        bouncer.stop()
        worker.wait_for("trying again")
        bouncer.start()
        for result in results:
            result.wait(timeout=60)
    assert statuses() == {}
    assert FinishedTask.objects.filter(crashes__gt=0).count() == 0
    assert set(ledger.tags()) == {f"n{i}" for i in range(1000)}


# --- hints ----------------------------------------------------------------------------------------


def latencies(ledger: Ledger, count: int) -> list[float]:
    """Enqueue one after the other; return how long each waited for its start."""
    waited = []
    for number in range(count):
        with transaction.atomic():
            result = tasks.note.enqueue(ledger.path, f"w{number}")
        committed = time.monotonic()
        result.wait(timeout=20)
        waited.append(ledger.start_of(f"w{number}").at - committed)
    return waited


def test_without_an_address_to_listen_at_new_tasks_start_within_a_second_or_so(
    start_behind: Starter, ledger: Ledger
) -> None:
    worker = start_behind()
    assert "LISTEN_DSN" in worker.output
    assert median(latencies(ledger, 5)) < 1.5


def test_a_worker_listens_at_an_address_around_the_pooler(
    start_behind: Starter, ledger: Ledger, database: str
) -> None:
    worker = start_behind(LISTEN_DSN=database)
    worker.wait_for("Listening at")
    assert median(latencies(ledger, 9)) < 0.4


def test_what_the_address_leaves_out_is_as_in_databases(
    start_behind: Starter, ledger: Ledger, server_url: str
) -> None:
    with psycopg.connect(server_url) as direct:
        address = f"host={direct.info.host} port={direct.info.port} user={direct.info.user}"
    worker = start_behind(LISTEN_DSN=address)
    worker.wait_for("Listening at")
    assert median(latencies(ledger, 9)) < 0.4


def test_an_address_that_leads_through_a_pooler_is_noticed(
    start_behind: Starter, pgbouncer: PgBouncer, ledger: Ledger
) -> None:
    worker = start_behind(LISTEN_DSN=f"host=127.0.0.1 port={pgbouncer.port}")
    worker.wait_for("LISTEN does not work")
    assert max(latencies(ledger, 3)) < 5.0


def test_an_address_that_does_not_answer_keeps_no_task_waiting(
    start_behind: Starter, ledger: Ledger
) -> None:
    worker = start_behind(LISTEN_DSN="host=127.0.0.1 port=1")
    worker.wait_for("No LISTEN at the address")
    assert max(latencies(ledger, 3)) < 5.0
    assert worker.output.count("No LISTEN at the address") == 1


def test_a_listening_connection_that_is_lost_is_opened_anew(
    start_behind: Starter, ledger: Ledger, database: str
) -> None:
    worker = start_behind(LISTEN_DSN=database)
    worker.wait_for("Listening at")
    sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'taskworker listener' AND datname = current_database()"
    )
    wait_until(lambda: worker.output.count("Listening at") == 2)
    assert median(latencies(ledger, 5)) < 0.4


# --- mistakes -------------------------------------------------------------------------------------


def test_a_worker_without_the_setting_ends_and_names_it(
    pgbouncer: PgBouncer, name: str, tmp_path: Path
) -> None:
    worker = TaskWorker(("-c", "1"), url=pgbouncer.url(name), directory=tmp_path)
    try:
        assert worker.wait(30) == 1
        assert '{"POOLED": True}' in worker.output
        assert "Traceback" not in worker.output
    finally:
        worker.stop()


# --- the project's own connections ----------------------------------------------------------------


@pytest.fixture
def through_pgbouncer(pgbouncer: PgBouncer, name: str) -> Iterator[None]:
    """Point the test's own Django connection at PgBouncer."""
    connection.close()
    changes = {
        **environ.Env.db_url_config(pgbouncer.url(name)),
        "DISABLE_SERVER_SIDE_CURSORS": True,
        "OPTIONS": {},
    }
    with mock.patch.dict(connection.settings_dict, changes):
        yield
        connection.close()


@pytest.mark.usefixtures("through_pgbouncer")
def test_a_web_process_behind_pgbouncer_enqueues_in_every_way(name: str) -> None:
    listener = psycopg.connect(  # around it, as LISTEN_DSN leads
        dbname=name, **direct_address(), autocommit=True
    )
    with listener:
        listener.execute("LISTEN django_taskq")
        with transaction.atomic():
            one = tasks.add.enqueue(1, 2)
            many = tasks.add.enqueue_many([(i, i) for i in range(2500)])
        heard = list(listener.notifies(timeout=10, stop_after=1))
        assert [hint.payload for hint in heard] == [""]
        hints._last.clear()  # the next one is due at once
        alone = tasks.add.enqueue(5, 6)
        heard = list(listener.notifies(timeout=10, stop_after=1))
        assert [hint.payload for hint in heard] == [""]
    with pytest.raises(IntegrityError):
        enqueue.enqueue_alone("default", settled(), enqueue.NewRow(TaskId(alone.id), "[]", "{}"))
    assert connection.connection.info.transaction_status == TransactionStatus.IDLE
    assert alone.cancel() is True
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        tasks.add.enqueue(3, 4)
        _ = 1 / 0
    assert LiveTask.objects.count() == 2501
    assert len(list(LiveTask.objects.iterator(chunk_size=100))) == 2501
    one.refresh()
    assert one.status == "READY"
    assert many[2499].cancel() is True
    assert LiveTask.objects.count() == 2500


def direct_address() -> dict[str, Any]:
    """Return where the server is behind PgBouncer."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT split_part(current_setting('unix_socket_directories'), ',', 1), "
            "current_setting('port'), current_user"
        )
        host, port, user = cursor.fetchone()
    return {"host": host, "port": port, "user": user}
