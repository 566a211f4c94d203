"""drain(): what waits is run in the test's process, as a worker would run it."""

from __future__ import annotations

import signal
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.utils import timezone

from django_taskq import TaskStatus, UnstorableResult
from django_taskq.models import LiveTask, Worker
from django_taskq.testing import drain, waiting
from tests.testing import tasks
from tests.testing.tasks import EVENTS

HOUR = timedelta(hours=1)


@pytest.fixture(
    params=[
        pytest.param(True, marks=pytest.mark.django_db, id="TestCase"),
        pytest.param(
            False, marks=pytest.mark.django_db(transaction=True), id="TransactionTestCase"
        ),
    ],
    autouse=True,
)
def database(request: pytest.FixtureRequest, db: None) -> None:
    """Have each test in a transaction that is rolled back, and in none."""
    assert connection.in_atomic_block == request.param


def test_what_waits_is_run_and_its_result_can_be_read() -> None:
    result = tasks.send_mail.enqueue("ada@example.com")
    drained = drain()
    assert drained.counts == {"completed": 1}
    assert EVENTS == ["Hello, ada@example.com"]
    result.refresh()
    assert (result.row_status, result.return_value, result.attempts) == ("SUCCESSFUL", 1, 1)
    assert [each.id for each in drained.results] == [result.id]
    assert drained.results[0].return_value == 1
    assert result.wait() == 1


def test_arguments_and_values_make_the_way_through_json() -> None:
    result = tasks.note.enqueue((1, {"a": (2,)}))
    assert drain().results[0].return_value == [1, {"a": [2]}]
    assert EVENTS == [[1, {"a": [2]}]]
    result.refresh()
    assert result.return_value == [1, {"a": [2]}]


def test_nothing_due_is_nothing_run() -> None:
    tasks.note.using(run_after=HOUR).enqueue("later")
    drained = drain()
    assert not drained and len(drained) == 0 and str(drained) == "nothing was due"
    assert [result.task for result in waiting()] == [tasks.note.using()]


def test_tasks_that_tasks_enqueue_are_run_to_any_depth() -> None:
    tasks.spread.enqueue(3)
    assert drain().counts == {"completed": 15}
    assert list(EVENTS) == [3, 2, 2, 1, 1, 1, 1, *[0] * 8]


def test_higher_priorities_come_first() -> None:
    for priority in (0, 5, -5, 7):
        tasks.note.using(priority=priority).enqueue(priority)
    drain()
    assert EVENTS == [7, 5, 0, -5]


def test_coroutine_functions_are_run_and_use_the_tests_connection() -> None:
    tasks.note_async.enqueue("Ada")
    assert drain(raise_errors=True).counts == {"completed": 1}
    assert Group.objects.get().name == "Ada"


def test_only_the_given_queues_are_run() -> None:
    for queue in ("mail", "mail-slow", "images"):
        tasks.note.using(queue_name=queue).enqueue(queue)
    drain(queue_name="mail")
    assert EVENTS == ["mail"]
    drain(queue_name=["images", "mail*"])
    assert EVENTS == ["mail", "images", "mail-slow"]


def test_a_limit_ends_it_early() -> None:
    tasks.again.enqueue()
    assert len(drain(limit=3)) == 3
    assert len(waiting(tasks.again)) == 1


def test_tasks_that_enqueue_themselves_for_ever_are_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("django_taskq.testing.draining._MOST_STARTS", 20)
    tasks.again.enqueue()
    with pytest.raises(RuntimeError, match=r"20 attempts.*enqueue itself.*limit="):
        drain()
    assert EVENTS == ["again"] * 20


def test_no_worker_is_left_behind() -> None:
    tasks.note.enqueue(1)
    drain()
    assert not Worker.objects.exists()


# --- failures -------------------------------------------------------------------------------------


def test_a_failed_task_is_counted_and_its_error_kept() -> None:
    result = tasks.say.using(max_attempts=1).enqueue("nonsense")
    drained = drain()
    assert drained.counts == {"failed": 1}
    assert [str(error) for error in drained.errors] == ["nonsense"]
    assert str(drained) == "1 failed\n  ValueError: nonsense"
    result.refresh()
    assert result.row_status == TaskStatus.FAILED
    assert result.errors[0].exception_class is ValueError


def test_errors_are_raised_where_that_was_asked_for() -> None:
    failing = tasks.say.using(max_attempts=1).enqueue("nonsense")
    tasks.note.enqueue("not run any more")
    with pytest.raises(ValueError, match="nonsense") as caught:
        drain(raise_errors=True)
    assert any("tests/testing/tasks.py" in str(entry.path) for entry in caught.traceback)
    failing.refresh()
    assert failing.row_status == TaskStatus.FAILED
    assert EVENTS == ["nonsense"]


def test_a_failed_attempt_that_will_be_retried_is_an_error_too() -> None:
    tasks.send_mail.enqueue("nobody")
    with pytest.raises(ConnectionError, match="is away"):
        drain(raise_errors=True)
    assert waiting(tasks.send_mail)[0].attempts == 1


def test_a_retry_that_a_task_asks_for_is_no_error_until_it_is_the_last() -> None:
    result = tasks.say.enqueue("retry")
    with pytest.raises(Exception, match=r"^$") as caught:
        drain(raise_errors=True)
    assert caught.type.__name__ == "Retry"
    assert EVENTS == ["retry"] * 3
    result.refresh()
    assert result.row_status == TaskStatus.FAILED


def test_a_value_that_cannot_be_stored_is_an_error() -> None:
    tasks.unstorable.enqueue()
    with pytest.raises(UnstorableResult, match=r"unstorable: the return value is an object"):
        drain(raise_errors=True)


@pytest.mark.parametrize(("word", "outcome"), [("cancel", "cancelled"), ("snooze", "snoozed")])
def test_tasks_say_how_they_go_on(word: str, outcome: str) -> None:
    tasks.say.enqueue(word)
    assert drain(raise_errors=True).counts == {outcome: 1}


def test_a_task_that_no_function_is_known_for_waits() -> None:
    row = LiveTask.objects.create(task="shop.tasks.gone")
    assert drain().counts == {"parked": 1}
    row.refresh_from_db()
    assert (row.status, row.held_for, row.attempts) == ("HELD", "unknown:shop.tasks.gone", 0)


def test_a_task_that_waited_for_its_name_goes_on() -> None:
    LiveTask.objects.create(
        task=tasks.note.key, args=["back"], status="HELD", held_for=f"unknown:{tasks.note.key}"
    )
    assert drain().counts == {"completed": 1}
    assert EVENTS == ["back"]


def test_interrupting_the_tests_interrupts_them_and_not_the_task() -> None:
    tasks.interrupted.enqueue()
    with pytest.raises(KeyboardInterrupt):
        drain()


# --- time -----------------------------------------------------------------------------------------


def test_a_retry_is_run_when_its_time_may_come() -> None:
    result = tasks.succeed_at.enqueue(3)
    assert drain().counts == {"retrying": 1}
    assert drain(until=timedelta(seconds=9)).counts == {}
    assert drain(until=timedelta(seconds=10)).counts == {"retrying": 1}
    assert drain(until=HOUR).counts == {"completed": 1}
    result.refresh()
    assert (result.return_value, result.attempts) == (3, 3)
    assert [error.message for error in result.errors] == ["attempt 1", "attempt 2"]


def test_all_retries_come_in_one_go() -> None:
    tasks.succeed_at.enqueue(4)
    assert drain(until=timedelta(days=1)).counts == {"retrying": 3, "completed": 1}


def test_time_passes_for_retries_as_it_does_for_a_worker() -> None:
    # Due after ten minutes; its retries 10 and 610 seconds later, and then after two hours.
    result = tasks.succeed_at.using(run_after=timedelta(minutes=10)).enqueue(9)
    began = result.enqueued_at
    assert drain(until=HOUR).counts == {"retrying": 3}
    result.refresh()
    assert result.run_after is not None
    assert about(result.run_after - began, 600 + 10 + 600 + 7200)
    assert drain(until=3 * HOUR).counts == {"failed": 1}


def test_tasks_run_in_the_order_of_their_times() -> None:
    for hours in (3, 1, 2, 5):
        tasks.note.using(run_after=hours * HOUR).enqueue(hours)
    drain(until=4 * HOUR)
    assert EVENTS == [1, 2, 3]
    [left] = waiting()
    assert left.run_after is not None
    assert about(left.run_after - left.enqueued_at, 5 * 3600)


def test_a_moment_can_be_given() -> None:
    tomorrow = timezone.now() + timedelta(days=1)
    result = tasks.note.using(run_after=tomorrow).enqueue("tomorrow")
    assert drain(until=tomorrow - timedelta(seconds=1)).counts == {}
    assert drain(until=tomorrow).counts == {"completed": 1}
    tasks.note.using(run_after=tomorrow + HOUR).enqueue("and later")
    assert drain(until=tomorrow).counts == {}
    result = tasks.send_mail.enqueue("nobody")
    drain()
    result.refresh()
    assert drain(until=result.run_after).counts == {"failed": 1}


def test_a_word_is_no_moment() -> None:
    with pytest.raises(TypeError, match=r"drain\(until='tomorrow'\): give an aware datetime"):
        drain(until="tomorrow")  # type: ignore[arg-type]


def test_a_naive_moment_is_refused() -> None:
    with pytest.raises(ValueError, match=r"is naive\. Pass an aware datetime"):
        drain(until=datetime(2030, 1, 1))


def test_seconds_can_be_given() -> None:
    tasks.note.using(run_after=30).enqueue("soon")
    assert drain(until=31).counts == {"completed": 1}


def test_a_task_that_repeats_itself_is_run_until_then() -> None:
    tasks.again.enqueue(600)
    assert drain(until=timedelta(minutes=55)).counts == {"completed": 6}


def test_what_expires_meanwhile_does_not_run() -> None:
    kept = tasks.note.using(run_after=HOUR, expires_after=60).enqueue("in time")
    tasks.send_mail.using(expires_after=1800).enqueue("nobody")
    drained = drain(until=2 * HOUR)
    assert drained.counts == {"retrying": 1, "completed": 1, "expired": 1}
    kept.refresh()
    assert kept.row_status == TaskStatus.SUCCESSFUL


def test_times_are_put_right_even_when_a_task_fails() -> None:
    later = tasks.note.using(run_after=3 * HOUR).enqueue("later")
    tasks.say.using(run_after=HOUR).enqueue("nonsense")
    with pytest.raises(ValueError, match="nonsense"):
        drain(until=2 * HOUR, raise_errors=True)
    before = later.run_after
    later.refresh()
    assert later.run_after == before


def test_a_soft_time_limit_ends_a_task_and_leaves_the_tests_own_timer_alone() -> None:
    with_timeout = signal.getitimer(signal.ITIMER_REAL)[0]
    assert with_timeout > 10, "pytest-timeout has set it"
    began = time.monotonic()
    tasks.slow.enqueue(10)
    drained = drain()
    assert [type(error).__name__ for error in drained.errors] == ["SoftTimeLimit"]
    assert 0.1 <= time.monotonic() - began < 5
    left = signal.getitimer(signal.ITIMER_REAL)[0]
    assert 0 < left < with_timeout
    tasks.slow.enqueue(0)
    assert drain().counts == {"completed": 1}


# --- the context ----------------------------------------------------------------------------------


def test_progress_is_kept() -> None:
    tasks.succeed_at.enqueue(1)
    tasks.report_async.enqueue()
    first, second = drain().results
    assert first.progress == {"done": 1, "total": 1, "message": "trying"}
    assert second.progress == {"done": 1, "total": 2, "message": "half"}


def test_a_task_cannot_wait_for_another() -> None:
    tasks.wait_for_another.enqueue()
    [error] = drain(limit=1).errors
    assert type(error).__name__ in ("WaitInsideTransaction", "TimeoutError")


# --- transactions ---------------------------------------------------------------------------------


def test_a_database_error_in_a_task_fails_the_task_and_not_the_test() -> None:
    tasks.write_twice.enqueue("twice")
    assert drain().counts == {"failed": 1}
    Group.objects.create(name="the connection is as good as before")


def test_what_a_failing_task_has_written_stays() -> None:
    tasks.write_and_fail.enqueue("kept")
    assert drain().counts == {"failed": 1}
    assert Group.objects.get().name == "kept"


def test_an_error_that_the_task_caught_in_a_savepoint_is_its_own_affair() -> None:
    tasks.write_twice_and_go_on.enqueue("once", careful=True)
    assert drain(raise_errors=True).results[0].return_value == "there already"
    assert Group.objects.get().name == "once"


def test_callbacks_on_commit_are_called_and_what_they_enqueue_is_run() -> None:
    tasks.note_on_commit.enqueue("commit")
    assert drain(raise_errors=True).counts == {"completed": 2}
    assert sorted(EVENTS) == ["after commit", "commit", "end of commit"]


def test_a_callback_that_fails_fails_the_task() -> None:
    tasks.note_on_commit.enqueue("commit", fail=True)
    assert drain().counts == {"failed": 1, "completed": 1}


def test_callbacks_of_the_test_itself_are_left_alone() -> None:
    called: list[str] = []
    with transaction.atomic():
        transaction.on_commit(lambda: called.append("mine"))
        tasks.note.enqueue("inside")
        drain()
        assert EVENTS == ["inside"] and called == []


def about(found: timedelta, seconds: float) -> bool:
    return abs(found.total_seconds() - seconds) < 2


def test_a_mistake_in_the_setting_is_explained(settings: Any) -> None:
    settings.TASKS = {
        "default": {
            "BACKEND": "django.tasks.backends.dummy.DummyBackend"
            if tasks.note.__class__.__mro__[1].__module__.startswith("django.tasks")
            else "django_tasks.backends.dummy.DummyBackend"
        }
    }
    with pytest.raises(Exception, match="names DummyBackend only: its tasks are no rows"):
        drain()


def test_an_atomic_task_commits_with_its_result_or_leaves_nothing() -> None:
    kept = tasks.write_together.enqueue("kept")
    undone = tasks.write_together.enqueue("undone", "no")

    drained = drain()

    assert drained.counts == {"completed": 2, "retrying": 1, "failed": 1}
    assert [group.name for group in Group.objects.all()] == ["kept"]
    assert EVENTS == ["kept has committed", "with kept"]
    kept.refresh()
    undone.refresh()
    assert (kept.row_status, kept.return_value) == ("SUCCESSFUL", "kept")
    assert (undone.row_status, undone.attempts) == ("FAILED", 2)
