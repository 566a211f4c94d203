"""The backend: which one tasks get, what it checks, and how it reads rows back."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import django
import pytest
from asgiref.sync import async_to_sync
from django.test import override_settings

from django_taskq import (
    Task,
    TaskqError,
    TaskResult,
    TaskStatus,
    UnknownTask,
    enqueue,
    get_result,
    registry,
)
from django_taskq.backend import TaskqBackend
from django_taskq.models import LiveTask
from django_taskq.task import find
from django_taskq.tasks_api import (
    DjangoTask,
    InvalidTask,
    TaskResultDoesNotExist,
    TaskResultMismatch,
    TaskResultStatus,
    task_backends,
)
from tests import tasks
from tests.rows import (
    DJANGO_STATUS,
    DUMMY,
    IMMEDIATE,
    LAST_ERROR,
    OURS,
    finish,
    live,
    make_error,
    make_row,
)

if django.VERSION >= (6, 0):
    from django.tasks import task as django_decorator
else:
    from django_tasks import task as django_decorator

NO_ID = "00000000-0000-7000-8000-000000000000"


def reusable(x: int, y: int = 0) -> int:
    return x + y


def reusable_with_context(context: Any, x: int) -> list[int]:
    return [context.attempt, x]


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget afterwards what a test registered."""
    monkeypatch.setattr(registry, "_tasks", dict(registry._tasks))
    monkeypatch.setattr(registry, "_clashes", {})


# Which backend


def test_without_a_tasks_setting_tasks_get_ours() -> None:
    backend = tasks.add.get_backend()
    assert type(backend) is TaskqBackend
    assert backend.database == "default"
    assert backend.supports_defer
    assert backend.supports_async_task
    assert backend.supports_get_result
    assert backend.supports_priority


def test_without_a_tasks_setting_every_queue_is_welcome() -> None:
    assert tasks.add.using(queue_name="anything").queue_name == "anything"


@override_settings(TASKS={"default": {"BACKEND": OURS}})
def test_with_our_backend_in_the_setting_tasks_get_that_one() -> None:
    assert tasks.add.get_backend() is task_backends["default"]
    assert tasks.add.using(queue_name="anything").queue_name == "anything"


@override_settings(TASKS={"default": {"BACKEND": OURS, "QUEUES": []}})
def test_an_empty_list_of_queues_allows_all() -> None:
    assert tasks.add.using(queue_name="anything").queue_name == "anything"


@override_settings(TASKS={"default": {"BACKEND": IMMEDIATE}, "pg": {"BACKEND": OURS}})
@pytest.mark.django_db
def test_a_task_goes_to_the_backend_that_it_names() -> None:
    assert tasks.add.enqueue(1, 2).return_value == 3
    assert not LiveTask.objects.exists()
    result = tasks.add.using(backend="pg").enqueue(1, 2)
    assert result.backend == "pg"
    assert live(result).args == [1, 2]
    result.refresh()
    assert result.status == TaskResultStatus.READY


@override_settings(TASKS={"default": {"BACKEND": OURS}})
def test_each_thread_has_a_backend_of_its_own_and_all_have_one_registry() -> None:
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(tasks.add.get_backend()))
    thread.start()
    thread.join()
    assert seen[0] is not tasks.add.get_backend()
    assert find("tests.tasks.add") is tasks.add


# Django's own backends


@pytest.fixture
def immediate() -> Any:
    with override_settings(TASKS={"default": {"BACKEND": IMMEDIATE, "QUEUES": []}}):
        yield


@pytest.fixture
def dummy() -> Any:
    with override_settings(TASKS={"default": {"BACKEND": DUMMY, "QUEUES": []}}):
        yield


@pytest.mark.usefixtures("immediate")
def test_immediate_runs_our_tasks_at_once() -> None:
    result = tasks.add.enqueue(1, b=2)
    assert isinstance(result, TaskResult)
    assert result.status == TaskResultStatus.SUCCESSFUL
    assert result.row_status == TaskStatus.SUCCESSFUL
    assert result.return_value == 3
    assert (result.attempts, result.max_attempts) == (1, 1)
    assert tasks.add_async.enqueue(1, 2).return_value == 3
    assert async_to_sync(tasks.add_async.aenqueue)(1, 2).return_value == 3


@pytest.mark.usefixtures("immediate")
def test_waiting_for_an_immediate_task_returns_its_value() -> None:
    assert tasks.add.enqueue(1, 2).wait(timeout=1) == 3
    assert async_to_sync(tasks.add.enqueue(1, 2).async_wait)(timeout=1) == 3


@pytest.mark.usefixtures("immediate")
def test_waiting_for_a_failed_immediate_task_raises_its_error() -> None:
    with pytest.raises(TaskqError, match="fail") as caught:
        tasks.fail.enqueue("no luck").wait(timeout=1)
    assert caught.value.errors[0].exception_class is ValueError


@pytest.mark.usefixtures("immediate")
def test_cancelling_a_finished_immediate_task_says_no() -> None:
    result = tasks.add.enqueue(1, 2)
    assert result.cancel() is False
    assert async_to_sync(result.acancel)() is False
    assert result.return_value == 3


@pytest.mark.usefixtures("immediate")
def test_an_immediate_task_may_report_progress() -> None:
    told = tasks.report.enqueue(1, 2, message="half").return_value
    assert told["attempt"] == 1
    assert told["max_attempts"] == 1
    assert told["is_stopping"] is False
    assert async_to_sync(tasks.report_async.aenqueue)(1, 2).return_value == 1


@pytest.mark.usefixtures("immediate")
def test_immediate_refuses_what_it_cannot_do() -> None:
    with pytest.raises(InvalidTask, match="run_after"):
        tasks.add.using(run_after=datetime(2100, 1, 1, tzinfo=UTC)).enqueue(1)


@pytest.mark.usefixtures("immediate")
def test_immediate_does_not_run_a_delayed_task_now() -> None:
    with pytest.raises(InvalidTask, match="run_after"):
        tasks.add.using(run_after=timedelta(hours=1)).enqueue(1)


@pytest.mark.usefixtures("dummy")
def test_dummy_keeps_our_tasks_unrun() -> None:
    result = tasks.add.using(priority=3, queue_name="mail").enqueue(1, 2)
    assert isinstance(result, TaskResult)
    assert result.status == TaskResultStatus.READY
    assert (result.args, result.task.priority, result.task.queue_name) == ([1, 2], 3, "mail")
    assert [stored.id for stored in task_backends["default"].results] == [result.id]
    result.refresh()
    assert tasks.add.get_result(result.id).id == result.id
    assert async_to_sync(tasks.add.aget_result)(result.id).id == result.id


@pytest.mark.usefixtures("dummy")
def test_dummy_copies_every_kind_of_task() -> None:
    for result in (
        tasks.named.enqueue("hello"),
        tasks.fail_as.using(backoff=[1, 2], timeout=5).enqueue("ValueError"),
        tasks.report.enqueue(1, 2),
        tasks.add_async.enqueue(1),
    ):
        assert result.row_status == TaskStatus.READY


@pytest.mark.usefixtures("dummy")
def test_waiting_for_a_dummy_task_times_out() -> None:
    with pytest.raises(TimeoutError, match=r"add .* is READY after 0\.01 s"):
        tasks.add.enqueue(1).wait(timeout=0.01)


@pytest.mark.usefixtures("dummy")
def test_cancelling_a_dummy_task_says_no() -> None:
    assert tasks.add.enqueue(1).cancel() is False


# Tasks of somebody's reusable app


@pytest.fixture
def plain_task(own_registry: None) -> DjangoTask:
    """Make a task while the default backend is Django's, as a reusable app's module might."""
    with override_settings(TASKS={"default": {"BACKEND": IMMEDIATE}}):
        made = django_decorator(reusable)
    assert not isinstance(made, Task)
    return made


@override_settings(TASKS={"default": {"BACKEND": OURS}})
@pytest.mark.django_db
def test_a_plain_task_of_django_is_enqueued_and_read_back(plain_task: DjangoTask) -> None:
    result = plain_task.enqueue(1, y=2)
    row = live(result)
    assert (row.task, row.args, row.kwargs) == ("tests.test_backend.reusable", [1], {"y": 2})
    assert (row.max_attempts, row.options) == (1, None)
    assert plain_task.get_result(result.id).args == [1]
    finish(result, 3)
    result.refresh()
    assert result.return_value == 3


@override_settings(TASKS={"default": {"BACKEND": OURS}})
@pytest.mark.django_db
def test_a_plain_task_is_known_to_workers_with_default_options(plain_task: DjangoTask) -> None:
    plain_task.using(priority=3).enqueue(1)
    found = find("tests.test_backend.reusable")
    assert isinstance(found, Task)
    assert found.func is reusable
    assert found.max_attempts == 1
    assert LiveTask.objects.get().priority == 3


@override_settings(TASKS={"default": {"BACKEND": IMMEDIATE}, "pg": {"BACKEND": OURS}})
@pytest.mark.django_db
def test_a_plain_task_sent_to_our_backend_by_using_is_accepted(plain_task: DjangoTask) -> None:
    result = plain_task.using(backend="pg", queue_name="mail").enqueue(1)
    assert live(result).queue_name == "mail"
    assert find("tests.test_backend.reusable") is not None
    result.refresh()
    assert result.status == TaskResultStatus.READY


@override_settings(TASKS={"default": {"BACKEND": OURS}})
@pytest.mark.django_db
def test_the_arguments_of_a_plain_task_are_checked_too(plain_task: DjangoTask) -> None:
    with pytest.raises(TaskqError, match="missing a required argument"):
        plain_task.enqueue()
    with pytest.raises(TaskqError, match="bytes"):
        plain_task.enqueue(b"x")


@override_settings(TASKS={"default": {"BACKEND": OURS}})
@pytest.mark.django_db
def test_a_plain_task_may_take_a_context(own_registry: None) -> None:
    with override_settings(TASKS={"default": {"BACKEND": IMMEDIATE}}):
        made = django_decorator(takes_context=True)(reusable_with_context)
    result = made.enqueue(5)
    assert live(result).args == [5]
    found = find("tests.test_backend.reusable_with_context")
    assert found is not None
    assert found.takes_context


# Reading results


@pytest.mark.django_db
@pytest.mark.parametrize("status", TaskStatus)
def test_every_row_reads_as_one_of_djangos_four_words(status: TaskStatus) -> None:
    row = make_row(status)
    result = tasks.add.get_result(str(row.id))
    assert isinstance(result, TaskResult)
    assert result.status == DJANGO_STATUS[status]
    assert isinstance(result.status, TaskResultStatus)
    assert result.row_status == status
    assert isinstance(result.row_status, TaskStatus)
    assert result.is_finished == (status in {"SUCCESSFUL", "FAILED", "CANCELLED", "EXPIRED"})
    assert result.id == str(row.id)
    assert result.args == [1, 2]
    assert result.enqueued_at == row.enqueued_at
    if status in LAST_ERROR:
        assert result.errors[-1].exception_class_path == LAST_ERROR[status]
        with pytest.raises(ValueError, match="failed"):
            _ = result.return_value


def test_every_status_is_covered_by_a_word_of_djangos() -> None:
    assert set(DJANGO_STATUS) == set(TaskStatus)


@pytest.mark.django_db
@pytest.mark.parametrize("status", [TaskStatus.RUNNING, TaskStatus.SUCCESSFUL])
def test_a_result_is_read_in_one_statement(
    status: TaskStatus, django_assert_num_queries: Any
) -> None:
    row = make_row(status)
    with django_assert_num_queries(1):
        result = tasks.add.get_result(str(row.id))
        _ = (result.status, result.errors, result.attempts, result.args)
    with django_assert_num_queries(1):
        result.refresh()


@pytest.mark.django_db
@pytest.mark.parametrize("bad", ["", "5", "not-an-id", "x" * 40, NO_ID, "\x00", None, 5, b"ab"])
def test_no_id_and_an_unknown_id_do_not_exist(bad: Any) -> None:
    with pytest.raises(TaskResultDoesNotExist):
        tasks.add.get_result(bad)
    with pytest.raises(TaskResultDoesNotExist):
        async_to_sync(tasks.add.aget_result)(bad)


@pytest.mark.django_db
def test_an_id_in_another_spelling_is_the_same_id() -> None:
    result = tasks.add.enqueue(1)
    for spelling in (result.id.upper(), result.id.replace("-", "")):
        assert tasks.add.get_result(spelling).id == result.id


@pytest.mark.django_db
def test_a_task_does_not_read_the_results_of_another() -> None:
    result = tasks.add.enqueue(1)
    with pytest.raises(TaskResultMismatch, match=r"tests\.tasks\.add"):
        tasks.echo.get_result(result.id)


@pytest.mark.django_db
def test_a_result_tells_what_the_row_tells() -> None:
    row = make_row(
        TaskStatus.RUNNING,
        queue_name="mail",
        priority=5,
        attempts=2,
        max_attempts=4,
        progress={"done": 1, "total": 2, "message": "half"},
        errors=[make_error("builtins.ValueError", "first")],
    )
    result = tasks.add.get_result(str(row.id))
    assert (result.task.queue_name, result.task.priority) == ("mail", 5)
    assert (result.attempts, result.max_attempts) == (2, 4)
    assert result.progress == {"done": 1, "total": 2, "message": "half"}
    assert result.started_at == result.last_attempted_at == row.started_at
    assert result.run_after == row.run_after
    (error,) = result.errors
    assert error.exception_class is ValueError
    assert (error.message, error.attempt) == ("first", 1)
    assert error.traceback.endswith("builtins.ValueError: first\n")
    assert error.started_at == datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert error.finished_at == datetime(2026, 1, 1, 12, 0, 1, 500_000, tzinfo=UTC)
    assert result.worker_ids == [error.worker, str(row.worker_id)]


@pytest.mark.django_db
def test_a_task_under_its_former_name_is_found_enqueued_and_read_as_the_new_one() -> None:
    assert find("tests.old_tasks.moved") is tasks.moved

    old = make_row(TaskStatus.SUCCESSFUL, task="tests.old_tasks.moved", return_value=5)
    assert tasks.moved.get_result(str(old.id)).return_value == 5
    assert get_result(str(old.id)).task.key == "tests.tasks.moved"

    assert live(enqueue("tests.old_tasks.moved", 5)).task == "tests.tasks.moved"


@pytest.mark.django_db
def test_the_result_of_an_unknown_task_can_be_shown_but_not_run() -> None:
    row = make_row(TaskStatus.HELD, task="shop.tasks.renamed", held_for="unknown:x")
    result = tasks.add.get_backend().get_result(str(row.id))
    assert result.status == TaskResultStatus.READY
    assert result.task.name == "renamed"
    assert result.task.key == "shop.tasks.renamed"
    assert result.task.module_path == "shop.tasks.renamed"
    result.refresh()
    with pytest.raises(UnknownTask, match=r'"shop\.tasks\.renamed".*tasks\.py'):
        result.task(1)
    with pytest.raises(TaskResultMismatch):
        tasks.add.get_result(str(row.id))
    assert result.cancel() is True


@pytest.mark.django_db
@override_settings(TASKS={"default": {"BACKEND": OURS, "QUEUES": ["default", "mail"]}})
def test_a_row_of_a_queue_that_has_left_the_settings_can_still_be_read() -> None:
    row = make_row(TaskStatus.SUCCESSFUL, queue_name="gone", return_value=3)
    result = tasks.add.get_result(str(row.id))
    assert result.task.queue_name == "gone"
    assert result.return_value == 3


@pytest.mark.django_db
def test_get_result_belongs_to_the_backend_too() -> None:
    result = tasks.add.enqueue(1)
    backend = tasks.add.get_backend()
    assert backend.get_result(result.id).id == result.id
    assert async_to_sync(backend.aget_result)(result.id).id == result.id


# The database alias


@override_settings(TASKS={"default": {"BACKEND": OURS, "OPTIONS": {"DATABASE": "nowhere"}}})
def test_a_database_that_does_not_exist_is_named() -> None:
    with pytest.raises(Exception, match="nowhere"):
        tasks.add.enqueue(1)
