"""Run a task here and now."""

from __future__ import annotations

from typing import Any

import pytest

from django_taskq import ArgumentsError, Retry, UnknownTask, control
from django_taskq.models import LiveTask


def test_a_task_runs_here_and_leaves_no_row(db: None) -> None:
    ran = control.run_here("tests.tasks.add", [1], {"b": 2})

    assert (ran.task, ran.return_value, ran.problem) == ("tests.tasks.add", 3, None)
    assert ran.seconds >= 0
    assert not LiveTask.objects.exists()


def test_an_async_task_runs_here_too() -> None:
    assert control.run_here("tests.tasks.add_async", [1, 2]).return_value == 3


def test_arguments_arrive_as_they_would_from_a_row() -> None:
    ran = control.run_here("tests.tasks.echo", [(1, 2)], {"x": {"y": None}})

    assert ran.return_value == {"args": [[1, 2]], "kwargs": {"x": {"y": None}}}
    with pytest.raises(ArgumentsError, match="is a set"):
        control.run_here("tests.tasks.echo", [{1}])


def test_the_function_has_to_take_the_arguments() -> None:
    with pytest.raises(ArgumentsError, match=r"missing a required argument: 'a'\. The"):
        control.run_here("tests.tasks.add", [])


def test_a_name_that_is_not_known_is_helped() -> None:
    with pytest.raises(UnknownTask, match=r'Did you mean "tests\.tasks\.add"'):
        control.run_here("tests.tasks.ad")


def test_a_value_that_could_not_be_stored_is_told() -> None:
    ran = control.run_here("tests.tasks.unstorable")

    assert type(ran.return_value) is object
    assert ran.problem is not None and "is an object" in ran.problem


def test_what_the_task_raises_is_raised() -> None:
    with pytest.raises(ValueError, match="no such order"):
        control.run_here("tests.tasks.fail", ["no such order"])
    with pytest.raises(Retry, match="later"):
        control.run_here("tests.tasks.say", ["retry"], {"message": "later"})


@pytest.mark.parametrize("name", ["tests.tasks.report", "tests.tasks.report_async"])
def test_a_task_with_a_context_is_given_one_and_reports(name: str) -> None:
    told: list[dict[str, Any]] = []

    control.run_here(name, [1, 2], report=told.append)

    assert (told[0]["done"], told[0]["total"]) == (1, 2)


def test_the_first_attempt_is_the_one_that_runs_here() -> None:
    assert control.run_here("tests.tasks.succeed_at", [1]).return_value == 1
    with pytest.raises(ArgumentsError, match="missing"):
        control.run_here("tests.tasks.succeed_at", [])
