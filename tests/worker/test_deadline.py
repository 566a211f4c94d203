"""A database that does not answer is noticed: no statement of a worker waits for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock
from uuid import uuid4

import psycopg
import pytest
from django.db import connections
from django.test import override_settings

from django_taskq import conf, db, deadline
from django_taskq.deadline import NoAnswer, WorkerConnection
from django_taskq.transitions import enqueue
from django_taskq.worker.listener import Listener
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.supervisor import Supervisor
from tests.races.feeding import Child

OPTIONS = WorkerOptions(database="default")

pytestmark = pytest.mark.django_db


@pytest.fixture(params=[False, True], ids=["direct", "pooled"])
def settings_of_pooler(request: pytest.FixtureRequest) -> Any:
    with override_settings(DJANGO_TASKQ={"POOLED": request.param}):
        assert conf.get().pooled is request.param
        yield


def hurried() -> db.Connection:
    return db.worker_connection("default", name="test", answer_within=0.3)


def statement(connection: db.Connection) -> None:
    connection.execute("SELECT pg_sleep(20)")


def pipeline(connection: db.Connection) -> None:
    with connection.pipeline():
        connection.execute("SELECT 1")
        connection.execute("SELECT pg_sleep(20)")
        connection.execute("SELECT 1")


def transaction(connection: db.Connection) -> None:
    with connection.transaction():
        connection.execute("SELECT pg_sleep(20)")


@pytest.mark.parametrize("send", [statement, pipeline, transaction])
def test_an_answer_that_does_not_come_ends_the_connection(
    settings_of_pooler: None, send: Any
) -> None:
    connection = hurried()
    pid = connection.info.backend_pid
    began = time.monotonic()

    with pytest.raises(NoAnswer, match="no answer within"):
        send(connection)

    assert 0.3 <= time.monotonic() - began < 5
    assert connection.closed
    assert issubclass(NoAnswer, db.Trouble)  # what every caller of a worker's statements expects
    with connections["default"].cursor() as cursor:  # nobody else ends what still sleeps there
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


@contextmanager
def of_a_supervisor() -> Iterator[db.Connection]:
    supervisor = Supervisor(OPTIONS, print)
    with supervisor._connect() as connection:
        yield connection
    supervisor.signals.restore()


@contextmanager
def of_a_listener() -> Iterator[db.Connection]:
    with hurried() as usual:
        address = f"host={usual.info.host} port={usual.info.port}"
    with override_settings(DJANGO_TASKQ={"LISTEN_DSN": address}):
        listener = Listener(OPTIONS, "somebody")
    listener._connect(time.monotonic())
    assert listener.connection is not None
    with listener.connection as connection:
        yield connection


@contextmanager
def of_a_feeder() -> Iterator[db.Connection]:
    child = Child(str(uuid4()), ())
    with child.feeder._connect() as connection:
        yield connection
    child.close()


@pytest.mark.parametrize(
    ("connect", "seconds"),
    # A supervisor that hears nothing for longer than two beats has not seen who is alive. A feeder
    # has time for a statement that the server itself ends, after 30 s.
    [(of_a_supervisor, 10), (of_a_listener, 10), (of_a_feeder, 45)],
)
def test_every_connection_of_a_worker_has_its_deadline(
    connect: Callable[[], AbstractContextManager[db.Connection]],
    seconds: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = time.monotonic
    with connect() as connection:
        pid = connection.info.backend_pid
        # On a clock that is a hundred times as fast.
        monkeypatch.setattr(deadline, "time", mock.Mock(monotonic=lambda: real() * 100))
        try:
            with pytest.raises(NoAnswer, match=f"no answer within {seconds} s"):
                statement(connection)
        finally:
            with connections["default"].cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        assert connection.closed


def test_the_probe_of_a_listener_has_the_deadline_of_a_supervisor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[float] = []
    monkeypatch.setattr(enqueue, "probe", lambda other, text: seen.append(other.answer_within))

    Listener(OPTIONS, "somebody")._send_probe(time.monotonic())

    assert seen == [10]


def test_a_statement_that_takes_too_long_is_ended_before_its_connection_is() -> None:
    with db.worker_connection("default", name="test") as connection:
        found = connection.execute("SHOW statement_timeout").fetchone()
        assert found == ("30s",)
        assert connection.answer_within > 30  # type: ignore[attr-defined]


def test_what_answers_in_time_is_left_alone(settings_of_pooler: None) -> None:
    with hurried() as connection:
        for _ in range(5):  # each answer has the time anew
            assert connection.execute("SELECT 1, pg_sleep(0.1)").fetchone() == (1, "")
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")
        assert not connection.closed


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        ({}, {}, 5),
        ({"connect_timeout": 60}, {}, 60),
        ({}, {"PGCONNECT_TIMEOUT": "7"}, None),
    ],
    ids=["ours", "the project's", "the environment's"],
)
def test_no_try_to_connect_lasts_for_ever(
    settings_of_pooler: None,
    options: dict[str, Any],
    environment: dict[str, str],
    expected: int | None,
) -> None:
    given: dict[str, Any] = {}

    def connect(**parameters: Any) -> None:
        given.update(parameters)
        raise psycopg.OperationalError("not today")

    wrapper = connections["default"]
    with (
        mock.patch.dict(wrapper.settings_dict["OPTIONS"], options),
        mock.patch.dict("os.environ", environment),
        mock.patch.object(WorkerConnection, "connect", connect),
        pytest.raises(psycopg.OperationalError, match="not today"),
    ):
        hurried()

    assert given.get("connect_timeout") == expected
