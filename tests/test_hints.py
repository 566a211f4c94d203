"""The hint after a commit: listening workers look at once. It may be lost, it never hurts."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock
from uuid import uuid4

import psycopg
import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from psycopg.pq import TransactionStatus

from django_taskq import hints
from django_taskq.ids import TaskId
from django_taskq.models import FinishedTask, LiveTask
from django_taskq.transitions import enqueue as transition
from django_taskq.transitions.enqueue import NewRow
from tests import tasks
from tests.plans.cases import settled
from tests.rows import second_connection
from tests.support.waiting import until

CHANNEL = transition.CHANNEL


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(hints, "time", clock)
    monkeypatch.setattr(hints, "_last", {})
    return clock


@pytest.fixture
def listener(transactional_db: None) -> Iterator[psycopg.Connection[Any]]:
    with second_connection() as listening:
        listening.execute(f"LISTEN {CHANNEL}")
        yield listening


def heard(listener: psycopg.Connection[Any]) -> list[str]:
    """Return what has arrived; a notification of ours marks the end of what went before."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, 'end')", [CHANNEL])
    payloads: list[str] = []
    for notification in listener.notifies(timeout=30):
        if notification.payload == "end":
            return payloads
        payloads.append(notification.payload)
    raise AssertionError("the notification that marks the end did not arrive")


def test_a_listening_worker_hears_of_a_task(listener: Any) -> None:
    tasks.add.enqueue(1)
    assert heard(listener) == [""]


def test_it_hears_once_after_the_commit_and_not_before(listener: Any) -> None:
    with transaction.atomic():
        for number in range(10):
            tasks.add.enqueue(number)
        tasks.add.enqueue_many([(1,), (2,)])
        with second_connection() as other:
            other.execute("SELECT pg_notify(%s, 'before the commit')", [CHANNEL])
    assert heard(listener) == ["before the commit", ""]


def test_it_hears_nothing_of_what_was_rolled_back(listener: Any) -> None:
    with transaction.atomic():
        tasks.add.enqueue(1)
        transaction.set_rollback(True)
    with transaction.atomic():
        with transaction.atomic():
            tasks.add.enqueue(2)
            transaction.set_rollback(True)
        LiveTask.objects.exists()
    assert heard(listener) == []


def test_hints_of_one_process_are_5_ms_apart(listener: Any, clock: Clock) -> None:
    for _ in range(3):
        tasks.add.enqueue(1)
    clock.now += 0.0049
    tasks.add.enqueue(2)
    assert heard(listener) == [""]
    clock.now += 0.0002
    tasks.add.enqueue(3)
    tasks.add.enqueue(4)
    assert heard(listener) == [""]


def test_many_tasks_are_one_hint(listener: Any) -> None:
    tasks.add.enqueue_many([(number,) for number in range(100)])
    assert heard(listener) == [""]


@pytest.mark.django_db(transaction=True)
def test_a_hint_that_cannot_be_sent_is_logged_and_the_task_is_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(alias: str) -> None:
        raise DatabaseError("NOTIFY queue is full")

    monkeypatch.setattr(hints.enqueue, "hint", refuse)
    with transaction.atomic():
        result = tasks.add.enqueue(1)
    assert LiveTask.objects.filter(pk=result.id).exists()
    (record,) = [r for r in caplog.records if r.name.startswith("django_taskq")]
    assert record.levelno == logging.WARNING
    assert "NOTIFY queue is full" in record.getMessage()


@pytest.mark.django_db(transaction=True)
def test_even_an_unexpected_error_of_the_hint_does_not_reach_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def break_down(alias: str) -> None:
        raise RuntimeError("bug")

    later: list[str] = []
    monkeypatch.setattr(hints.enqueue, "hint", break_down)
    with transaction.atomic():
        tasks.add.enqueue(1)
        transaction.on_commit(lambda: later.append("still runs"))
    assert later == ["still runs"]
    assert LiveTask.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_the_hint_is_one_notify_without_content() -> None:
    with CaptureQueriesContext(connection) as seen:
        tasks.add.enqueue(1)
    sent = [query["sql"] for query in seen if "django_taskq:hint" in query["sql"]]
    assert len(sent) == 1
    assert f"pg_notify('{CHANNEL}', '')" in sent[0]


def test_in_a_transaction_opened_by_hand_no_hint_is_sent(listener: Any) -> None:
    transaction.set_autocommit(False)
    try:
        tasks.add.enqueue(1)
        transaction.commit()
    finally:
        transaction.set_autocommit(True)
    assert LiveTask.objects.count() == 1
    assert heard(listener) == []


# --- outside a transaction the task and its hint go to the server together ------------------------


@pytest.mark.django_db(transaction=True)
def test_outside_a_transaction_task_and_hint_are_one_trip(clock: Clock) -> None:
    with CaptureQueriesContext(connection) as seen:
        result = tasks.add.enqueue(1)
    (query,) = seen.captured_queries
    assert "django_taskq:enqueue" in query["sql"] and "django_taskq:hint" in query["sql"]
    row = LiveTask.objects.get(pk=result.id)
    assert (result.enqueued_at, result.run_after) == (row.enqueued_at, row.run_after)
    with CaptureQueriesContext(connection) as seen:
        tasks.add.using(run_after=60).enqueue(1)  # within 5 ms: no hint
    assert "django_taskq:hint" not in seen.captured_queries[0]["sql"]


@pytest.mark.parametrize("run_after", [None, 60])
def test_whatever_its_time_a_task_is_told_of(listener: Any, run_after: int | None) -> None:
    tasks.add.using(run_after=run_after).enqueue(1)
    assert heard(listener) == [""]


def test_in_a_transaction_begun_by_a_statement_of_the_caller_s_the_task_is_part_of_it(
    transactional_db: None,
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        tasks.add.enqueue(1)
        cursor.execute("ROLLBACK")
    assert not LiveTask.objects.exists()


def through_all_results(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
    """Do what a wrapper may do with a statement that it has changed."""
    result = execute(sql, params, many, context)
    while context["cursor"].nextset():
        pass
    return result


@contextmanager
def binding_on_the_server() -> Iterator[None]:
    connection.ensure_connection()
    with mock.patch.object(connection.connection, "cursor_factory", psycopg.Cursor):
        yield


@contextmanager
def in_a_pipeline() -> Iterator[None]:
    connection.ensure_connection()
    with connection.connection.pipeline():
        yield


SOMETHING_AROUND = {
    "execute_wrapper": lambda: connection.execute_wrapper(through_all_results),
    "cursor that binds on the server": binding_on_the_server,
    "pipeline": in_a_pipeline,
}


@pytest.mark.parametrize("around", SOMETHING_AROUND)
def test_where_several_statements_at_once_do_not_fit_they_are_sent_one_by_one(
    listener: Any, around: str
) -> None:
    with SOMETHING_AROUND[around](), CaptureQueriesContext(connection) as seen:
        result = tasks.add.enqueue(1)
    assert len(seen.captured_queries) == 2
    assert LiveTask.objects.get(pk=result.id).enqueued_at == result.enqueued_at
    assert heard(listener) == [""]


@pytest.mark.django_db(transaction=True)
def test_threads_that_enqueue_at_once_send_one_hint(
    listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = transition.enqueue_alone

    def in_the_middle(*args: Any) -> Any:
        tasks.add.enqueue(2)  # as another thread may, while this one waits for its answer
        return alone(*args)

    monkeypatch.setattr(transition, "enqueue_alone", in_the_middle)
    tasks.add.enqueue(1)
    assert LiveTask.objects.count() == 2
    assert heard(listener) == [""]


def test_a_task_that_was_refused_does_not_silence_the_next_one(
    listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = tasks.add.enqueue(1).id
    assert heard(listener) == [""]
    hints._last.clear()
    with monkeypatch.context() as same_id:
        same_id.setattr("django_taskq.backend.new_id", lambda: id)
        with pytest.raises(IntegrityError):
            tasks.add.enqueue(1)
    assert heard(listener) == []
    tasks.add.enqueue(1)
    assert heard(listener) == [""]


@pytest.mark.django_db(transaction=True)
def test_the_first_error_counts_when_the_connection_goes_on_the_way_out() -> None:
    id = tasks.add.enqueue(1).id
    with (
        mock.patch.object(connection.connection, "rollback", side_effect=psycopg.OperationalError),
        pytest.raises(IntegrityError),
    ):
        transition.enqueue_alone("default", settled(), NewRow(TaskId(id), "[]", "{}"))
    connection.close()


@pytest.mark.django_db(transaction=True)
def test_a_task_that_has_finished_before_its_hint_was_refused_is_found() -> None:
    id = str(uuid4())
    assert transition.find_enqueued("default", id) is None
    row = FinishedTask.objects.create(id=id, task="x", status="SUCCESSFUL")
    assert transition.find_enqueued("default", id) == (row.enqueued_at, row.run_after)


@pytest.mark.django_db(transaction=True)
def test_a_task_that_the_database_refuses_leaves_the_connection_as_it_was(listener: Any) -> None:
    id = tasks.add.enqueue(1).id
    with pytest.raises(IntegrityError):
        transition.enqueue_alone("default", settled(), NewRow(TaskId(id), "[]", "{}"))
    assert connection.connection.info.transaction_status == TransactionStatus.IDLE
    assert LiveTask.objects.count() == 1
    assert heard(listener) == [""]


@pytest.mark.django_db(transaction=True)
def test_a_task_whose_commit_fails_is_an_error_and_is_not_there() -> None:
    with (
        objects_of_mine(
            "CREATE CONSTRAINT TRIGGER mine AFTER INSERT ON django_taskq_livetask "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mine.refuse()",
            "DROP TRIGGER mine ON django_taskq_livetask",
        ),
        pytest.raises(DatabaseError, match="refused by a test"),
    ):
        tasks.add.enqueue(1)
    assert connection.connection.info.transaction_status == TransactionStatus.IDLE
    assert not LiveTask.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_hint_that_the_server_refuses_is_logged_and_the_task_is_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with objects_of_mine("SET search_path = mine, pg_catalog, public", "RESET search_path"):
        result = tasks.add.enqueue(1)
    row = LiveTask.objects.get(pk=result.id)
    assert result.enqueued_at == row.enqueued_at
    (record,) = [r for r in caplog.records if r.name.startswith("django_taskq")]
    assert record.levelno == logging.WARNING
    assert "refused by a test" in record.getMessage()


class TimeIsUp(BaseException):
    pass


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, TimeIsUp])
def test_a_caller_that_is_interrupted_hears_of_that_and_leaves_no_transaction_open(
    interruption: type[BaseException],
) -> None:
    def interrupt(*args: Any) -> None:
        raise interruption

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with second_connection() as other, other.transaction():
            other.execute("LOCK TABLE django_taskq_livetask IN ACCESS EXCLUSIVE MODE")
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(interruption):
                tasks.add.enqueue(1)
            if interruption is KeyboardInterrupt:  # it ends the statement, too
                assert connection.connection.info.transaction_status == TransactionStatus.IDLE
            connection.close()
    finally:
        signal.signal(signal.SIGALRM, before)
    until(lambda: not others_in_a_transaction(), "nobody is in a transaction")
    if interruption is KeyboardInterrupt:
        assert not LiveTask.objects.exists()


def others_in_a_transaction() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() "
            "AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"
        )
        return cursor.rowcount > 0


@contextmanager
def objects_of_mine(statement: str, undo: str) -> Iterator[None]:
    """Give a schema whose functions refuse, and run a statement that has them called."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA mine")
        for signature in ("refuse() RETURNS trigger", "pg_notify(text, text) RETURNS void"):
            cursor.execute(
                f"CREATE FUNCTION mine.{signature} LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'refused by a test'; END $$"
            )
        cursor.execute(statement)
        try:
            yield
        finally:
            cursor.execute(undo)
            cursor.execute("DROP SCHEMA mine CASCADE")
