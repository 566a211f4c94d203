"""The completion of an atomic task is open until its COMMIT: what comes meanwhile waits for it."""

from __future__ import annotations

import pytest

from django_taskq.db import Connection
from django_taskq.outcomes import Unanswered
from django_taskq.transitions import finish, operate, rescue
from tests.races.test_races import ERROR, complete
from tests.support import rows
from tests.support.rows import Running
from tests.support.waiting import start_and_wait_until_blocked


def rescued(connection: Connection, worker_id: str, mine: Running) -> int:
    return rescue.rescue(connection, worker_id, running=[mine.id], error=ERROR)


def test_a_rescue_waits_for_an_open_completion_and_leaves_what_has_committed(
    one: Connection, other: Connection, worker_id: str
) -> None:
    mine = rows.add_running(one, worker_id)

    with one.transaction():  # an atomic task's, before its COMMIT
        assert complete(one, mine) == 1
        rescuing = start_and_wait_until_blocked(lambda: rescued(other, worker_id, mine), other, one)

    assert rescuing.result() == 0
    assert rows.row(one, mine.id)["status"] == "SUCCESSFUL"


def test_a_rescue_behind_a_completion_that_is_rolled_back_takes_the_task(
    one: Connection, other: Connection, worker_id: str
) -> None:
    mine = rows.add_running(one, worker_id)

    with one.transaction(force_rollback=True):
        assert complete(one, mine) == 1
        rescuing = start_and_wait_until_blocked(lambda: rescued(other, worker_id, mine), other, one)

    assert rescuing.result() == 1
    assert rows.row(one, mine.id)["crashes"] == 1
    assert complete(one, mine) == 0


def test_running_an_unanswered_task_again_waits_until_the_lost_transaction_has_ended(
    one: Connection, other: Connection, worker_id: str
) -> None:
    mine = rows.add_running(one, worker_id)
    unanswered = [Unanswered(*mine, 0.0, 0.0)]

    with one.transaction():
        assert complete(one, mine) == 1
        again = start_and_wait_until_blocked(
            lambda: finish.run_again(other, unanswered), other, one
        )

    assert again.result().rowcount == 0
    assert rows.row(one, mine.id)["status"] == "SUCCESSFUL"


@pytest.mark.parametrize("commits", [True, False])
def test_a_request_to_end_behind_an_open_completion_asks_nobody_who_is_done(
    one: Connection,
    other: Connection,
    worker_id: str,
    commits: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = rows.add_running(one, worker_id)
    monkeypatch.setattr(operate, "user_cursor", lambda alias: other.cursor())

    with one.transaction(force_rollback=not commits):
        assert complete(one, mine) == 1
        asking = start_and_wait_until_blocked(
            lambda: operate.request_cancel("default", mine.id), other, one
        )

    assert asking.result() is not commits
    row = rows.row(one, mine.id)
    assert row["status"] == ("SUCCESSFUL" if commits else "RUNNING")


def test_a_completion_behind_an_open_request_to_end_succeeds(
    one: Connection, other: Connection, worker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = rows.add_running(one, worker_id)
    monkeypatch.setattr(operate, "user_cursor", lambda alias: one.cursor())

    with one.transaction():
        assert operate.request_cancel("default", mine.id) is True
        completing = start_and_wait_until_blocked(lambda: complete(other, mine), other, one)

    assert completing.result() == 1
    assert rows.row(one, mine.id)["status"] == "SUCCESSFUL"


def test_a_bulk_request_to_end_does_not_wait_for_a_completion(
    one: Connection, other: Connection, worker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, running = rows.add_running(one, worker_id), rows.add_running(one, worker_id)
    monkeypatch.setattr(operate, "user_cursor", lambda alias: other.cursor())

    with one.transaction():
        assert complete(one, ending) == 1
        asked = operate.request_cancel_many("default", [ending.id, running.id])

    assert asked == {running.id}
