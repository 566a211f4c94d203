"""using(): a copy of a task with other options, those that a row can hold."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.test import override_settings

from django_taskq import exponential, registry
from django_taskq.tasks_api import InvalidTask
from tests import tasks
from tests.rows import live

LATER = datetime(2100, 1, 1, tzinfo=UTC)


def test_using_leaves_the_task_as_it_is() -> None:
    before = repr(vars(tasks.add))
    changed = tasks.add.using(priority=9, queue_name="mail", max_attempts=4)
    assert repr(vars(tasks.add)) == before
    assert (changed.priority, changed.queue_name, changed.max_attempts) == (9, "mail", 4)
    assert changed.func is tasks.add.func
    assert changed.key == tasks.add.key


def test_a_copy_does_not_take_the_place_of_the_registered_task() -> None:
    tasks.add.using(priority=9)
    assert registry.get("tests.tasks.add") is tasks.add
    assert "tests.tasks.add" not in registry.clashes()


def test_options_that_are_not_named_are_kept() -> None:
    changed = tasks.fail_as.using(priority=3).using(queue_name="mail")
    assert (changed.priority, changed.queue_name) == (3, "mail")
    assert changed.max_attempts == 3
    assert changed.retry_on == (ConnectionError, OSError)
    assert changed.give_up_on == (FileNotFoundError,)


def test_every_option_that_a_row_can_hold_may_be_given() -> None:
    changed = tasks.add.using(
        priority=-5,
        queue_name="mail",
        run_after=LATER,
        backend="default",
        max_attempts=7,
        backoff=exponential(base=1, cap=2),
        timeout=timedelta(seconds=9),
        soft_timeout=8,
        expires_after=7,
        store_result=False,
    )
    assert changed.priority == -5
    assert changed.queue_name == "mail"
    assert changed.run_after == LATER
    assert changed.max_attempts == 7
    assert changed.backoff == exponential(base=1, cap=2)
    assert (changed.timeout, changed.soft_timeout, changed.expires_after) == (9.0, 8.0, 7.0)
    assert changed.store_result is False


@pytest.mark.parametrize("option", ["name", "retry_on", "give_up_on", "takes_context"])
def test_code_is_refused_with_where_it_belongs(option: str) -> None:
    with pytest.raises(TypeError, match=rf"using\(\) cannot change {option}.*Give it to @task"):
        tasks.add.using(**{option: "anything"})


def test_a_function_as_backoff_is_refused_with_where_it_belongs() -> None:
    with pytest.raises(TypeError, match=r"backoff.*cannot hold a function\. Give it to @task"):
        tasks.add.using(backoff=lambda attempt, error: 1.0)


def test_an_unknown_option_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(TypeError, match=r'unknown option "run_afer"\. Did you mean "run_after"\?$'):
        tasks.add.using(run_afer=5)  # type: ignore[call-arg]


def test_an_unknown_option_that_resembles_none_is_told_with_the_task_and_all_known_ones() -> None:
    with pytest.raises(TypeError) as refused:
        tasks.add.using(colour="red")  # type: ignore[call-arg]
    assert str(refused.value) == (
        'tests.tasks.add.using() got an unknown option "colour". It takes priority, queue_name, '
        "run_after, backend, max_attempts, backoff, timeout, soft_timeout, expires_after, "
        "store_result."
    )


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"priority": 101}, InvalidTask, "priority"),
        ({"priority": True}, InvalidTask, "priority is a whole number, not True"),
        ({"max_attempts": 0}, InvalidTask, "max_attempts=0"),
        ({"queue_name": ""}, InvalidTask, "queue_name is text"),
        ({"timeout": -1}, InvalidTask, "timeout=-1"),
        ({"backoff": "soon"}, InvalidTask, "backoff takes seconds"),
        ({"soft_timeout": 9, "timeout": 3}, InvalidTask, "soft_timeout=9 s must be shorter"),
        ({"run_after": datetime(2100, 1, 1)}, InvalidTask, "naive.*timezone.now.*timedelta"),
        ({"run_after": "tomorrow"}, TypeError, "run_after takes seconds or a timedelta"),
        ({"run_after": date(2100, 1, 1)}, TypeError, "run_after takes seconds or a timedelta"),
        ({"run_after": True}, TypeError, "run_after takes seconds or a timedelta, not True"),
        ({"run_after": float("nan")}, TypeError, "run_after takes seconds or a timedelta"),
        ({"run_after": float("inf")}, ValueError, "run_after=inf"),
        ({"run_after": 1e11}, ValueError, "30 years"),
    ],
)
def test_a_bad_value_is_refused_at_the_call(options: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        tasks.add.using(**options)


@override_settings(USE_TZ=False)
def test_naive_times_are_welcome_where_the_project_uses_no_time_zones() -> None:
    assert tasks.add.using(run_after=datetime(2100, 1, 1)).run_after == datetime(2100, 1, 1)


@override_settings(
    TASKS={"default": {"BACKEND": "django_taskq.backend.TaskqBackend", "QUEUES": ["default"]}}
)
def test_a_queue_that_the_settings_do_not_list_is_refused() -> None:
    with pytest.raises(InvalidTask, match=r'"defualt" is not among .* Did you mean "default"\?'):
        tasks.add.using(queue_name="defualt")


@pytest.mark.django_db
@pytest.mark.parametrize("delay", [3600, 3600.0, timedelta(hours=1)])
def test_run_after_as_a_delay_counts_from_each_enqueue(delay: Any) -> None:
    later = tasks.add.using(run_after=delay)
    first, second = live(later.enqueue(1)), live(later.enqueue(2))
    assert first.run_after - first.enqueued_at == timedelta(hours=1)
    assert second.run_after - second.enqueued_at == timedelta(hours=1)
    assert second.enqueued_at > first.enqueued_at


@pytest.mark.django_db
def test_run_after_as_a_moment_is_stored_as_given() -> None:
    result = tasks.add.using(run_after=LATER).enqueue(1)
    assert result.run_after == LATER
    assert live(result).run_after == LATER


@pytest.mark.django_db
def test_the_last_run_after_wins() -> None:
    assert live(tasks.add.using(run_after=60).using(run_after=LATER).enqueue(1)).run_after == LATER
    row = live(tasks.add.using(run_after=LATER).using(run_after=60).enqueue(1))
    assert row.run_after - row.enqueued_at == timedelta(minutes=1)


@pytest.mark.django_db
@pytest.mark.parametrize("past", [-5, timedelta(days=-1), datetime(2001, 1, 1, tzinfo=UTC)])
def test_a_time_in_the_past_means_now(past: Any) -> None:
    row = live(tasks.add.using(run_after=past, expires_after=60).enqueue(1))
    assert row.run_after <= row.enqueued_at
    assert row.expires_at is not None
    assert row.expires_at - row.enqueued_at == timedelta(minutes=1)


@pytest.mark.django_db
def test_expiry_counts_from_the_later_of_enqueue_and_run_after() -> None:
    row = live(tasks.add.using(run_after=3600, expires_after=60).enqueue(1))
    assert row.expires_at is not None
    assert row.expires_at - row.run_after == timedelta(minutes=1)


@pytest.mark.django_db
def test_the_row_holds_what_differs_from_the_registered_task() -> None:
    row = live(
        tasks.add.using(
            priority=-5,
            queue_name="mail",
            max_attempts=7,
            backoff=[1, 2],
            timeout=9,
            soft_timeout=8,
            store_result=False,
        ).enqueue(1)
    )
    assert (row.priority, row.queue_name, row.max_attempts) == (-5, "mail", 7)
    assert row.options == {
        "backoff": [1.0, 2.0],
        "timeout": 9.0,
        "soft_timeout": 8.0,
        "store_result": False,
    }


@pytest.mark.django_db
def test_none_takes_a_limit_away() -> None:
    limited = tasks.add.using(timeout=9, soft_timeout=8, expires_after=7)
    row = live(limited.using(timeout=None, soft_timeout=None, expires_after=None).enqueue(1))
    assert (row.options, row.expires_at) == (None, None)


@pytest.mark.django_db
@override_settings(DJANGO_TASKQ={"TASK_DEFAULTS": {"timeout": 60}})
def test_the_row_says_that_a_limit_was_taken_away() -> None:
    assert live(tasks.add.using(timeout=None).enqueue(1)).options == {"timeout": None}


@pytest.mark.parametrize("option", ["max_attempts", "backoff", "store_result"])
def test_none_is_refused_where_it_could_mean_anything(option: str) -> None:
    with pytest.raises(InvalidTask, match=rf"{option} .*not None"):
        tasks.add.using(**{option: None})


def test_none_leaves_djangos_own_options_as_they_are_as_it_does_in_django() -> None:
    chosen = tasks.add.using(priority=3, queue_name="mail", run_after=LATER)
    same = chosen.using(priority=None, queue_name=None, run_after=None, backend=None)
    assert (same.priority, same.queue_name, same.run_after) == (3, "mail", LATER)
    assert same.backend == "default"


@pytest.mark.django_db
def test_the_row_stays_bare_where_nothing_differs() -> None:
    assert live(tasks.fail_as.enqueue("ValueError")).options is None
    assert live(tasks.fail_as.using(priority=3).enqueue("ValueError")).options is None
