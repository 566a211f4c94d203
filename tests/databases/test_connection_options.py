"""What projects say in DATABASES about their connections holds for workers, too."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import pytest
from django.db import close_old_connections, connection, transaction
from django.test import override_settings
from psycopg.conninfo import conninfo_to_dict

from django_taskq import db
from django_taskq.models import FinishedTask, LiveTask
from example_project import embedded_postgres
from tests.processes import tasks
from tests.processes.servers import PrivateServer
from tests.processes.support import Ledger, TaskWorker, sql, statuses, wait_until
from tests.support.databases import migrate

pytestmark = pytest.mark.slow

Starter = Callable[..., TaskWorker]


@pytest.fixture
def start_with(tmp_path: Path) -> Iterator[Starter]:
    """Start workers with other options in DATABASES."""
    with ExitStack() as running:

        def start_one(
            *arguments: str,
            url: str,
            options: dict[str, Any],
            children: int = 2,
            **environment: str,
        ) -> TaskWorker:
            worker = TaskWorker(
                ("-c", str(children), *arguments),
                url=url,
                directory=tmp_path,
                settings="tests.databases.settings",
                environment={"DATABASE_OPTIONS": json.dumps(options), **environment},
            )
            running.callback(worker.stop)
            if "--burst" not in arguments:
                worker.wait_until_ready(children)
            return worker

        yield start_one


# --- Django's pool --------------------------------------------------------------------------------


@pytest.fixture
def pool(database: str) -> Iterator[None]:
    """Let Django's connections of this process come from a pool of two."""
    pytest.importorskip("psycopg_pool")
    connection.close()
    options = {**connection.settings_dict["OPTIONS"], "pool": {"min_size": 1, "max_size": 2}}
    with mock.patch.dict(connection.settings_dict, {"OPTIONS": options}):
        yield
        connection.close()
        connection.close_pool()


@pytest.mark.usefixtures("pool")
def test_a_web_process_enqueues_on_pooled_connections(database: str) -> None:
    def request(number: int) -> None:
        try:
            with transaction.atomic():
                tasks.add.enqueue(number, 1)
                tasks.add.enqueue_many([(number, i) for i in range(10)])
                if number % 5 == 0:
                    transaction.set_rollback(True)
        finally:
            close_old_connections()  # as after each request: back into the pool

    with psycopg.connect(database, autocommit=True) as listener:
        listener.execute("LISTEN django_taskq")
        with ThreadPoolExecutor(8) as requests:
            list(requests.map(request, range(40)))
        hints = list(listener.notifies(timeout=10, stop_after=1))
    assert hints, "no hint after the commits"
    assert LiveTask.objects.count() == 32 * 11
    ((count,),) = sql(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND backend_type = 'client backend'"
    )
    assert count <= 2


def test_workers_hold_plain_connections_where_the_project_has_a_pool(
    database: str, start_with: Starter
) -> None:
    pytest.importorskip("psycopg_pool")
    worker = start_with(url=database, options={"pool": True, "application_name": "a task"})
    for result in [tasks.write_group.enqueue(f"group {i}") for i in range(30)]:
        result.wait(timeout=30)
    rows = sql(
        "SELECT application_name, count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend' GROUP BY 1"
    )
    held = dict(rows)
    named = {"taskworker": 1, "taskworker child 0": 1, "taskworker child 1": 1}
    assert {name: held.pop(name) for name in named} == named
    # One per child that has run some, where a pool would hold four.
    assert 1 <= held["a task"] <= 2, rows
    assert "Traceback" not in worker.output


# --- who connects ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def private_server() -> Iterator[PrivateServer]:
    """Yield a server whose roles and passwords may be changed."""
    with embedded_postgres.serve(fast=True) as url:
        migrate(url)
        server = PrivateServer(url)
        rules = Path(server.data) / "pg_hba.conf"
        rules.write_text(f"local all rotating scram-sha-256\n{rules.read_text()}")
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute("SELECT pg_reload_conf()")
            admin.execute("CREATE ROLE owner NOLOGIN")
            admin.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO owner")
            admin.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO owner")
            admin.execute("CREATE ROLE visitor LOGIN NOINHERIT IN ROLE owner")
            admin.execute("CREATE ROLE rotating LOGIN PASSWORD 'first' IN ROLE owner")
        yield server


@pytest.fixture
def private_database(private_server: PrivateServer, use_database: Any) -> Iterator[str]:
    with use_database(private_server.url):
        yield private_server.url


def as_role(url: str, role: str) -> str:
    """Return the URL with another user."""
    user = conninfo_to_dict(url)["user"]
    assert f"//{user}@" in url
    return url.replace(f"//{user}@", f"//{role}@")


def test_a_worker_assumes_the_role_that_the_project_names(
    private_database: str, start_with: Starter, ledger: Ledger
) -> None:
    url = as_role(private_database, "visitor")
    with psycopg.connect(url) as visitor, pytest.raises(psycopg.errors.InsufficientPrivilege):
        visitor.execute("SELECT * FROM django_taskq_livetask")
    start_with(options={"assume_role": "owner"}, url=url)
    assert tasks.fail_until.enqueue(ledger.path, 2).wait(timeout=30) == 2
    assert tasks.write_group.enqueue("by the owner").wait(timeout=30) > 0
    assert statuses() == {}


def test_a_worker_goes_on_with_a_new_password(
    private_database: str, start_with: Starter, ledger: Ledger, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("first")
    url = as_role(private_database, "rotating")
    worker = start_with(
        options={},
        url=url,
        DATABASE_ENGINE="tests.databases.rotating",
        PASSWORD_FILE=str(password),
    )
    assert tasks.write_group.enqueue("before").wait(timeout=30) > 0
    results = tasks.note.enqueue_many([(ledger.path, f"n{i}", 0.003) for i in range(500)])
    wait_until(lambda: len(ledger.starts()) > 50)
    password.write_text("second")
    sql("ALTER ROLE rotating PASSWORD 'second'")
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotating'")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url, password="first")
    for result in results:
        result.wait(timeout=60)
    assert tasks.write_group.enqueue("after").wait(timeout=30) > 0
    assert statuses() == {}
    assert FinishedTask.objects.filter(crashes__gt=0).count() == 0
    assert "password authentication failed" not in worker.output


def test_a_worker_finds_its_server_by_service_and_password_file(
    private_database: str, start_with: Starter, tmp_path: Path
) -> None:
    sql("ALTER ROLE rotating PASSWORD 'kept in a file'")
    server = conninfo_to_dict(private_database)
    where = f"host={server['host']}\nport={server.get('port') or 5432}\ndbname={server['dbname']}"
    services = tmp_path / "services.conf"
    services.write_text(f"[tasks]\n{where}\nuser=rotating\n")
    passwords = tmp_path / "pgpass"
    passwords.write_text("*:*:*:rotating:kept in a file\n")
    passwords.chmod(0o600)
    results = tasks.add.enqueue_many([(i, 1) for i in range(5)])
    worker = start_with(
        "--burst",
        options={"service": "tasks", "passfile": str(passwords)},
        url="postgresql://",
        PGSERVICEFILE=str(services),
    )
    assert worker.wait(60) == 0
    assert [result.wait(timeout=5) for result in results] == [1, 2, 3, 4, 5]


def test_a_worker_insists_on_tls_where_the_project_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def refuse_tls(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            asked.append(client.recv(8))
            client.sendall(b"N")

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=refuse_tls, args=[server])
        thread.start()
        host, port = server.getsockname()
        for key, value in {
            "HOST": host,
            "PORT": str(port),
            "OPTIONS": {"sslmode": "require"},
        }.items():
            monkeypatch.setitem(connection.settings_dict, key, value)
        with (
            override_settings(DJANGO_TASKQ={}),
            pytest.raises(psycopg.OperationalError, match="SSL"),
        ):
            db.worker_connection("default", name="test")
        thread.join()
    # The code by which a client asks for TLS before all else.
    assert asked == [(8).to_bytes(4) + (80877103).to_bytes(4)]
