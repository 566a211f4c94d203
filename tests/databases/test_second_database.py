"""Tasks in a database of their own: a router, the admin, a worker, and what no longer holds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import environ
import psycopg
import pytest
from django.contrib.auth.models import Group, User
from django.db import connections, transaction
from django.test import Client, override_settings
from django.utils.connection import ConnectionDoesNotExist

from django_taskq.models import FinishedTask, LiveTask, Worker
from tests.processes import tasks
from tests.processes.support import Ledger, TaskWorker, wait_until
from tests.rows import OURS
from tests.support.databases import ROOT, empty_database, url_of

pytestmark = pytest.mark.slow

# As in two.py, the settings of the site and its worker.
ROUTERS = ["django_taskq.router.TaskqRouter"]
TASKS = {"default": {"BACKEND": OURS, "OPTIONS": {"DATABASE": "queue"}}}


def manage(*arguments: str, urls: tuple[str, str], fails: bool = False) -> str:
    """Run a command of the site with two databases; return what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "django", *arguments],
        env={
            **os.environ,
            "DATABASE_URL": urls[0],
            "QUEUE_DATABASE_URL": urls[1],
            "DJANGO_SETTINGS_MODULE": "tests.databases.two",
            "PYTHONPATH": str(ROOT),
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    said = done.stdout + done.stderr
    assert bool(done.returncode) == fails, said
    return said


def tables_in(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
    return {str(name) for (name,) in rows}


@pytest.fixture(scope="module")
def urls(server_url: str) -> Iterator[tuple[str, str]]:
    """Yield the URLs of the site's database and of that of the tasks, migrated as the page says."""
    with empty_database(server_url) as site, empty_database(server_url) as queue:
        both = url_of(server_url, site), url_of(server_url, queue)
        manage("migrate", "-v", "0", urls=both)
        manage("migrate", "django_taskq", "--database", "queue", "-v", "0", urls=both)
        yield both


@pytest.fixture
def site(
    urls: tuple[str, str], django_db_blocker: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Let the test's own process be such a site."""
    default = connections["default"]
    default.close()
    for key, value in environ.Env.db_url_config(urls[0]).items():
        monkeypatch.setitem(default.settings_dict, key, value)
    queue = {**default.settings_dict, **environ.Env.db_url_config(urls[1])}
    monkeypatch.setitem(connections.settings, "queue", queue)
    with (
        django_db_blocker.unblock(),
        override_settings(TASKS=TASKS, DATABASE_ROUTERS=ROUTERS),
    ):
        try:
            yield
        finally:
            with connections["queue"].cursor() as cursor:
                cursor.execute(
                    "TRUNCATE django_taskq_livetask, django_taskq_finishedtask, django_taskq_worker"
                )
            Group.objects.all().delete()
            User.objects.all().delete()
            for alias in ("default", "queue"):
                connections[alias].close()
            del connections["queue"]
    with pytest.raises(ConnectionDoesNotExist):
        monkeypatch.undo()
        _ = connections["queue"]


@pytest.fixture
def worker(site: None, urls: tuple[str, str], tmp_path: Path) -> Iterator[TaskWorker]:
    with ExitStack() as running:
        started = TaskWorker(
            ("-c", "2", "--database", "queue"),
            url=urls[0],
            directory=tmp_path,
            settings="tests.databases.two",
            environment={"QUEUE_DATABASE_URL": urls[1]},
        )
        running.callback(started.stop)
        started.wait_until_ready(2)
        yield started


def test_each_database_gets_its_own_tables_and_no_others(urls: tuple[str, str]) -> None:
    site, queue = map(tables_in, urls)
    assert not any(name.startswith("django_taskq") for name in site)
    assert {"auth_user", "django_admin_log", "django_session"} <= site
    assert {name for name in queue if not name.startswith("django_taskq")} == {"django_migrations"}
    assert {f"django_taskq_{name}" for name in ("livetask", "finishedtask", "worker")} <= queue


def test_nothing_is_left_to_migrate(urls: tuple[str, str]) -> None:
    manage("migrate", "--check", urls=urls)
    manage("migrate", "django_taskq", "--database", "queue", "--check", urls=urls)
    manage("makemigrations", "--check", "--dry-run", urls=urls)


def test_the_check_says_which_promise_does_not_hold(urls: tuple[str, str]) -> None:
    said = manage("check", "--fail-level", "WARNING", urls=urls, fails=True)
    assert "django_taskq.W010" in said
    assert 'in the database "queue", models in "default"' in said
    assert '"tests.processes.tasks.write_and_enqueue" is atomic' in said
    assert 'but not with what it writes to "default"' in said
    assert "W011" not in said


@pytest.mark.usefixtures("site")
def test_a_task_is_enqueued_whatever_becomes_of_the_sites_transaction() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Group.objects.create(name="undone")
        tasks.add.enqueue(1, 1)
        _ = 1 / 0
    assert not Group.objects.exists()
    assert LiveTask.objects.count() == 1


@pytest.mark.usefixtures("site")
def test_a_transaction_on_the_tasks_database_takes_its_tasks_back() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic(using="queue"):
        tasks.add.enqueue(1, 1)
        tasks.add.enqueue_many([(i, i) for i in range(10)])
        _ = 1 / 0
    assert LiveTask.objects.count() == 0


def test_a_worker_runs_tasks_that_write_to_the_site(worker: TaskWorker, ledger: Ledger) -> None:
    written = tasks.write_group.enqueue("by a task")
    retried = tasks.fail_until.enqueue(ledger.path, 2)
    chained = tasks.enqueue_more.enqueue(f"{ledger.path}.more", 3)
    cancelled = tasks.add.using(run_after=3600).enqueue(1, 2)
    atomic = tasks.write_and_enqueue.enqueue(f"{ledger.path}.atomic", "atomic")
    assert written.wait(timeout=30) > 0
    assert atomic.wait(timeout=30) == "atomic"
    assert retried.wait(timeout=30) == 2
    chained.wait(timeout=30)
    assert cancelled.cancel() is True
    assert Group.objects.filter(name="by a task").exists()
    wait_until(lambda: FinishedTask.objects.count() == 9)
    assert LiveTask.objects.count() == 0
    assert Worker.objects.count() == 3


def test_a_worker_finds_the_database_by_itself(
    site: None, urls: tuple[str, str], tmp_path: Path
) -> None:
    results = tasks.add.enqueue_many([(i, 1) for i in range(20)])
    worker = TaskWorker(
        ("-c", "1", "--burst"),
        url=urls[0],
        directory=tmp_path,
        settings="tests.databases.two",
        environment={"QUEUE_DATABASE_URL": urls[1]},
    )
    try:
        assert worker.wait(60) == 0
    finally:
        worker.stop()
    assert [result.wait(timeout=5) for result in results] == list(range(1, 21))


def test_a_worker_on_the_wrong_database_says_what_to_do(
    site: None, urls: tuple[str, str], tmp_path: Path
) -> None:
    worker = TaskWorker(
        ("-c", "1", "--database", "default"),
        url=urls[0],
        directory=tmp_path,
        settings="tests.databases.two",
        environment={"QUEUE_DATABASE_URL": urls[1]},
    )
    try:
        assert worker.wait(60) == 1
        assert (
            "'default' has no tables of django_taskq: TASKS keeps the tasks in queue."
            in worker.output
        )
    finally:
        worker.stop()


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("routers", [ROUTERS, []])
def test_the_admin_shows_the_tasks_of_the_other_database(routers: list[str]) -> None:
    result = tasks.add.enqueue(1, 1)
    Worker.objects.using("queue").create(
        id="00000000-0000-0000-0000-00000000002a", kind="SUPERVISOR", host="elsewhere", pid=1
    )
    User.objects.create_superuser("ann", password="secret")
    client = Client()
    assert client.login(username="ann", password="secret")
    with override_settings(DATABASE_ROUTERS=routers):
        page = client.get("/admin/django_taskq/livetask/")
        assert result.id in page.content.decode()
        page = client.get(f"/admin/django_taskq/livetask/{result.id}/change/")
        assert "tests.processes.tasks.add" in page.content.decode()
        assert "elsewhere" in client.get("/admin/django_taskq/worker/").content.decode()
        assert client.get("/admin/django_taskq/finishedtask/").status_code == 200
