"""What each role of the guide may do, and what it may not. The SQL is read from the page."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connection, transaction

from django_taskq import control, hints
from django_taskq.backend import TaskqBackend
from django_taskq.models import FinishedTask
from django_taskq.transitions.enqueue import COPY, ENQUEUE
from tests.docs.markdown import steps
from tests.processes import tasks
from tests.processes.conftest import Starter, starter
from tests.processes.support import Gate, Ledger, wait_until
from tests.security.roles import PAGE, Roles, made
from tests.support.databases import migrate

LIVE, DONE, WORKERS = "django_taskq_livetask", "django_taskq_finishedtask", "django_taskq_worker"


@pytest.fixture(scope="module")
def roles(server_url: str, django_db_blocker: pytest.FixtureRequest) -> Iterator[Roles]:
    with made(server_url) as there, django_db_blocker.unblock():  # type: ignore[attr-defined]
        yield there


@pytest.fixture
def _empty(roles: Roles) -> None:
    with psycopg.connect(roles.url, autocommit=True) as admin:
        admin.execute(f"TRUNCATE {LIVE}, {DONE}, {WORKERS}, auth_group CASCADE")


needs_empty_tables = pytest.mark.usefixtures("_empty")


@pytest.fixture
def start(roles: Roles, _empty: None, tmp_path: Path) -> Iterator[Starter]:
    """Start workers that connect as the page's worker."""
    # What looks for its processes, and stops it, reads the table of workers.
    with roles.acting_as("results"), starter(roles.url_of("worker"), tmp_path) as start_one:
        yield start_one


def test_each_block_of_the_page_was_run(roles: Roles) -> None:
    assert roles.ran == [step for step in steps(PAGE) if step.language == "sql"]


def test_no_role_is_above_others(roles: Roles) -> None:
    with psycopg.connect(roles.url) as admin:
        found = admin.execute(
            "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s) AND (rolsuper OR "
            "rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)",
            [roles.prefix],
        ).fetchall()
        public = admin.execute(
            "SELECT has_schema_privilege('public', 'public', 'CREATE'), "
            "has_function_privilege('public', 'django_taskq_new_id()', 'EXECUTE')"
        ).fetchone()
    assert found == []
    assert public == (False, False)


# --- may not --------------------------------------------------------------------------------------

INSERTS = f"INSERT INTO {LIVE} (task) VALUES ('x')"
EVERYBODY = [
    f"TRUNCATE {LIVE}",
    f"DROP TABLE {LIVE}",
    f"ALTER TABLE {LIVE} DISABLE TRIGGER ALL",
    f"CREATE INDEX ON {LIVE} (task)",
    "CREATE TABLE public.mine ()",
    "CREATE FUNCTION public.clock_timestamp() RETURNS int LANGUAGE sql RETURN 1",
    "CREATE OR REPLACE FUNCTION django_taskq_new_id() RETURNS uuid LANGUAGE sql RETURN NULL",
    f"CREATE RULE r AS ON INSERT TO {LIVE} DO NOTHING",
    f"CREATE TRIGGER t BEFORE UPDATE ON {LIVE} FOR EACH ROW "
    "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "SELECT pg_read_file('/etc/passwd')",
    "COPY (SELECT 1) TO PROGRAM 'true'",
]
WRITES = [
    INSERTS,
    f"UPDATE {LIVE} SET priority = 1",
    f"DELETE FROM {LIVE}",
    f"INSERT INTO {DONE} (task, status) VALUES ('x', 'FAILED')",
    f"UPDATE {DONE} SET return_value = NULL",
    f"DELETE FROM {DONE}",
    f"INSERT INTO {WORKERS} (id, kind, host, pid) VALUES (gen_random_uuid(), 'CHILD', 'x', 1)",
    f"UPDATE {WORKERS} SET beat = 1",
    f"DELETE FROM {WORKERS}",
]
# Statements of the whole row would say that it lacks the right on something else.
READS_ALL = [f"SELECT args FROM {LIVE}", f"SELECT return_value FROM {DONE}"]
REFUSED: dict[str, list[str]] = {
    "web": [
        *READS_ALL,
        *WRITES[1:],
        f"SELECT task FROM {LIVE}",
        f"SELECT * FROM {DONE}",
        f"SELECT * FROM {WORKERS}",
        "SELECT * FROM django_taskq_overview",
        f"INSERT INTO {LIVE} (task, status, held_for) VALUES ('x', 'HELD', 'me')",
        f"INSERT INTO {LIVE} (task, attempts) VALUES ('x', 5)",
        f"INSERT INTO {LIVE} (task, crashes) VALUES ('x', 2)",
        f"INSERT INTO {LIVE} (task, errors) VALUES ('x', '[]')",
        f"INSERT INTO {LIVE} (task, has_successors) VALUES ('x', true)",
        f"{INSERTS} RETURNING task",
        f"SELECT id FROM {LIVE} FOR UPDATE",
    ],
    "results": [*WRITES[1:], f"SELECT id FROM {LIVE} FOR UPDATE"],
    "support": [
        f"UPDATE {LIVE} SET args = '[]'",
        f"UPDATE {LIVE} SET claim = gen_random_uuid()",
        f"UPDATE {DONE} SET args = '[]'",
        *WRITES[6:],
    ],
    "dashboard": [
        *WRITES,
        *READS_ALL,
        *(f"SELECT {column} FROM {LIVE}" for column in ("kwargs", "errors", "headers", "options")),
        *(f"SELECT {column} FROM {DONE}" for column in ("args", "errors", "progress")),
    ],
    "worker": ["SELECT * FROM auth_user", "DELETE FROM django_migrations"],
}


@pytest.mark.parametrize("login", REFUSED)
def test_what_a_role_may_not_do_is_refused(roles: Roles, login: str) -> None:
    with psycopg.connect(roles.url_of(login), autocommit=True) as who:
        for statement in [*REFUSED[login], *EVERYBODY]:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                who.execute(statement)
                pytest.fail(f"{login} may do this: {statement}")


# --- may ------------------------------------------------------------------------------------------


@needs_empty_tables
def test_an_enqueuer_enqueues_in_every_way_and_reads_nothing(roles: Roles) -> None:
    with roles.acting_as("web"):
        with transaction.atomic():
            one = tasks.add.enqueue(1, 2)
        later = tasks.add.using(run_after=60, expires_after=60, timeout=5).enqueue(1, 2)
        many = tasks.add.enqueue_many([(n, n) for n in range(2_500)])
        many_later = tasks.add.using(run_after=60, expires_after=9).enqueue_many([(1, 1)])
        assert len({one.id, later.id, many[0].id, many[-1].id, many_later[0].id}) == 5
        for read in (one.refresh, lambda: one.wait(timeout=1), one.cancel, one.retry):
            with pytest.raises(ProgrammingError, match="permission denied"):
                read()
    assert "COPY" in COPY and "INSERT" in ENQUEUE


@needs_empty_tables
def test_an_enqueuer_whose_hint_is_refused_has_enqueued(
    roles: Roles, caplog: pytest.LogCaptureFixture
) -> None:
    with psycopg.connect(roles.url, autocommit=True) as owner:
        owner.execute("CREATE SCHEMA refusing")
        owner.execute(
            "CREATE FUNCTION refusing.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no'; END $$"
        )
        owner.execute(f"GRANT USAGE ON SCHEMA refusing TO {roles.name('shop_web')}")
        owner.execute(f"GRANT EXECUTE ON FUNCTION refusing.pg_notify TO {roles.name('shop_web')}")
        try:
            with roles.acting_as("web"), connection.cursor() as cursor:
                cursor.execute("SET search_path = refusing, pg_catalog, public")
                hints._last.clear()
                result = tasks.add.enqueue(1, 2)
        finally:
            owner.execute("DROP SCHEMA refusing CASCADE")
    assert result.enqueued_at is not None
    assert "No hint could be sent" in caplog.text


def test_plain_sql_enqueues_too(roles: Roles) -> None:
    page = PAGE.parent / "plain-sql-insert.md"
    plain, full, *_ = [step for step in steps(page) if step.language == "sql"]
    with psycopg.connect(roles.url_of("web"), autocommit=True) as who:
        assert who.execute(plain.code).fetchone()
        who.execute(full.code)


@needs_empty_tables
def test_a_viewer_looks_without_arguments(roles: Roles, capsys: pytest.CaptureFixture[str]) -> None:
    with roles.acting_as("web"):
        tasks.add.enqueue(31337, 2)
    with roles.acting_as("dashboard") as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT task, status, last_error FROM django_taskq_overview")
            assert cursor.fetchall() == [("tests.processes.tasks.add", "READY", None)]
            cursor.execute("SELECT * FROM django_taskq_overview")
            assert "31337" not in str(cursor.fetchall())
        call_command("taskqueue", "status")
        assert "default" in capsys.readouterr().out
        assert not control.health().is_healthy
        assert control.workers() == []
        found = {finding.id for finding in control.diagnose(watch=0)}
        assert "no-worker" in found or "no-workers" in found
        for words in (["list"], ["show", "0"]):
            with pytest.raises(CommandError, match="permission denied"):
                call_command("taskqueue", *words)


@needs_empty_tables
def test_a_reader_reads_results_and_changes_nothing(roles: Roles) -> None:
    with roles.acting_as("results"):
        result = tasks.add.enqueue(1, 2)
        again = TaskqBackend("default", {}).get_result(result.id)
        assert again.args == [1, 2]
        assert control.show(result.id).args == [1, 2]
        assert len(control.list_tasks().tasks) == 1
        with pytest.raises(ProgrammingError, match="permission denied"):
            result.cancel()


@needs_empty_tables
def test_an_operator_cancels_retries_and_prunes(roles: Roles) -> None:
    with roles.acting_as("web"):
        one, *_ = [tasks.add.enqueue(n, n) for n in range(3)]
    with roles.acting_as("support"):
        assert control.cancel([one.id]).count == 1
        assert control.cancel_all(task="*.add").count == 2
        assert control.retry([one.id]).count == 1
        assert control.retry_all(status="CANCELLED").count == 2
        one.refresh()
        assert one.cancel() and one.retry() and one.cancel()
        control.cancel_all()
        assert control.prune(older_than=0) == 3


@pytest.mark.slow
def test_a_migrator_undoes_and_repeats_the_migrations(server_url: str) -> None:
    with made(server_url) as roles:
        with psycopg.connect(roles.url, autocommit=True) as admin:
            admin.execute("DROP VIEW django_taskq_overview")
        migrate(roles.url_of("deploy"), "django_taskq", "zero")
        migrate(roles.url_of("deploy"))


# --- a real worker --------------------------------------------------------------------------------


def grant_what_tasks_need(roles: Roles) -> None:
    """Give the worker rights on the tables of the project, as its tasks need them."""
    worker = roles.name("shop_worker")
    with psycopg.connect(roles.url, autocommit=True) as admin:
        admin.execute(f"GRANT SELECT, INSERT ON auth_group TO {worker}")
        admin.execute(f"GRANT USAGE ON SEQUENCE auth_group_id_seq TO {worker}")


@pytest.mark.slow
def test_a_worker_does_everything_under_its_role(
    roles: Roles, start: Starter, tmp_path: Path
) -> None:
    grant_what_tasks_need(roles)
    ledger, gate = Ledger(tmp_path / "ledger"), Gate(tmp_path / "gate")
    with roles.acting_as("web"):
        plain = tasks.add.enqueue_many([(n, 1) for n in range(300)])
        retried = tasks.fail_until.enqueue(ledger.path, 2)
        failed = tasks.fail.enqueue("no")
        atomic = [tasks.write_and_enqueue.enqueue(ledger.path, f"a{n}") for n in range(10)]
        dies = tasks.die.enqueue(str(tmp_path / "dies"), times=1)
        waits = tasks.report.enqueue(gate.path)
        unstorable = tasks.unstorable_text.enqueue()
    with roles.acting_as("results"):
        worker = start(children=2)
        gate.open()
        assert [result.wait(timeout=60) for result in plain] == [n + 1 for n in range(300)]
        assert retried.wait(timeout=60) == 2
        assert [result.wait(timeout=60) for result in atomic] == [f"a{n}" for n in range(10)]
        assert dies.wait(timeout=60) == "survived"
        assert waits.wait(timeout=60) == "done"
        for result in (failed, unstorable):
            wait_until(lambda result=result: result.refresh() or result.is_finished)  # type: ignore[misc]
            assert result.row_status == "FAILED"
        assert FinishedTask.objects.get(pk=dies.id).crashes == 1

        # A child is killed with tasks in its hands, and the others go on.
        gate = Gate(tmp_path / "gate2")
        held = tasks.note.enqueue(ledger.path, "held", gate=gate.path)
        os.kill(ledger.start_of("held").pid, signal.SIGKILL)
        gate.open()
        held.wait(timeout=60)

    with roles.acting_as("support"):
        runs = tasks.fail.enqueue("again")
        wait_until(lambda: FinishedTask.objects.filter(pk=runs.id).exists())
        assert control.retry([runs.id]).count == 1
        wait_until(lambda: FinishedTask.objects.filter(pk=runs.id).exists())
    worker.send(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert "permission denied" not in worker.output, worker.output
    with roles.acting_as("results"):
        assert control.workers() == []
    with psycopg.connect(roles.url) as admin:
        [count] = admin.execute("SELECT count(*) FROM auth_group").fetchone() or [0]
        assert count == 10
    assert Group._meta.db_table == "auth_group"


@pytest.mark.slow
def test_a_worker_deletes_what_is_old_under_its_role(
    roles: Roles, start: Starter, tmp_path: Path
) -> None:
    (tmp_path / "forgetful.py").write_text(
        "from tests.processes.settings import *\nDJANGO_TASKQ = {'RETENTION': 0}\n"
    )
    with psycopg.connect(roles.url, autocommit=True) as admin:
        admin.execute(
            f"INSERT INTO {DONE} (task, status, finished_at) SELECT 'x', 'SUCCESSFUL', "
            "now() - interval '1 day' FROM generate_series(1, 2500)"
        )
    with roles.acting_as("results"):
        start(children=1, settings="forgetful")
        wait_until(lambda: not FinishedTask.objects.exists(), what="old tasks are deleted")
