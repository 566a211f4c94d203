"""The hint after a commit: listening workers look at once. It may be lost, it never hurts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext

from django_taskq import hints
from django_taskq.models import LiveTask
from django_taskq.transitions import enqueue as transition
from tests import tasks
from tests.rows import second_connection

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
@pytest.mark.parametrize("inside", [True, False])
def test_a_hint_that_cannot_be_sent_is_logged_and_the_task_is_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, inside: bool
) -> None:
    def refuse(alias: str) -> None:
        raise DatabaseError("NOTIFY queue is full")

    monkeypatch.setattr(hints.enqueue, "hint", refuse)
    if inside:
        with transaction.atomic():
            result = tasks.add.enqueue(1)
    else:
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
    tasks.add.enqueue(2)
    assert later == ["still runs"]
    assert LiveTask.objects.count() == 2


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
