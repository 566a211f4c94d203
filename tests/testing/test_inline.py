"""run_inline(): enqueue() runs the task at once, and its result is finished."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.test import TestCase

from django_taskq import ArgumentsError, TaskStatus
from django_taskq.backend import TaskqBackend
from django_taskq.models import FinishedTask, LiveTask, Worker
from django_taskq.testing import drain, enqueued, run_inline
from tests.testing import tasks
from tests.testing.tasks import EVENTS

pytestmark = pytest.mark.django_db


def test_the_task_has_run_when_enqueue_returns() -> None:
    with run_inline():
        result = tasks.send_mail.enqueue("ada@example.com")
    assert result.row_status == TaskStatus.SUCCESSFUL
    assert (result.is_finished, result.return_value, result.attempts) == (True, 1, 1)
    assert EVENTS == ["Hello, ada@example.com"]
    assert FinishedTask.objects.get().return_value == 1
    assert not Worker.objects.exists()


def test_afterwards_tasks_wait_again() -> None:
    with run_inline():
        pass
    assert tasks.note.enqueue(1).row_status == TaskStatus.READY
    assert EVENTS == []


def test_what_waited_before_goes_on_waiting() -> None:
    tasks.note.enqueue("before")
    with run_inline():
        tasks.note.enqueue("inside")
    assert EVENTS == ["inside"]
    assert LiveTask.objects.get().args == ["before"]


@run_inline()
def test_it_decorates_functions() -> None:
    assert tasks.note.enqueue(1).return_value == 1


def test_it_decorates_coroutine_functions() -> None:
    @run_inline()
    async def enqueue() -> Any:
        return await tasks.note_async.aenqueue("async")

    assert async_to_sync(enqueue)().return_value == "async"
    assert tasks.note.enqueue(1).row_status == TaskStatus.READY


@run_inline()
def test_many_are_run_too() -> None:
    results = tasks.note.enqueue_many([(1,), (2,), {"event": 3}])
    assert [result.return_value for result in results] == [1, 2, 3] == EVENTS


@run_inline()
def test_arguments_and_values_make_the_way_through_json() -> None:
    assert tasks.note.enqueue((1, 2)).return_value == [1, 2]
    with pytest.raises(ArgumentsError, match="is a set"):
        tasks.note.enqueue({1, 2})


@run_inline()
def test_tasks_enqueued_by_tasks_run_inside_them() -> None:
    tasks.spread.enqueue(2)
    assert EVENTS == [2, 1, 0, 0, 1, 0, 0]
    assert len(enqueued(tasks.spread)) == 7


@run_inline()
def test_a_task_can_wait_for_another() -> None:
    assert tasks.wait_for_another.enqueue().return_value == "other"


@run_inline()
def test_a_failed_task_raises_nothing_and_its_result_says_why() -> None:
    result = tasks.say.enqueue("nonsense")
    assert result.row_status == TaskStatus.FAILED
    assert [error.message for error in result.errors] == ["nonsense"] * 3


@run_inline()
def test_waiting_times_are_left_out() -> None:
    assert tasks.succeed_at.using(run_after=timedelta(days=1)).enqueue(4).return_value == 4
    assert EVENTS == ["attempt 1", "attempt 2", "attempt 3", "attempt 4"]
    assert tasks.send_mail.enqueue("nobody").row_status == TaskStatus.FAILED
    assert tasks.say.enqueue("cancel").row_status == TaskStatus.CANCELLED


@run_inline(propagate=True)
def test_errors_can_be_passed_on() -> None:
    with pytest.raises(ConnectionError, match="is away"):
        tasks.send_mail.enqueue("nobody")
    assert EVENTS == []
    row = LiveTask.objects.get()
    assert (row.attempts, len(row.errors)) == (1, 1)


def test_the_innermost_decides_on_errors() -> None:
    with run_inline(propagate=True):
        with run_inline():
            assert tasks.send_mail.enqueue("nobody").row_status == TaskStatus.FAILED
        with pytest.raises(ConnectionError):
            tasks.send_mail.enqueue("nobody")


def test_one_object_can_be_used_again_and_within_itself() -> None:
    inline = run_inline()
    for _ in range(2):
        with inline, inline:
            tasks.note.enqueue(1)
    assert EVENTS == [1, 1]
    assert TaskqBackend.enqueue.__name__ == "enqueue"


@pytest.mark.parametrize(
    ("endless", "says"),
    [
        (lambda: tasks.again.enqueue(), r"20 tasks run one inside the other.*drain\(\)"),
        (lambda: tasks.say.enqueue("snooze"), r"not ended after 100 attempts.*snooze for ever"),
    ],
    ids=["enqueues itself", "snoozes for ever"],
)
def test_what_never_ends_is_reported(endless: Callable[[], Any], says: str) -> None:
    with run_inline(propagate=True), pytest.raises(RuntimeError, match=says):
        endless()


@run_inline()
def test_a_rolled_back_transaction_takes_the_task_with_it() -> None:
    with transaction.atomic():
        result = tasks.note.enqueue("seen at once")
        assert EVENTS == ["seen at once"] and result.is_finished
        transaction.set_rollback(True)
    assert enqueued() == []


def test_a_project_without_our_backend_is_told_so(settings: Any) -> None:
    module = (
        "django.tasks" if TaskqBackend.__mro__[1].__module__[:7] == "django." else "django_tasks"
    )
    settings.TASKS = {"default": {"BACKEND": f"{module}.backends.immediate.ImmediateBackend"}}
    with pytest.raises(ImproperlyConfigured, match="ImmediateBackend only"), run_inline():
        pass


@run_inline()
class InlineTestCase(TestCase):
    """A class that is decorated."""

    def setUp(self) -> None:
        self.result = tasks.note.enqueue("in setUp")

    def test_every_test_runs_tasks_inline(self) -> None:
        self.assertEqual(self.result.return_value, "in setUp")
        self.assertEqual(tasks.note.enqueue(1).return_value, 1)

    @run_inline(propagate=True)
    def test_a_method_can_say_it_otherwise(self) -> None:
        with self.assertRaises(ConnectionError):
            tasks.send_mail.enqueue("nobody")


def test_after_a_decorated_class_tasks_wait_again() -> None:
    InlineTestCase("test_every_test_runs_tasks_inline").debug()
    EVENTS.clear()
    tasks.note.enqueue(1)
    assert EVENTS == []
    drain()
    assert EVENTS == [1]
