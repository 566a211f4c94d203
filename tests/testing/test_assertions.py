"""assert_enqueued() and its relatives: what was enqueued, and messages that help."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest.mock import ANY

import pytest
from django.utils import timezone

from django_taskq import UnknownTask
from django_taskq.models import LiveTask
from django_taskq.testing import (
    assert_enqueued,
    assert_not_enqueued,
    capture_enqueued,
    drain,
    enqueued,
    run_inline,
    waiting,
)
from tests.testing import tasks
from tests.testing.tasks import EVENTS, note, send_mail

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


def message(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def test_any_arguments_will_do_where_none_are_given() -> None:
    send_mail.enqueue("ada@example.com")
    assert_enqueued(send_mail)
    assert_enqueued("tests.testing.tasks.send_mail")
    assert_enqueued(send_mail.using(priority=3))
    assert_not_enqueued(note)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("ada@example.com",), {}),
        ((), {"to": "ada@example.com"}),
        (("ada@example.com", "Hello"), {"urgent": False}),
        ((ANY,), {}),
    ],
)
def test_arguments_are_compared_as_the_function_takes_them(args: Any, kwargs: Any) -> None:
    send_mail.enqueue(to="ada@example.com")
    assert_enqueued(send_mail, *args, **kwargs)


def test_other_arguments_are_not_taken() -> None:
    send_mail.enqueue("ada@example.com", urgent=True)
    assert_not_enqueued(send_mail, "ada@example.com")
    assert_not_enqueued(send_mail, "grace@example.com", urgent=True)
    assert message(assert_enqueued, send_mail, "ada@example.com", "Hi") == (
        "tests.testing.tasks.send_mail('ada@example.com', 'Hi') was not enqueued.\n"
        "What was enqueued:\n"
        "  tests.testing.tasks.send_mail('ada@example.com', urgent=True)  queue mail  READY"
    )


def test_tuples_are_lists_as_they_are_in_json() -> None:
    note.enqueue((1, {"a": (2,)}))
    assert_enqueued(note, (1, {"a": (2,)}))
    assert_enqueued(note, [1, {"a": [2]}])


def test_the_context_is_no_argument() -> None:
    tasks.succeed_at.enqueue(2)
    assert_enqueued(tasks.succeed_at, attempt=2)


def test_how_often_can_be_asked() -> None:
    for _ in range(3):
        note.enqueue(1)
    assert_enqueued(note, 1, times=3)
    assert_enqueued(note, 2, times=0)
    assert "note(1) was not enqueued twice, but 3 times.\n" in message(
        assert_enqueued, note, 1, times=2
    )


def test_the_queue_can_be_asked() -> None:
    send_mail.using(queue_name="bulk").enqueue("ada@example.com")
    assert_enqueued(send_mail, queue_name="bulk")
    assert "send_mail in queue 'mail' was not enqueued." in message(
        assert_enqueued, send_mail, queue_name="mail"
    )


def test_the_time_can_be_asked() -> None:
    tomorrow = timezone.now() + timedelta(days=1)
    note.using(run_after=HOUR).enqueue("soon")
    note.using(run_after=tomorrow).enqueue("tomorrow")
    assert_enqueued(note, "soon", run_after=HOUR)
    assert_enqueued(note, "tomorrow", run_after=tomorrow)
    assert_not_enqueued(note, "soon", run_after=2 * HOUR)
    assert_not_enqueued(note, "tomorrow", run_after=tomorrow + HOUR)
    assert "note('soon')  queue default  READY  due 1:00:00 after enqueueing" in message(
        assert_enqueued, note, "soon", run_after=tomorrow
    )


def test_what_must_not_be_enqueued_is_shown_when_it_is() -> None:
    assert_not_enqueued()
    note.enqueue(1)
    assert message(assert_not_enqueued, note) == (
        "tests.testing.tasks.note was enqueued once.\n"
        "What was enqueued:\n  tests.testing.tasks.note(1)  queue default  READY"
    )
    assert message(assert_not_enqueued).startswith("Something was enqueued.\n")


def test_a_message_begins_with_the_task_that_was_asked_for_and_ends_in_time() -> None:
    note.enqueue_many([(number,) for number in range(30)])
    send_mail.enqueue("ada@example.com")
    said = message(assert_enqueued, send_mail, "grace@example.com").splitlines()
    assert "send_mail('ada@example.com')" in said[2]
    assert len(said) == 23 and said[-1] == "  … and 11 more"


def test_nothing_enqueued_is_said() -> None:
    assert message(assert_enqueued, note).endswith("Nothing was enqueued.")


def test_tasks_count_whether_they_have_run_or_not() -> None:
    note.enqueue("run")
    drain()
    note.enqueue("waits")
    assert_enqueued(note, times=2)
    assert [result.args for result in enqueued()] == [["run"], ["waits"]]
    assert [result.args for result in waiting()] == [["waits"]]
    with run_inline():
        note.enqueue("inline")
    assert_enqueued(note, "inline")
    assert "note('run')  queue default  SUCCESSFUL" in message(assert_enqueued, note, "gone")


def test_what_is_enqueued_is_listed_with_its_options() -> None:
    send_mail.using(priority=7).enqueue("ada@example.com")
    note.enqueue(1)
    [result] = enqueued(send_mail)
    assert (result.args, result.kwargs) == (["ada@example.com"], {})
    assert (result.task.priority, result.task.queue_name) == (7, "mail")
    assert len(enqueued()) == 2


def test_a_block_looks_only_at_what_is_enqueued_inside() -> None:
    note.enqueue("before")
    with capture_enqueued() as inside:
        assert len(inside) == 0
        note.enqueue("inside")
        inside.assert_enqueued(note, "inside")
    note.enqueue("after")
    inside.assert_enqueued(note, times=1)
    inside.assert_not_enqueued(note, "before")
    inside.assert_not_enqueued(note, "after")
    assert [result.args for result in inside] == [["inside"]]
    assert inside.results(send_mail) == []
    assert "before" not in message(inside.assert_enqueued, note, "x")


def test_what_is_run_inside_a_block_counts() -> None:
    with capture_enqueued() as inside:
        tasks.spread.enqueue(1)
        drain()
    inside.assert_enqueued(tasks.spread, 0, times=2)
    assert all(result.is_finished for result in inside)
    assert len(EVENTS) == 3


def test_a_call_that_is_impossible_is_a_mistake_of_the_test() -> None:
    with pytest.raises(
        TypeError, match=r"missing a required argument: 'to'. The task is send_mail"
    ):
        assert_enqueued(send_mail, urgent=True)
    with pytest.raises(UnknownTask, match=r"send_male.*Did you mean"):
        assert_enqueued("tests.testing.tasks.send_male")
    with pytest.raises(TypeError, match="takes a task or the name of one"):
        assert_enqueued(print)  # type: ignore[arg-type]


def test_a_row_that_somebody_else_inserted_is_listed_as_it_is() -> None:
    LiveTask.objects.create(task=note.key, args=[1, 2, 3])
    LiveTask.objects.create(task="shop.tasks.gone")
    assert_enqueued(note)
    assert_not_enqueued(note, 1)
    said = message(assert_enqueued, note, 1)
    assert "gone(…)  queue default  READY  (no task of this name is registered)" in said


def test_secret_arguments_are_compared_and_not_shown() -> None:
    tasks.log_in.enqueue("ada", token="s3cret")
    assert_enqueued(tasks.log_in, "ada", "s3cret")
    said = message(assert_enqueued, tasks.log_in, "ada", token="other")
    assert "log_in('ada', token='" in said
    assert "s3cret" not in said and "other" not in said


def test_a_task_that_was_enqueued_under_its_former_name_is_found() -> None:
    LiveTask.objects.create(task="tests.testing.old_note", args=[1])
    assert_enqueued(note, 1)
    assert len(enqueued(note)) == 1
