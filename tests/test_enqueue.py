"""enqueue(): a row appears, in the caller's transaction and nowhere else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from django.db import DatabaseError, connection, transaction
from django.dispatch import receiver
from django.test import override_settings
from django.utils import timezone

from django_taskq import (
    ArgumentsError,
    PayloadTooLarge,
    TaskqError,
    TaskResult,
    TaskStatus,
    UnknownTask,
    aenqueue,
    enqueue,
)
from django_taskq.backend import TaskqBackend
from django_taskq.ids import new_id
from django_taskq.models import LiveTask
from django_taskq.tasks_api import TaskResultStatus, task_enqueued
from tests import tasks
from tests.rows import live, second_connection


class Undo(Exception):
    """Roll a block back."""


# The row and its handle


@pytest.mark.django_db
def test_enqueue_makes_one_ready_row_with_everything_in_it() -> None:
    before = timezone.now() - timedelta(minutes=1)
    result = tasks.named.enqueue("hello", urgent=True)
    row = LiveTask.objects.get()
    assert str(row.id) == result.id
    assert UUID(result.id).version == 7
    assert row.task == "samples.named"
    assert row.queue_name == "mail"
    assert row.priority == 7
    assert row.args == ["hello"]
    assert row.kwargs == {"urgent": True}
    assert row.status == TaskStatus.READY
    assert before < row.enqueued_at < timezone.now() + timedelta(minutes=1)
    # Each is the clock's own reading.
    assert abs(row.run_after - row.enqueued_at) < timedelta(seconds=1)
    assert (row.attempts, row.max_attempts, row.crashes) == (0, 1, 0)
    assert (row.claim, row.worker_id, row.started_at) == (None, None, None)
    assert (row.expires_at, row.held_for, row.options, row.progress) == (None, None, None, None)
    assert row.errors == []
    assert row.has_successors is False


@pytest.mark.django_db
def test_the_handle_knows_what_was_enqueued_without_asking_the_database(
    django_assert_num_queries: Any,
) -> None:
    with django_assert_num_queries(1):
        result = tasks.named.enqueue("hello", urgent=True)
        assert isinstance(result, TaskResult)
        assert result.task is tasks.named
        assert result.args == ["hello"]
        assert result.kwargs == {"urgent": True}
        assert result.status == TaskResultStatus.READY
        assert result.row_status == TaskStatus.READY
        assert result.backend == "default"
        assert not result.is_finished
        assert (result.attempts, result.max_attempts) == (0, 1)
        assert (result.errors, result.worker_ids) == ([], [])
        assert (result.started_at, result.finished_at, result.last_attempted_at) == (None,) * 3
        enqueued_at, run_after = result.enqueued_at, result.run_after
    row = live(result)
    assert (enqueued_at, run_after) == (row.enqueued_at, row.run_after)


@pytest.mark.django_db
def test_tasks_of_one_long_transaction_are_stamped_when_they_are_enqueued() -> None:
    first, second = tasks.add.enqueue(1), tasks.add.enqueue(2)
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        began = cursor.fetchone()[0]
    assert began < live(first).run_after < live(second).run_after


@pytest.mark.django_db
def test_ids_ascend_in_the_order_of_enqueueing() -> None:
    ids = [tasks.add.enqueue(number).id for number in range(5)]
    assert ids == sorted(ids)


@pytest.mark.django_db
def test_aenqueue_does_the_same() -> None:
    result = async_to_sync(tasks.add_async.aenqueue)(1, b=2)
    assert isinstance(result, TaskResult)
    row = live(result)
    assert (row.task, row.args, row.kwargs) == ("tests.tasks.add_async", [1], {"b": 2})


@pytest.mark.django_db
def test_changing_an_argument_afterwards_changes_nothing() -> None:
    numbers = [1, 2]
    result = tasks.echo.enqueue(numbers)
    numbers.append(3)
    assert result.args == [[1, 2]]
    assert live(result).args == [[1, 2]]


@pytest.mark.django_db
def test_a_context_is_not_among_the_arguments() -> None:
    assert live(tasks.report.enqueue(1, 2, message="half")).args == [1, 2]


# Transactions


@pytest.mark.django_db(transaction=True)
def test_a_task_of_a_rolled_back_transaction_never_existed() -> None:
    with pytest.raises(Undo), transaction.atomic():
        result = tasks.add.enqueue(1)
        assert live(result).status == TaskStatus.READY
        raise Undo
    assert not LiveTask.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_task_of_a_rolled_back_savepoint_never_existed_and_its_neighbours_do() -> None:
    with transaction.atomic():
        before = tasks.add.enqueue(1)
        with pytest.raises(Undo), transaction.atomic():
            tasks.add.enqueue(2)
            raise Undo
        after = tasks.add.enqueue(3)
    assert {str(row.id) for row in LiveTask.objects.all()} == {before.id, after.id}


@pytest.mark.django_db(transaction=True)
def test_others_see_a_task_when_the_transaction_has_committed() -> None:
    count = "SELECT count(*) FROM django_taskq_livetask"
    with second_connection() as other:
        with transaction.atomic():
            tasks.add.enqueue(1)
            assert other.execute(count).fetchone() == (0,)
        assert other.execute(count).fetchone() == (1,)


@pytest.mark.django_db
def test_a_refused_call_leaves_the_transaction_usable() -> None:
    with pytest.raises(ArgumentsError):
        tasks.add.enqueue(object())  # type: ignore[arg-type]
    tasks.add.enqueue(1)
    assert LiveTask.objects.count() == 1


@pytest.mark.django_db
def test_in_a_broken_transaction_enqueue_fails_as_any_query_does() -> None:
    with pytest.raises(transaction.TransactionManagementError), transaction.atomic():
        with pytest.raises(DatabaseError), connection.cursor() as cursor:
            cursor.execute("SELECT 1/0")
        transaction.set_rollback(True)
        tasks.add.enqueue(1)


# Arguments


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, r"missing a required argument: 'a'.*add\(a: 'int', b: 'int' = 0\)"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"a": 1}, "multiple values for argument 'a'"),
        ((1,), {"c": 1}, "unexpected keyword argument 'c'"),
    ],
)
def test_arguments_that_the_function_does_not_take_are_refused(
    args: Any, kwargs: Any, words: str
) -> None:
    with pytest.raises(ArgumentsError, match=words) as caught:
        tasks.add.enqueue(*args, **kwargs)
    assert str(caught.value).startswith("add.enqueue(): ")
    assert isinstance(caught.value, TypeError)


def test_keyword_only_arguments_are_checked() -> None:
    with pytest.raises(ArgumentsError, match="too many positional"):
        tasks.named.enqueue("hello", True)  # type: ignore[misc]


def test_the_signature_in_the_message_leaves_the_context_out() -> None:
    with pytest.raises(ArgumentsError, match="missing") as caught:
        tasks.report.enqueue(1)  # type: ignore[call-arg]
    assert "report(done: 'int', total: 'int', message: 'str' = '')" in str(caught.value)
    with pytest.raises(ArgumentsError, match="too many"):
        tasks.report.enqueue(None, 1, 2, "half")  # type: ignore[arg-type]


def test_nothing_is_enqueued_after_a_refusal(django_assert_num_queries: Any, db: None) -> None:
    with django_assert_num_queries(0):
        for bad in (b"bytes", float("nan"), {1: 2}, {1, 2}, "\x00"):
            with pytest.raises(ArgumentsError):
                tasks.echo.enqueue(bad)


@pytest.mark.django_db
def test_a_keyword_that_postgresql_cannot_store_is_refused() -> None:
    for key in ("a\x00b", "a\ud800b"):
        with pytest.raises(ArgumentsError):
            tasks.echo.enqueue(**{key: 1})


@pytest.mark.django_db
def test_a_model_instance_is_refused_with_what_to_pass_instead() -> None:
    row = live(tasks.add.enqueue(1))
    with pytest.raises(ArgumentsError, match=r"argument 1 is a.*LiveTask.*Pass its pk"):
        tasks.echo.enqueue(row)


@pytest.mark.django_db
def test_a_payload_at_the_limit_is_taken_and_one_byte_more_is_refused() -> None:
    with override_settings(DJANGO_TASKQ={"PAYLOAD_LIMIT": 100}):
        # ["…"] and {} take six bytes.
        assert live(tasks.echo.enqueue("x" * 94)).args == ["x" * 94]
        assert live(tasks.echo.enqueue("é" * 47)).args == ["é" * 47]
        for text in ("x" * 95, "é" * 47 + "x"):
            with pytest.raises(PayloadTooLarge, match=r"echo: .*101 bytes.*limit is 100") as caught:
                tasks.echo.enqueue(text)
            assert 'DJANGO_TASKQ["PAYLOAD_LIMIT"]' in str(caught.value)
            assert "pass its id" in str(caught.value)


@pytest.mark.django_db
def test_the_payload_limit_is_64_kilobytes_by_default() -> None:
    tasks.echo.enqueue("x" * (64 * 1024 - 6))
    with pytest.raises(PayloadTooLarge, match=r"65,537 bytes"):
        tasks.echo.enqueue("x" * (64 * 1024 - 5))


# By name


@pytest.mark.django_db
def test_a_task_is_enqueued_by_its_registered_name() -> None:
    assert live(enqueue("tests.tasks.add", 1, b=2)).kwargs == {"b": 2}
    assert live(enqueue("samples.named", "hello")).queue_name == "mail"
    assert live(async_to_sync(aenqueue)("samples.named", "hello")).args == ["hello"]


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(UnknownTask, match=r'"tests\.tasks\.ad"\. Did you mean "tests\.tasks\.add"'):
        enqueue("tests.tasks.ad", 1)
    with pytest.raises(UnknownTask, match=r"tasks\.py of an installed app"):
        async_to_sync(aenqueue)("zzzzzz")
    assert issubclass(UnknownTask, LookupError)
    assert issubclass(UnknownTask, TaskqError)


def test_a_name_never_imports_a_module() -> None:
    with pytest.raises(UnknownTask):
        enqueue("os.system", "true")


# Other doors


@pytest.mark.django_db
def test_a_plain_sql_insert_of_the_documented_columns_is_a_valid_task() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_taskq_livetask (task, args, kwargs)"
            " VALUES ('tests.tasks.add', '[1]', '{\"b\": 2}') RETURNING id"
        )
        (new_id,) = cursor.fetchone()
    row = LiveTask.objects.get(pk=new_id)
    assert new_id.version == 7
    assert row.status == TaskStatus.READY
    assert (row.queue_name, row.priority) == ("default", 0)
    assert (row.args, row.kwargs) == ([1], {"b": 2})
    assert row.run_after <= timezone.now()
    result = tasks.add.get_result(str(new_id))
    assert result.status == TaskResultStatus.READY
    assert (result.args, result.kwargs, result.max_attempts) == ([1], {"b": 2}, 1)


@pytest.mark.django_db
def test_a_plain_sql_insert_needs_a_task_name_only() -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO django_taskq_livetask (task) VALUES ('tests.tasks.succeed_at')")
    row = LiveTask.objects.get()
    assert (row.args, row.kwargs, row.max_attempts) == ([], {}, None)
    # The decorator's own limit holds then.
    assert tasks.succeed_at.get_result(str(row.id)).max_attempts == 5


@pytest.mark.django_db
def test_the_id_that_sql_makes_sorts_among_those_that_python_makes() -> None:
    before = new_id()
    with connection.cursor() as cursor:
        cursor.execute("SELECT django_taskq_new_id()::text")
        made = cursor.fetchone()[0]
    assert before[:8] <= made[:8] <= new_id()[:8]
    assert UUID(made).version == 7
    assert UUID(made).variant == UUID(before).variant


# Django's signal


@pytest.mark.django_db(transaction=True)
def test_task_enqueued_is_sent_inside_the_transaction() -> None:
    heard: list[Any] = []

    @receiver(task_enqueued)
    def listen(sender: Any, task_result: TaskResult[Any], **kwargs: Any) -> None:
        assert LiveTask.objects.filter(pk=task_result.id).exists()
        heard.append((sender, task_result.id, connection.in_atomic_block))

    try:
        with transaction.atomic():
            result = tasks.add.enqueue(1)
    finally:
        task_enqueued.disconnect(listen)
    assert heard == [(TaskqBackend, result.id, True)]


def test_times_far_away_are_stored(db: None) -> None:
    far = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
    assert live(tasks.add.using(run_after=far).enqueue(1)).run_after == far
