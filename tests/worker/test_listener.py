"""Hints are heard, and a LISTEN that does not work is noticed."""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Iterator

import pytest
from django.db import connection as users_connection
from django.test import override_settings

from django_taskq import db
from django_taskq.transitions import enqueue
from django_taskq.worker.listener import Listener
from django_taskq.worker.options import WorkerOptions

OPTIONS = WorkerOptions(database="default")


@pytest.fixture
def connection(django_db_setup: None) -> Iterator[db.Connection]:
    with db.worker_connection("default", name="test listener") as opened:
        yield opened


@pytest.fixture
def hears(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="django_taskq.worker")
    return caplog


def arrived(connection: db.Connection | None) -> None:
    """Wait until something arrives."""
    assert connection is not None
    assert select.select([connection], [], [], 20)[0]


def test_our_own_notification_arrives_and_is_no_hint(connection: db.Connection) -> None:
    listener = Listener(OPTIONS, "somebody")
    listener.use(connection)
    listener.tend(time.monotonic())
    assert listener.wake_at() is not None
    arrived(listener.connection)
    assert listener.hear() is False
    assert listener.wake_at() is None


@pytest.mark.django_db(transaction=True)
def test_a_hint_is_heard(connection: db.Connection) -> None:
    listener = Listener(OPTIONS, "somebody")
    listener.use(connection)
    enqueue.hint("default")
    arrived(listener.connection)
    assert listener.hear() is True


def test_what_another_worker_sends_itself_wakes_nobody(connection: db.Connection) -> None:
    listener = Listener(OPTIONS, "somebody")
    listener.use(connection)
    with db.worker_connection("default", name="test other") as other:
        enqueue.probe(other, "probe:somebody else")
    arrived(listener.connection)
    assert listener.hear() is False


def test_silence_is_told_once(connection: db.Connection, hears: pytest.LogCaptureFixture) -> None:
    listener = Listener(OPTIONS, "somebody")
    listener.use(connection)
    connection.execute("UNLISTEN *")
    now = time.monotonic()
    listener.tend(now)
    late = listener.wake_at()
    assert late is not None
    listener.tend(late - 0.1)
    assert hears.messages == []
    listener.tend(late)
    listener.tend(late + 1)
    (message,) = hears.messages
    assert "LISTEN does not work" in message
    assert '"POOLED"' in message


@override_settings(DJANGO_TASKQ={"POOLED": True})
def test_behind_a_pooler_nobody_listens_in_vain(connection: db.Connection) -> None:
    listener = Listener(OPTIONS, "somebody")
    listener.use(connection)
    listener.tend(time.monotonic())
    assert listener.connection is None
    assert listener.wake_at() is None
    assert listener.hear() is False


def test_an_address_of_its_own_is_listened_at(
    connection: db.Connection, hears: pytest.LogCaptureFixture
) -> None:
    host = f"host={connection.info.host} port={connection.info.port}"
    with override_settings(DJANGO_TASKQ={"POOLED": True, "LISTEN_DSN": host}):
        listener = Listener(OPTIONS, "somebody")
        listener.use(connection)
        assert listener.connection is None
        listener.tend(time.monotonic())
        assert listener.connection not in (None, connection)
        assert listener.connection is not None
        assert listener.connection.info.dbname == users_connection.settings_dict["NAME"]
        arrived(listener.connection)
        assert listener.hear() is False
        # It breaks: that is no trouble of the supervisor's.
        connection.execute(
            "SELECT pg_terminate_backend(%s)", [listener.connection.info.backend_pid]
        )
        while listener.connection is not None:  # the reason arrives first, then the end
            arrived(listener.connection)
            assert listener.hear() is False
        again = listener.wake_at()
        assert again is not None
        listener.tend(again)
        assert listener.connection is not None
        listener.forget()
    assert [message.split()[0] for message in hears.messages] == ["Listening", "The", "Listening"]


@override_settings(DJANGO_TASKQ={"LISTEN_DSN": "host=127.0.0.1 port=1"})
def test_an_address_that_does_not_answer_is_tried_again_in_a_minute(
    hears: pytest.LogCaptureFixture,
) -> None:
    listener = Listener(OPTIONS, "somebody")
    now = time.monotonic()
    listener.tend(now)
    listener.tend(now + 30)
    assert len(hears.messages) == 1
    assert "No LISTEN at the address" in hears.text
    listener.tend(now + 61)
    assert len(hears.messages) == 2


@pytest.mark.django_db(transaction=True)
def test_a_hint_that_arrives_with_an_answer_to_something_else_is_heard(
    connection: db.Connection,
) -> None:
    listener = Listener(OPTIONS, "somebody")
    listener.use(connection)
    enqueue.hint("default")
    arrived(listener.connection)
    connection.execute("SELECT 1")  # takes what the socket held
    assert select.select([connection], [], [], 0)[0] == []
    assert listener.hear() is True
