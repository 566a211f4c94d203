"""Options that a project gives to all its tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import django
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

from django_taskq import exponential, registry, task
from django_taskq.task import Task, adopt, find
from django_taskq.task_class import _DEFAULTS
from django_taskq.task_defaults import PLAIN, project_defaults
from django_taskq.tasks_api import DjangoTask, InvalidTask
from tests import tasks
from tests.rows import IMMEDIATE, OURS, live
from tests.worker import samples
from tests.worker.samples import claimed
from tests.worker.test_executor import Watched

if django.VERSION >= (6, 0):
    from django.tasks import task as django_decorator
else:
    from django_tasks import task as django_decorator


def plain(x: int = 1) -> int:
    return x


def using(**options: Any) -> Any:
    return override_settings(DJANGO_TASKQ={"TASK_DEFAULTS": options})


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget afterwards what a test registered."""
    monkeypatch.setattr(registry, "_tasks", dict(registry._tasks))
    monkeypatch.setattr(registry, "_clashes", {})
    yield


def test_without_the_setting_nothing_is_different() -> None:
    made = task(plain)
    for option, value in PLAIN.items():
        assert getattr(made, option) == getattr(_DEFAULTS, option, None) == value


def test_a_task_takes_the_projects_defaults_where_its_decorator_says_nothing() -> None:
    with using(max_attempts=5, timeout=60, queue_name="slow", backoff=[1, 2], retry_on=OSError):
        open_one = task(plain)
        own = task(name="own", max_attempts=1, queue_name="default", timeout=None)(plain)

        assert (open_one.max_attempts, open_one.timeout, open_one.queue_name) == (5, 60.0, "slow")
        assert (open_one.backoff, open_one.retry_on) == ((1.0, 2.0), (OSError,))
        assert (own.max_attempts, own.timeout, own.queue_name) == (1, None, "default")


def test_a_task_that_is_started_at_most_once_keeps_its_one_attempt() -> None:
    with using(max_attempts=5):
        assert task(at_most_once=True, name="once by default")(plain).max_attempts == 1


def test_tasks_that_there_are_already_follow_a_change_and_its_end() -> None:
    with using(priority=7, store_result=False):
        assert (tasks.add.priority, tasks.add.store_result) == (7, False)
        assert tasks.named.priority == 7  # as its decorator says
        assert tasks.forgetful.store_result is False
    assert (tasks.add.priority, tasks.add.store_result) == (0, True)
    assert tasks.named.priority == 7


def test_using_wins_over_the_projects_defaults() -> None:
    with using(max_attempts=5, queue_name="slow"):
        copy = tasks.add.using(max_attempts=1, queue_name="default")
        assert (copy.max_attempts, copy.queue_name) == (1, "default")
        assert tasks.add.using(priority=3).max_attempts == 5


@pytest.mark.django_db
def test_rows_are_written_with_the_projects_defaults() -> None:
    with using(max_attempts=5, queue_name="slow", expires_after=60):
        row = live(tasks.add.enqueue(1))

    assert (row.max_attempts, row.queue_name) == (5, "slow")
    assert row.expires_at is not None


def test_what_a_row_does_not_hold_is_looked_up_when_the_task_runs() -> None:
    with using(max_attempts=4, backoff=9):
        outcome: Any = Watched().run(claimed(samples.fail, "ValueError"))

    assert outcome.delay == 9


@pytest.mark.parametrize(("backend", "made"), [(OURS, Task), (IMMEDIATE, DjangoTask)])
def test_tasks_of_djangos_own_decorator_take_them_too(backend: str, made: type) -> None:
    with (
        using(max_attempts=5, priority=9, queue_name="slow"),
        override_settings(TASKS={"default": {"BACKEND": backend, "QUEUES": []}}),
    ):
        open_one = django_decorator(plain)
        assert type(open_one) is made
        seen = adopt(open_one)
        assert (seen.max_attempts, seen.priority, seen.queue_name) == (5, 9, "slow")
        assert adopt(django_decorator(queue_name="own")(plain)).queue_name == "own"


def test_a_plain_task_that_is_registered_takes_them_when_it_is_found() -> None:
    registry.add_plain(django_decorator(plain))
    with using(max_attempts=5):
        found = find(f"{plain.__module__}.plain")
        assert found is not None
        assert found.max_attempts == 5
    assert found.max_attempts == 1


def test_a_limit_that_does_not_fit_the_projects_is_refused_with_its_origin() -> None:
    with using(timeout=5), pytest.raises(InvalidTask, match=r"timeout=5 s.*TASK_DEFAULTS"):
        task(soft_timeout=9)(plain)
    with pytest.raises(InvalidTask) as caught:
        task(soft_timeout=9, timeout=5)(plain)
    assert "TASK_DEFAULTS" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([("max_attempts", 5)], "it takes a dict of options of @task"),
        ({"max_attempt": 5}, r"unknown option 'max_attempt'\. Did you mean \"max_attempts\"\?"),
        ({5: 5}, "unknown option 5"),
        ({"name": "x"}, r"cannot hold 'name': give it to the @task"),
        ({"takes_context": True}, "cannot hold 'takes_context'"),
        ({"max_attempts": 0}, r'^DJANGO_TASKQ\["TASK_DEFAULTS"\]: max_attempts=0 is not within'),
        ({"timeout": "5"}, "timeout takes seconds or a timedelta"),
        ({"timeout": 5, "soft_timeout": 9}, "must be shorter than timeout=5"),
        ({"backoff": "fast"}, "backoff takes seconds"),
        ({"priority": 101}, "priority=101 is not within"),
    ],
)
def test_a_mistake_in_the_setting_is_named_by_the_check(given: Any, words: str) -> None:
    with override_settings(DJANGO_TASKQ={"TASK_DEFAULTS": given}):
        with pytest.raises(ImproperlyConfigured, match=words):
            project_defaults()
        with pytest.raises(SystemCheckError, match=r"(?s)django_taskq.E002"):
            call_command("check")
        assert task(plain).max_attempts == 1  # importing it does not fail


def test_a_backoff_of_the_projects_is_used() -> None:
    with using(backoff=exponential(base=2, cap=8)):
        assert task(plain).backoff == exponential(base=2, cap=8)
