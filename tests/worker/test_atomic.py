"""An atomic task's writes, its result and what it enqueues are there together, or not at all."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import psycopg
import pytest
from django.contrib.auth.models import Group
from django.db import DatabaseError, transaction
from django.db import connection as django_connection

from django_taskq import db
from django_taskq.db import Connection
from django_taskq.models import FinishedTask, LiveTask
from django_taskq.outcomes import (
    Cancelled,
    Committed,
    Failed,
    Lost,
    Outcome,
    Retrying,
    Snoozed,
    Unanswered,
)
from django_taskq.tasks_api import task_finished
from django_taskq.transitions import atomic as statements
from django_taskq.transitions import operate
from django_taskq.worker import atomic, store
from django_taskq.worker.executor import Executor
from tests.support import rows
from tests.support.rows import Running
from tests.worker import atomic_samples as samples
from tests.worker.samples import claimed


class Ran:
    """An atomic task that was run, and what it came to."""

    def __init__(self, connection: Connection, worker_id: str) -> None:
        self.connection = connection
        self.worker_id = worker_id
        self.reports: list[dict[str, Any]] = []
        self.executor = Executor(
            worker_id,
            arm=lambda seconds: None,
            disarm=lambda: None,
            report=lambda row, progress: self.reports.append(progress),
            is_stopping=lambda: False,
        )

    def add(self, task: Any) -> Running:
        return rows.add_running(self.connection, self.worker_id, task=task.key)

    def run(self, task: Any, *args: Any, mine: Running | None = None, **kwargs: Any) -> Outcome:
        self.mine = mine or self.add(task)
        row = claimed(
            task, *args, id=self.mine.id, claim=self.mine.claim, kwargs=json.dumps(kwargs)
        )
        run = self.executor.run_of(row)
        assert run is not None
        return self.executor.execute(row, run, time.monotonic())

    @property
    def row(self) -> dict[str, Any]:
        return rows.row(self.connection, self.mine.id)


@pytest.fixture
def ran(connection: Connection, worker_id: str) -> Iterator[Ran]:
    samples.MEANWHILE.clear()
    samples.STARTS.clear()
    yield Ran(connection, worker_id)
    django_connection.close()


@pytest.fixture
def above_read_committed(request: pytest.FixtureRequest, transactional_db: None) -> Iterator[None]:
    """Have the tasks' transactions run as SERIALIZABLE, or as a parameter says."""
    level = {
        "isolation_level": getattr(request, "param", psycopg.IsolationLevel.SERIALIZABLE),
    }
    django_connection.close()
    with mock.patch.dict(django_connection.settings_dict["OPTIONS"], level):
        yield
        django_connection.close()


def taken_away(ran: Ran, mine: Running) -> Callable[[], None]:
    """Return what happens when the task's worker is taken for dead, and another one claims it."""

    def take() -> None:
        ran.connection.execute(
            "UPDATE django_taskq_livetask SET claim = gen_random_uuid() WHERE id = %s", [mine.id]
        )

    return take


def error_of(outcome: Outcome) -> dict[str, Any]:
    assert isinstance(outcome, Failed | Retrying | Cancelled)
    return dict(json.loads(outcome.error))


# --- together ------------------------------------------------------------------------------------


def test_writes_result_and_what_was_enqueued_are_committed_by_one_transaction(ran: Ran) -> None:
    outcome = ran.run(samples.write, "together")

    assert isinstance(outcome, Committed)
    assert (outcome.id, outcome.claim) == ran.mine
    assert (ran.row["status"], ran.row["return_value"]) == ("SUCCESSFUL", "together")
    transactions = ran.connection.execute(
        "SELECT xmin FROM auth_group UNION ALL SELECT xmin FROM django_taskq_finishedtask "
        "UNION ALL SELECT xmin FROM django_taskq_livetask"
    ).fetchall()
    assert len(transactions) == 3
    assert len(set(transactions)) == 1


def test_a_result_that_is_not_wanted_is_not_stored(ran: Ran) -> None:
    mine = ran.add(samples.write)
    row = claimed(
        samples.write, "x", id=mine.id, claim=mine.claim, options='{"store_result":false}'
    )
    run = ran.executor.run_of(row)
    assert run is not None

    assert isinstance(ran.executor.execute(row, run, time.monotonic()), Committed)

    assert FinishedTask.objects.get(id=mine.id).return_value is None


@pytest.mark.parametrize(
    ("what", "kind"),
    [("error", Retrying), ("exit", Failed), ("retry", Retrying), ("snooze", Snoozed),
     ("cancel", Cancelled)],
)  # fmt: skip
def test_what_does_not_succeed_leaves_nothing_but_its_outcome(
    ran: Ran, what: str, kind: type
) -> None:
    outcome = ran.run(samples.write_and_raise, "undone", what)

    assert type(outcome) is kind
    assert ran.row["status"] == "RUNNING"
    assert not Group.objects.exists()
    assert LiveTask.objects.count() == 1
    assert store.store(ran.connection, [outcome], ran.worker_id) == 1  # type: ignore[list-item]


def test_a_value_that_cannot_be_stored_undoes_the_task(ran: Ran) -> None:
    outcome = ran.run(samples.write_and_return_a_set, "undone")

    assert "the return value" in error_of(outcome)["message"]
    assert not Group.objects.exists()


def test_what_is_refused_at_commit_is_a_failure_and_leaves_nothing(ran: Ran) -> None:
    outcome = ran.run(samples.break_a_foreign_key, "undone")

    assert isinstance(outcome, Failed)
    assert "IntegrityError" in error_of(outcome)["exception_class_path"]
    assert not Group.objects.exists()
    assert ran.row["status"] == "RUNNING"


@pytest.mark.parametrize("how", ["error", "rollback", "close"])
def test_a_transaction_that_can_only_be_rolled_back_does_not_count_as_done(
    ran: Ran, how: str
) -> None:
    outcome = ran.run(samples.swallow_an_error, "undone", how)

    assert "can only be rolled back" in error_of(outcome)["message"]
    assert not Group.objects.exists()
    assert ran.row["status"] == "RUNNING"


def test_an_error_in_an_inner_block_may_be_caught(ran: Ran) -> None:
    assert isinstance(ran.run(samples.recover_in_a_block_of_its_own, "kept"), Committed)
    assert Group.objects.filter(name="kept").exists()


def test_the_traceback_begins_in_the_task(ran: Ran) -> None:
    record = error_of(ran.run(samples.write_and_raise, "x", "error"))

    assert "atomic_samples.py" in record["traceback"].splitlines()[1]


# --- after the commit ----------------------------------------------------------------------------


def test_a_hook_that_fails_after_the_commit_is_logged_and_the_task_stays_done(
    ran: Ran, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "django_taskq.task"):
        outcome = ran.run(samples.fail_after_commit, "kept")

    assert isinstance(outcome, Committed)
    assert ran.row["status"] == "SUCCESSFUL"
    assert Group.objects.filter(name="kept").exists()
    assert "on_commit hook" in caplog.text
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_whoever_hears_that_it_has_finished_finds_it_committed(ran: Ran) -> None:
    heard: list[Any] = []

    def receiver(*, task_result: Any, **kwargs: Any) -> None:
        heard.append((task_result.return_value, rows.finished(ran.connection, task_result.id)))
        raise ValueError("a receiver that fails")

    task_finished.connect(receiver)
    try:
        ran.executor.notice_listeners()
        assert isinstance(ran.run(samples.write, "x"), Committed)
    finally:
        task_finished.disconnect(receiver)

    ((value, row),) = heard
    assert value == "x"
    assert row is not None


# --- fenced --------------------------------------------------------------------------------------


def test_a_task_that_was_taken_away_meanwhile_leaves_nothing(
    ran: Ran, caplog: pytest.LogCaptureFixture
) -> None:
    mine = ran.add(samples.write)
    samples.MEANWHILE.append(taken_away(ran, mine))

    outcome = ran.run(samples.write, "undone", mine=mine)

    assert isinstance(outcome, Lost)
    assert not Group.objects.exists()
    assert ran.row["status"] == "RUNNING"
    assert LiveTask.objects.count() == 1
    store.report_lost([outcome])
    assert f"{mine.id} (Lost) came too late" in caplog.text


def test_a_task_whose_id_has_finished_before_is_done_all_the_same(ran: Ran) -> None:
    mine = ran.add(samples.write)
    rows.insert(ran.connection, rows.DONE, id=mine.id, status="FAILED")

    outcome = ran.run(samples.write, "again", mine=mine)

    assert isinstance(outcome, Committed)
    assert (ran.row["status"], ran.row["return_value"]) == ("SUCCESSFUL", "again")
    assert Group.objects.count() == 1


# --- other transactions --------------------------------------------------------------------------


def rename_group(ran: Ran) -> None:
    ran.connection.execute("UPDATE auth_group SET name = name")


@pytest.mark.usefixtures("above_read_committed")
def test_a_task_that_ran_into_another_transaction_runs_again_at_once(ran: Ran) -> None:
    Group.objects.create(name="old")
    samples.MEANWHILE.append(lambda: rename_group(ran))

    outcome = ran.run(samples.rename, "old", "new")

    assert isinstance(outcome, Committed)
    assert samples.STARTS == ["old", "old"]
    assert Group.objects.get().name == "new"
    assert ran.row["attempts"] == 1


@pytest.mark.usefixtures("above_read_committed")
def test_a_task_that_always_runs_into_another_transaction_fails_in_the_end(ran: Ran) -> None:
    Group.objects.create(name="old")
    samples.MEANWHILE += [lambda: rename_group(ran)] * 9

    outcome = ran.run(samples.rename, "old", "new")

    assert isinstance(outcome, Failed)
    assert "could not serialize" in error_of(outcome)["message"]
    assert len(samples.STARTS) == 4


@pytest.mark.usefixtures("above_read_committed")
def test_a_task_that_is_taken_away_above_read_committed_does_not_run_again(ran: Ran) -> None:
    mine = ran.add(samples.write)
    samples.MEANWHILE.append(taken_away(ran, mine))

    outcome = ran.run(samples.write, "undone", mine=mine)

    assert isinstance(outcome, Lost)
    assert samples.STARTS == ["undone"]
    assert not Group.objects.exists()


def test_a_task_that_was_asked_to_end_is_not_run_again_after_a_conflict(ran: Ran) -> None:
    mine = ran.add(samples.meet_a_deadlock)
    samples.MEANWHILE.append(
        lambda: ran.connection.execute(
            "UPDATE django_taskq_livetask SET cancel_requested_at = now() WHERE id = %s", [mine.id]
        )
    )

    outcome = ran.run(samples.meet_a_deadlock, "x", mine=mine)

    assert isinstance(outcome, Cancelled)
    assert samples.STARTS == ["x"]
    assert not Group.objects.exists()


@pytest.mark.parametrize(
    "above_read_committed",
    [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE],
    ids=["repeatable read", "serializable"],
    indirect=True,
)
@pytest.mark.usefixtures("above_read_committed")
def test_a_request_to_end_above_read_committed_cancels_a_task_and_is_no_failure(ran: Ran) -> None:
    """It writes to the task's row after the snapshot: the completion cannot succeed."""
    mine = ran.add(samples.write)
    samples.MEANWHILE.append(
        lambda: ran.connection.execute(operate.REQUEST_CANCEL, {"id": mine.id})
    )

    outcome = ran.run(samples.write, "x", mine=mine)

    assert isinstance(outcome, Cancelled)
    assert samples.STARTS == ["x"]
    assert not Group.objects.exists()
    assert store.store(ran.connection, [outcome], ran.worker_id) == 1
    assert ran.row["status"] == "CANCELLED"
    assert not LiveTask.objects.exists()


@pytest.mark.usefixtures("above_read_committed")
def test_a_task_that_the_server_refuses_at_its_commit_runs_again(
    ran: Ran,
) -> None:
    """Each of two has read what the other writes. Who commits last cannot, and hears of it then."""
    refused: list[str | None] = []

    def cross(somebody: Connection) -> None:
        somebody.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        somebody.execute("SELECT count(*) FROM auth_group")
        somebody.execute("INSERT INTO auth_group (name) VALUES ('somebody')")

        def commit() -> None:
            del django_connection._commit
            somebody.execute("COMMIT")
            try:
                django_connection._commit()
            except DatabaseError as error:
                assert isinstance(error.__cause__, psycopg.Error)
                refused.append(error.__cause__.sqlstate)
                raise

        django_connection._commit = commit

    with db.worker_connection("default", name="test somebody") as somebody:
        samples.MEANWHILE.append(lambda: cross(somebody))
        outcome = ran.run(samples.write, "x")

    assert refused == ["40001"]
    assert isinstance(outcome, Committed)
    assert samples.STARTS == ["x", "x"]
    assert sorted(group.name for group in Group.objects.all()) == ["somebody", "x"]
    assert (ran.row["status"], ran.row["attempts"]) == ("SUCCESSFUL", 1)
    assert LiveTask.objects.count() == 1  # what it has enqueued, once


def test_a_request_to_end_does_not_keep_a_task_from_committing(ran: Ran) -> None:
    mine = ran.add(samples.write)
    samples.MEANWHILE.append(
        lambda: ran.connection.execute(
            "UPDATE django_taskq_livetask SET cancel_requested_at = now() WHERE id = %s", [mine.id]
        )
    )

    assert isinstance(ran.run(samples.write, "x", mine=mine), Committed)


def test_a_deadlock_is_no_failure_either(ran: Ran) -> None:
    assert isinstance(ran.run(samples.meet_a_deadlock, "x"), Committed)
    assert len(samples.STARTS) == 3
    assert Group.objects.count() == 1


def test_a_row_that_somebody_holds_is_waited_for_and_tried_again(
    ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "LIMIT_END", statements.LIMIT_END.replace("'5s'", "'50ms'"))
    mine = ran.add(samples.write)

    def hold() -> None:
        ran.connection.execute("BEGIN")
        ran.connection.execute("SELECT FROM django_taskq_livetask FOR UPDATE")

    samples.MEANWHILE += [hold, lambda: ran.connection.rollback()]

    assert isinstance(ran.run(samples.write, "x", mine=mine), Committed)
    assert samples.STARTS == ["x", "x"]


def test_a_completion_that_the_server_cancels_is_no_failure(ran: Ran) -> None:
    """As a statement_timeout of the project's connections does, while somebody holds the row."""
    mine = ran.add(samples.write)

    def hold() -> None:
        ran.connection.execute("BEGIN")
        ran.connection.execute("SELECT FROM django_taskq_livetask FOR UPDATE")
        with django_connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = '100ms'")

    samples.MEANWHILE += [hold, lambda: ran.connection.rollback()]

    assert isinstance(ran.run(samples.write, "x", mine=mine), Committed)
    assert samples.STARTS == ["x", "x"]


def test_a_connection_that_is_lost_between_two_runs_is_no_failure(ran: Ran) -> None:
    lost = psycopg.OperationalError("the connection is lost")
    with mock.patch.object(statements, "still_mine", side_effect=lost):
        outcome = ran.run(samples.meet_a_deadlock, "x")

    assert isinstance(outcome, Unanswered)
    assert store.store(ran.connection, [outcome], ran.worker_id) == 1
    assert (ran.row["status"], ran.row["attempts"]) == ("READY", 0)


# --- progress ------------------------------------------------------------------------------------


def test_the_last_word_on_progress_is_stored_with_the_result(ran: Ran) -> None:
    assert isinstance(ran.run(samples.report), Committed)

    assert [report["done"] for report in ran.reports] == [1, 2]
    assert ran.row["progress"]["message"] == "done"


@pytest.mark.usefixtures("above_read_committed")
def test_above_read_committed_nobody_writes_progress_to_a_running_task(ran: Ran) -> None:
    assert isinstance(ran.run(samples.report), Committed)

    assert ran.reports == []
    assert ran.row["progress"]["message"] == "done"


def test_the_isolation_that_the_server_gives_by_default_counts_too(ran: Ran) -> None:
    with django_connection.cursor() as cursor:
        cursor.execute("SET default_transaction_isolation = 'repeatable read'")

    assert isinstance(ran.run(samples.report), Committed)
    assert ran.reports == []


# --- a commit without an answer ------------------------------------------------------------------


@pytest.mark.parametrize("commits", [True, False])
def test_whether_an_unanswered_commit_took_place_is_seen_by_the_row(
    ran: Ran, commits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = ran.run(samples.lose_the_answer, "x", commits=commits)

    assert isinstance(outcome, Unanswered)
    django_connection.close()
    assert Group.objects.count() == commits
    with caplog.at_level(logging.INFO, "django_taskq.worker"):
        matched = store.store(ran.connection, [outcome], ran.worker_id)
        if not matched:
            store.report_late(ran.connection, [outcome])
    assert matched == (not commits)
    assert ran.row["status"] == ("SUCCESSFUL" if commits else "READY")
    assert ran.row["attempts"] == (1 if commits else 0)
    assert ("had committed" in caplog.text) == commits
    assert "too late" not in caplog.text


# --- surroundings --------------------------------------------------------------------------------


def test_a_task_may_run_inside_a_transaction_of_a_test(ran: Ran) -> None:
    mine = ran.add(samples.write)

    with transaction.atomic(), django_connection.cursor() as cursor:
        assert isinstance(ran.run(samples.write, "x", mine=mine), Committed)
        assert FinishedTask.objects.get(id=mine.id).return_value == "x"
        assert isinstance(ran.run(samples.write_and_raise, "y", "error"), Retrying)
        assert Group.objects.get().name == "x"
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == ("0",)
        assert rows.finished(ran.connection, mine.id) is None
        transaction.set_rollback(True)

    assert rows.live(ran.connection, mine.id) is not None


def test_a_process_that_stops_before_its_commit_does_not_hold_the_row_for_long(ran: Ran) -> None:
    assert isinstance(ran.run(samples.look_before_the_commit), Committed)

    assert samples.STARTS == ["idle_in_transaction_session_timeout=10s", "lock_timeout=5s"]


def test_the_users_connection_is_left_as_it_was(ran: Ran) -> None:
    ran.run(samples.write, "x")

    raw = django_connection.connection
    assert raw.prepare_threshold is None
    assert django_connection.get_autocommit()
    with django_connection.cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == ("0",)
        cursor.execute("SHOW enable_seqscan")
        assert cursor.fetchone() == ("on",)


def test_a_database_without_autocommit_is_refused_with_the_reason(ran: Ran) -> None:
    django_connection.ensure_connection()
    django_connection.set_autocommit(False)

    outcome = ran.run(samples.write, "x")

    assert "AUTOCOMMIT off" in error_of(outcome)["message"]


def test_a_database_that_is_away_when_it_begins_fails_no_attempt(
    ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_PAUSE", 0.0)
    refused = psycopg.OperationalError("connection refused")
    with mock.patch.object(django_connection, "ensure_connection", side_effect=refused):
        outcome = ran.run(samples.write, "away")
    assert isinstance(outcome, Unanswered)
    assert samples.STARTS == []
    store.store(ran.connection, [outcome], ran.worker_id)
    assert (ran.row["status"], ran.row["attempts"], ran.row["errors"]) == ("READY", 0, [])
