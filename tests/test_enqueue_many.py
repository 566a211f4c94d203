"""enqueue_many(): one COPY, in the caller's transaction."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import DatabaseError, connection, transaction
from django.dispatch import receiver
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from django_taskq import ArgumentsError, PayloadTooLarge, TaskResult, TaskStatus
from django_taskq.backend import TaskqBackend
from django_taskq.models import LiveTask
from django_taskq.tasks_api import InvalidTask, TaskResultStatus, task_enqueued
from tests import tasks
from tests.rows import IMMEDIATE, live

pytestmark = pytest.mark.django_db


class Undo(Exception):
    """Roll a block back."""


# Each of these means something in COPY's text format.
AWKWARD = [
    "\\",
    "\\N",
    "\\.",
    "a\tb",
    "a\nb",
    "a\r\nb",
    '"',
    "\\\\n",
    "é😀",
    "",
    "\x01\x1f\x7f",
    "'",
]


def test_results_come_in_the_order_of_the_calls() -> None:
    results = tasks.add.enqueue_many([(number,) for number in range(2500)])
    assert len(results) == 2500
    assert [result.args for result in results] == [[number] for number in range(2500)]
    ids = [result.id for result in results]
    assert ids == sorted(ids)
    stored = LiveTask.objects.order_by("id").values_list("id", "args")
    assert [(str(id), args) for id, args in stored] == [
        (id, [number]) for number, id in enumerate(ids)
    ]


def test_rows_of_one_call_run_in_their_order() -> None:
    results = tasks.add.enqueue_many([(number,) for number in range(50)])
    claimed_in = LiveTask.objects.order_by("run_after", "id").values_list("id", flat=True)
    assert [str(id) for id in claimed_in] == [result.id for result in results]


def test_the_rows_are_those_that_enqueue_would_have_made() -> None:
    changed = tasks.named.using(priority=-3, max_attempts=4, timeout=9, expires_after=60)
    (many,) = changed.enqueue_many([("hello",)])
    one = changed.enqueue("hello")
    same = [
        "task",
        "queue_name",
        "priority",
        "args",
        "kwargs",
        "status",
        "attempts",
        "max_attempts",
        "options",
        "errors",
        "crashes",
        "claim",
        "held_for",
        "has_successors",
    ]
    for column in same:
        assert getattr(live(many), column) == getattr(live(one), column), column
    row = live(many)
    assert row.expires_at is not None
    assert abs(row.expires_at - row.enqueued_at - timedelta(minutes=1)) < timedelta(seconds=5)


def test_run_after_holds_for_every_row() -> None:
    later = datetime(2100, 1, 1, tzinfo=UTC)
    for result in tasks.add.using(run_after=later).enqueue_many([(1,), (2,)]):
        assert live(result).run_after == result.run_after == later
    for result in tasks.add.using(run_after=3600).enqueue_many([(1,), (2,)]):
        row = live(result)
        assert row.run_after == result.run_after
        assert timedelta(minutes=59) < row.run_after - row.enqueued_at <= timedelta(hours=1)


def test_a_call_is_a_tuple_a_list_or_a_dict_of_keywords() -> None:
    results = tasks.add.enqueue_many([(1, 2), [3], {"a": 4, "b": 5}])
    assert [(live(r).args, live(r).kwargs) for r in results] == [
        ([1, 2], {}),
        ([3], {}),
        ([], {"a": 4, "b": 5}),
    ]


@pytest.mark.parametrize("call", [5, "ab", None, b"x", {1}])
def test_what_is_no_call_is_refused_with_how_to_write_it(call: Any) -> None:
    with pytest.raises(TypeError, match=r"add\.enqueue_many\(\).*\[\(x,\) for x in"):
        tasks.add.enqueue_many([(1,), call])
    assert not LiveTask.objects.exists()


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        ((object(),), ArgumentsError, "argument 1"),
        (({"a": {1}},), ArgumentsError, r"argument 1\['a'\] is a set"),
        ((), ArgumentsError, "missing a required argument: 'a'"),
        ({"a": 1, "c": 2}, ArgumentsError, "unexpected keyword argument 'c'"),
        ({1: 2}, ArgumentsError, "keywords must be strings"),
        (("x" * 70_000,), PayloadTooLarge, "70,0.. bytes"),
    ],
)
def test_one_bad_call_among_good_ones_enqueues_nothing(call: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        tasks.add.enqueue_many([(1,), call, (3,)])
    assert caught.value.__notes__ == ["This was in item 1 of enqueue_many(); the first is 0."]
    assert not LiveTask.objects.exists()


def test_a_keyword_that_postgresql_cannot_store_is_refused() -> None:
    for key in ("a\x00b", "a\ud800b"):
        with pytest.raises(ArgumentsError):
            tasks.echo.enqueue_many([{key: 1}])
    assert not LiveTask.objects.exists()


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_text_comes_through_copy_unchanged(text: str) -> None:
    given = [text, {text: [text]}, 1e16, -0.0]
    results = tasks.echo.enqueue_many([(given,), {"value": given}])
    assert live(results[0]).args == [given]
    assert live(results[1]).kwargs == {"value": given}


def test_awkward_names_come_through_copy_unchanged() -> None:
    (result,) = tasks.add.using(queue_name="a\\b\tc\nd\\N").enqueue_many([(1,)])
    assert live(result).queue_name == "a\\b\tc\nd\\N"


def test_no_calls_enqueue_nothing(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        assert list(tasks.add.enqueue_many([])) == []
        assert list(tasks.add.enqueue_many(call for call in ())) == []


def test_calls_may_come_from_a_generator() -> None:
    assert len(tasks.add.enqueue_many((number,) for number in range(3))) == 3


def test_many_rows_cost_as_many_statements_as_few() -> None:
    with CaptureQueriesContext(connection) as few:
        tasks.add.enqueue_many([(1,)])
    with CaptureQueriesContext(connection) as many:
        tasks.add.enqueue_many([(number,) for number in range(3000)])
    assert len(many) == len(few) <= 2


def test_the_results_are_a_sequence() -> None:
    results = tasks.add.enqueue_many([(number,) for number in range(5)])
    assert isinstance(results[0], TaskResult)
    assert results[0] is results[0]
    assert results[-1].args == [4]
    assert [result.args for result in results[1:3]] == [[1], [2]]
    assert [result.args for result in reversed(results)] == [[4], [3], [2], [1], [0]]
    assert repr(results) == "<5 task results>"
    for outside in (5, -6):
        with pytest.raises(IndexError):
            results[outside]
    assert results[0].status == TaskResultStatus.READY
    assert results[0].row_status == TaskStatus.READY
    results[0].refresh()


def test_changing_an_argument_afterwards_does_not_change_the_result() -> None:
    numbers = [1]
    results = tasks.echo.enqueue_many([(numbers,)])
    numbers.append(2)
    assert live(results[0]).args == [[1]]
    assert results[0].args == [[1]]


@pytest.mark.django_db(transaction=True)
def test_a_rolled_back_transaction_or_savepoint_leaves_none() -> None:
    with pytest.raises(Undo), transaction.atomic():
        tasks.add.enqueue_many([(1,), (2,)])
        raise Undo
    assert not LiveTask.objects.exists()
    with transaction.atomic():
        with pytest.raises(Undo), transaction.atomic():
            tasks.add.enqueue_many([(1,), (2,)])
            raise Undo
        (kept,) = tasks.add.enqueue_many([(3,)])
    assert [str(row.id) for row in LiveTask.objects.all()] == [kept.id]


def test_in_a_broken_transaction_it_fails_as_any_query_does() -> None:
    with pytest.raises(transaction.TransactionManagementError), transaction.atomic():
        with pytest.raises(DatabaseError), connection.cursor() as cursor:
            cursor.execute("SELECT 1/0")
        transaction.set_rollback(True)
        tasks.add.enqueue_many([(1,)])


def test_the_async_twin_does_the_same() -> None:
    results = async_to_sync(tasks.add.aenqueue_many)([(1,), {"a": 2}])
    assert [live(result).task for result in results] == ["tests.tasks.add"] * 2


def test_task_enqueued_is_sent_once_per_task_if_somebody_listens() -> None:
    heard: list[str] = []

    @receiver(task_enqueued)
    def listen(task_result: TaskResult[Any], **kwargs: Any) -> None:
        heard.append(task_result.id)

    try:
        results = tasks.add.enqueue_many([(1,), (2,), (3,)])
    finally:
        task_enqueued.disconnect(listen)
    assert heard == [result.id for result in results]


def test_a_result_is_made_when_it_is_looked_at_if_nobody_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    new_result = TaskqBackend.new_result

    def note(self: TaskqBackend, task: Any, own: Any, id: str, *rest: Any) -> TaskResult[Any]:
        made.append(id)
        return new_result(self, task, own, id, *rest)

    monkeypatch.setattr(TaskqBackend, "new_result", note)
    results = tasks.add.enqueue_many([(1,), (2,), (3,)])
    assert made == []
    assert results[1].args == [2]
    assert made == [results[1].id]


def test_a_task_of_the_main_module_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.add.func, "__module__", "__main__")
    with pytest.raises(InvalidTask, match=r"__main__"):
        tasks.add.enqueue_many([(1,)])


@override_settings(TASKS={"default": {"BACKEND": IMMEDIATE}})
def test_another_backend_gets_one_call_after_the_other() -> None:
    results = tasks.add.enqueue_many([(1, 2), {"a": 3}])
    assert [result.return_value for result in results] == [3, 3]
