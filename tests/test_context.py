"""What a running task is told about itself, and what it may tell others."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from django_taskq import TaskContext, TaskStatus
from django_taskq.tasks_api import DjangoTaskContext
from tests import tasks
from tests.rows import make_row


@pytest.fixture
def running(db: None) -> Any:
    row = make_row(TaskStatus.RUNNING, task="tests.tasks.report", attempts=2, max_attempts=5)
    return tasks.report.get_result(str(row.id))


def test_a_context_tells_which_attempt_this_is(running: Any) -> None:
    context = TaskContext(task_result=running)
    assert isinstance(context, DjangoTaskContext)
    assert (context.attempt, context.max_attempts) == (2, 5)
    assert context.task_result is running


def test_progress_is_handed_on(running: Any) -> None:
    said: list[dict[str, Any]] = []
    context = TaskContext(task_result=running, report=said.append)
    context.progress(1, 3, "a third")
    context.progress(0.5)
    assert said == [
        {"done": 1, "total": 3, "message": "a third"},
        {"done": 0.5, "total": None, "message": ""},
    ]


def test_nothing_in_a_context_touches_the_database(
    running: Any, django_assert_num_queries: Any
) -> None:
    context = TaskContext(task_result=running, report=lambda progress: None)
    with django_assert_num_queries(0):
        context.progress(1, 2)
        _ = (context.attempt, context.max_attempts, context.is_stopping, context.is_cancelled)

        async def on_a_loop() -> bool:
            context.progress(2, 2)
            return context.is_stopping

        assert async_to_sync(on_a_loop)() is False


def test_is_cancelled_asks_the_worker_each_time(running: Any) -> None:
    answers = iter([False, True])
    context = TaskContext(task_result=running, cancelled=lambda: next(answers))
    assert (context.is_cancelled, context.is_cancelled) == (False, True)
    assert TaskContext(task_result=running).is_cancelled is False


def test_is_stopping_asks_the_worker_each_time(running: Any) -> None:
    answers = iter([False, True])
    context = TaskContext(task_result=running, stopping=lambda: next(answers))
    assert (context.is_stopping, context.is_stopping) == (False, True)


def test_without_a_worker_progress_goes_nowhere_and_nothing_stops(running: Any) -> None:
    context = TaskContext(task_result=running)
    context.progress(1, 2)
    assert context.is_stopping is False


def test_a_plain_context_of_django_becomes_ours_when_a_task_is_called(running: Any) -> None:
    plain = DjangoTaskContext(task_result=running)
    told = tasks.report.call(plain, 1, 2)
    assert told["attempt"] == 2
    assert async_to_sync(tasks.report_async.acall)(plain, 1, 2) == 2


def test_a_context_that_is_passed_on_is_the_same_one(running: Any) -> None:
    said: list[dict[str, Any]] = []
    context = TaskContext(task_result=running, report=said.append)
    tasks.report.call(context, 1, 2)
    assert said


@pytest.mark.django_db
def test_a_result_survives_pickling() -> None:
    result = tasks.named.enqueue("hello")
    assert pickle.loads(pickle.dumps(result)) == result
