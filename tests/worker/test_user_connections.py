"""The connections that tasks open are kept between tasks, and nothing else is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from django.db import OperationalError, connection, transaction
from django.db.backends.signals import connection_created

from django_taskq import db
from django_taskq.db import Connection
from django_taskq.worker import user_connections
from django_taskq.worker.user_connections import UserConnections
from tests.support import rows

SELECT_PID = "SELECT pg_backend_pid()"


@pytest.fixture
def kept(transactional_db: None) -> Iterator[UserConnections]:
    """Return what a worker keeps, before any task has opened a connection."""
    connection.close()
    kept = UserConnections(max_age=1000.0)
    yield kept
    kept.close()
    connection_created.disconnect(kept._note)


@pytest.fixture
def watcher(transactional_db: None) -> Iterator[Connection]:
    with db.worker_connection("default", name="test watcher") as opened:
        yield opened


def backend() -> int:
    """Return the process that serves the connection of a task."""
    with connection.cursor() as cursor:
        cursor.execute(SELECT_PID)
        return int(cursor.fetchone()[0])


def tasks_in_the_table(watcher: Connection) -> int:
    return len(watcher.execute("SELECT FROM django_taskq_livetask").fetchall())


def add_task() -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO django_taskq_livetask (task) VALUES ('x')")


def test_the_next_task_gets_the_same_connection(kept: UserConnections) -> None:
    first = backend()

    kept.clean()

    assert backend() == first


def test_a_connection_that_a_task_used_in_a_transaction_is_kept(kept: UserConnections) -> None:
    with transaction.atomic():
        first = backend()

    kept.clean()

    assert backend() == first


def test_what_a_task_left_open_is_rolled_back(kept: UserConnections, watcher: Connection) -> None:
    connection.set_autocommit(False)
    add_task()

    kept.clean()

    assert connection.get_autocommit() is True
    add_task()
    assert tasks_in_the_table(watcher) == 1


def test_an_atomic_block_that_a_task_never_left_is_rolled_back(
    kept: UserConnections, watcher: Connection
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    block = transaction.atomic()
    block.__enter__()
    add_task()

    kept.clean()

    assert not connection.in_atomic_block
    with transaction.atomic():
        add_task()
    assert tasks_in_the_table(watcher) == 1


def test_a_raw_begin_of_a_task_is_rolled_back(kept: UserConnections, watcher: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
    add_task()

    kept.clean()

    add_task()
    assert tasks_in_the_table(watcher) == 1


def test_a_lock_that_a_task_left_behind_is_let_go(
    kept: UserConnections, watcher: Connection
) -> None:
    id = rows.add(watcher)
    connection.set_autocommit(False)
    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM django_taskq_livetask WHERE id = %s FOR UPDATE", [id])

    kept.clean()

    watcher.execute("UPDATE django_taskq_livetask SET priority = 1 WHERE id = %s", [id])


def test_a_broken_connection_is_replaced(kept: UserConnections, watcher: Connection) -> None:
    first = backend()
    watcher.execute("SELECT pg_terminate_backend(%s, 10000)", [first])
    with pytest.raises(OperationalError):
        backend()

    kept.clean()

    assert backend() != first


def test_a_connection_that_broke_inside_a_transaction_is_replaced(
    kept: UserConnections, watcher: Connection
) -> None:
    with pytest.raises(OperationalError), transaction.atomic():
        first = backend()
        watcher.execute("SELECT pg_terminate_backend(%s, 10000)", [first])
        backend()

    kept.clean()

    assert backend() != first


def test_hooks_that_never_ran_do_not_run_after_another_tasks_commit(
    kept: UserConnections,
) -> None:
    ran: list[str] = []
    block = transaction.atomic()
    block.__enter__()
    transaction.on_commit(lambda: ran.append("the first task's"))

    kept.clean()

    with transaction.atomic():
        transaction.on_commit(lambda: ran.append("the second task's"))
    assert ran == ["the second task's"]


def test_queries_of_one_task_are_not_logged_for_the_next(kept: UserConnections) -> None:
    connection.force_debug_cursor = True
    try:
        backend()
        assert connection.queries_log

        kept.clean()

        assert not connection.queries_log
    finally:
        connection.force_debug_cursor = False


def test_an_old_connection_is_replaced(
    kept: UserConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(user_connections, "time", SimpleNamespace(monotonic=lambda: now[0]))
    first = backend()

    now[0] += 999
    kept.clean()
    assert backend() == first

    now[0] += 2
    kept.clean()
    assert backend() != first


def test_an_idle_worker_holds_no_connection(kept: UserConnections, watcher: Connection) -> None:
    first = backend()

    kept.close()

    assert connection.connection is None
    still_there = watcher.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND state = 'active'", [first]
    ).fetchone()
    assert still_there == (0,)
    assert backend() != first


def test_connections_of_other_threads_are_left_alone(kept: UserConnections) -> None:
    found: list[bool] = []

    def elsewhere() -> None:
        backend()
        kept.clean()
        kept.close()
        found.append(connection.connection is not None)
        connection.close()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()

    assert found == [True]


@pytest.mark.parametrize("when", ["after a task that has failed", "before a batch", "when idle"])
def test_a_connection_of_which_no_signal_told_is_replaced_when_it_breaks(
    kept: UserConnections, watcher: Connection, when: str
) -> None:
    def fail_first(**kwargs: object) -> None:
        connection_created.disconnect(fail_first)
        raise OperationalError("the database went away just then")

    connection_created.disconnect(kept._note)
    connection_created.connect(fail_first)
    connection_created.connect(kept._note)
    with pytest.raises(OperationalError, match="just then"):
        backend()
    first = connection.connection.info.backend_pid  # it is there all the same
    watcher.execute("SELECT pg_terminate_backend(%s, 10000)", [first])
    with pytest.raises(OperationalError):
        backend()

    match when:
        case "before a batch":
            kept.drop_dead()
        case "when idle":
            kept.close()
        case _:
            kept.clean(look=True)

    assert backend() != first
