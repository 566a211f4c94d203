"""What people ask for under a stricter isolation is done, even if somebody else was quicker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest import mock

import psycopg
import pytest
from django.db import OperationalError, transaction
from django.db import connection as django_connection

from django_taskq.control import bulk
from django_taskq.db import Connection
from django_taskq.transitions import operate, prune
from tests.support import rows
from tests.support.waiting import until

ERROR = '{"exception_class_path": "ValueError", "message": "no", "traceback": ""}'


@pytest.fixture(params=["REPEATABLE_READ", "SERIALIZABLE"])
def strict(request: pytest.FixtureRequest, one: Connection) -> Iterator[None]:
    """Let Django's connections have this isolation."""
    level = {"isolation_level": psycopg.IsolationLevel[request.param]}
    with mock.patch.dict(django_connection.settings_dict["OPTIONS"], level):
        yield


def meanwhile(one: Connection, other: Connection, change: str, call: Callable[[], Any]) -> Any:
    """Call something that comes to a row which somebody is about to change."""

    def called() -> Any:
        try:
            return call()
        finally:
            django_connection.close()

    def waits() -> bool:
        found = other.execute(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database()"
        )
        return found.fetchone() is not None

    with ThreadPoolExecutor(1) as pool:
        with one.transaction():
            one.execute(change)
            calling = pool.submit(called)
            until(lambda: waits() or calling.done(), "it waits for the row")
        return calling.result(20)


CHANGE = "UPDATE django_taskq_livetask SET priority = 1"


@pytest.mark.usefixtures("strict")
def test_a_waiting_task_is_cancelled_though_its_row_has_changed(
    one: Connection, other: Connection
) -> None:
    id = rows.add(one)

    assert meanwhile(one, other, CHANGE, lambda: operate.cancel_waiting("default", id, error=ERROR))

    assert rows.row(one, id)["status"] == "CANCELLED"


@pytest.mark.usefixtures("strict")
def test_a_running_task_is_asked_to_end_though_its_row_has_changed(
    one: Connection, other: Connection, worker_id: str
) -> None:
    mine = rows.add_running(one, worker_id)

    assert meanwhile(one, other, CHANGE, lambda: operate.request_cancel("default", mine.id))

    assert rows.row(one, mine.id)["cancel_requested_at"] is not None


@pytest.mark.usefixtures("strict")
def test_who_is_in_a_transaction_hears_of_it(one: Connection, other: Connection) -> None:
    """Only he can repeat what else he did."""
    id = rows.add(one)

    def cancel() -> None:
        with transaction.atomic():
            operate.cancel_waiting("default", id, error=ERROR)

    with pytest.raises(OperationalError):
        meanwhile(one, other, CHANGE, cancel)

    assert rows.row(one, id)["status"] == "READY"


class Clashing:
    """A cursor that runs into somebody when it sends a statement; twice."""

    def __init__(self, cursor: Any, statement: str, clashes: list[str]) -> None:
        self.cursor = cursor
        self.statement = statement
        self.clashes = clashes

    def execute(self, text: str, parameters: Any) -> Any:
        if text is self.statement and self.clashes:
            return self.cursor.execute(self.clashes.pop())
        return self.cursor.execute(text, parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cursor, name)


@pytest.mark.parametrize("code", ["40001", "40P01"])
@pytest.mark.parametrize("verb", ["cancel", "retry", "prune"])
def test_bulk_verbs_are_tried_again_as_a_whole(one: Connection, verb: str, code: str) -> None:
    """Each batch is a transaction of its own."""
    if verb == "cancel":
        ids = [rows.add(one) for _ in range(3)]
    else:
        ids = [rows.insert(one, rows.DONE, status="FAILED", finished_at=rows.ago(9)) for _ in "abc"]
    module: Any = prune if verb == "prune" else operate
    sent = {"cancel": operate.CANCEL_MANY, "retry": operate.REQUEUE, "prune": prune.PRUNE}[verb]
    clashes = [f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{code}'; END $$"] * 2
    original = module.user_cursor

    @contextmanager
    def user_cursor(alias: str) -> Iterator[Clashing]:
        with original(alias) as cursor:
            yield Clashing(cursor, sent, clashes)

    with mock.patch.object(module, "user_cursor", user_cursor):
        if verb == "prune":
            assert prune.prune("default", 5.0) == 3
        else:
            assert getattr(bulk, verb)(ids).count == 3
    assert clashes == []
