"""Retry and cancel: by ids, by filters, in batches, with what was left and why."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from django_taskq import TaskStatus, control
from django_taskq.control import ControlError
from django_taskq.control.bulk import Changed, Skipped
from django_taskq.models import FinishedTask, LiveTask
from django_taskq.transitions import operate
from tests import tasks
from tests.rows import finish, make_error, make_row, second_connection

pytestmark = pytest.mark.django_db


def ids_of(*rows: Any) -> list[str]:
    return [str(row.pk) for row in rows]


@pytest.mark.parametrize("status", [TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.EXPIRED])
def test_what_ended_badly_waits_again_under_its_id(status: TaskStatus) -> None:
    row = make_row(status)

    changed = control.retry(ids_of(row))

    assert (changed.count, changed.skipped_count, changed.skipped) == (1, 0, [])
    waiting = LiveTask.objects.get(pk=row.pk)
    assert (waiting.status, waiting.attempts, waiting.errors) == ("READY", 0, row.errors)
    assert not FinishedTask.objects.exists()


def test_a_success_runs_a_second_time_only_by_force() -> None:
    row = make_row(TaskStatus.SUCCESSFUL)

    changed = control.retry(ids_of(row))
    assert (changed.count, changed.skipped[0].why) == (
        0,
        "was SUCCESSFUL; only force runs it a second time",
    )

    assert control.retry(ids_of(row), force=True).count == 1
    assert LiveTask.objects.get(pk=row.pk).status == "READY"


def test_each_task_that_is_not_retried_is_reported_with_the_reason() -> None:
    failed, waiting, running = (
        make_row(status) for status in (TaskStatus.FAILED, TaskStatus.READY, TaskStatus.RUNNING)
    )
    unknown = str(uuid.uuid4())

    changed = control.retry([*ids_of(failed, waiting, running), unknown, "shop", unknown.upper()])

    assert changed.count == 1
    assert {skipped.id: skipped.why for skipped in changed.skipped} == {
        str(waiting.pk): "is READY, it has not finished",
        str(running.pk): "is RUNNING, it has not finished",
        unknown: "there is no such task",
        "shop": "is not an id",
    }
    assert changed.skipped_count == 4


@pytest.mark.parametrize(
    ("act", "status", "other"),
    [
        (control.retry, TaskStatus.FAILED, TaskStatus.READY),
        (control.cancel, TaskStatus.READY, TaskStatus.FAILED),
    ],
    ids=["retry", "cancel"],
)
def test_a_task_whose_id_stands_twice_is_skipped_and_the_others_are_not(
    act: Callable[..., Changed], status: TaskStatus, other: TaskStatus
) -> None:
    free, twice = make_row(status), make_row(status)
    make_row(other, id=twice.pk)

    changed = act(ids_of(free, twice))

    assert (changed.count, changed.skipped_count) == (1, 1)
    assert changed.skipped == [
        Skipped(id=str(twice.pk), why="its id stands twice, unfinished and finished")
    ]
    assert LiveTask.objects.filter(pk=twice.pk, status="READY").exists()
    assert FinishedTask.objects.filter(pk=twice.pk, status="FAILED").exists()


def test_workers_hear_of_retried_tasks_after_the_commit(
    django_capture_on_commit_callbacks: Any,
) -> None:
    row = make_row(TaskStatus.FAILED)

    with django_capture_on_commit_callbacks() as callbacks:
        control.retry(ids_of(row))
        assert len(callbacks) == 0
    assert len(callbacks) == 1

    with django_capture_on_commit_callbacks() as callbacks:
        control.retry(ids_of(row))  # nothing there any more
    assert callbacks == []


def test_a_retry_is_undone_with_the_transaction_of_its_caller() -> None:
    row = make_row(TaskStatus.FAILED)

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        assert control.retry(ids_of(row)).count == 1
        raise ZeroDivisionError

    assert FinishedTask.objects.filter(pk=row.pk).exists()


def test_all_failed_tasks_are_retried_and_no_others() -> None:
    failed = [make_row(TaskStatus.FAILED) for _ in range(3)]
    make_row(TaskStatus.CANCELLED)
    make_row(TaskStatus.SUCCESSFUL)

    assert control.retry_all().count == 3

    assert set(LiveTask.objects.values_list("pk", flat=True)) == {row.pk for row in failed}


def test_filters_choose_what_is_retried() -> None:
    hour = timedelta(hours=1)
    wanted = make_row(TaskStatus.FAILED, task="shop.tasks.send", queue_name="mail")
    make_row(TaskStatus.FAILED, task="shop.tasks.send")
    make_row(TaskStatus.FAILED, task="shop_tasks.send", queue_name="mail")
    make_row(
        TaskStatus.FAILED,
        task="shop.tasks.send",
        queue_name="mail",
        finished_at=timezone.now() - 2 * hour,
    )

    changed = control.retry_all(task="shop.tasks.*", queue_name="ma?l", since=timezone.now() - hour)

    assert changed.count == 1
    assert LiveTask.objects.get().pk == wanted.pk


def fill(table: str, status: str, count: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO django_taskq_{table} (task, status) "
            "SELECT 'shop.tasks.send', %s FROM generate_series(1, %s)",
            [status, count],
        )


def all_ids(model: type[FinishedTask | LiveTask]) -> list[str]:
    return [str(pk) for pk in model.objects.values_list("pk", flat=True)]


# The verb, the table that it empties, what stands there, and the name of its statement.
BULK: dict[str, tuple[Callable[[], Any], str, str, str]] = {
    "retry_all": (control.retry_all, "finishedtask", "FAILED", "requeue"),
    "retry": (lambda: control.retry(all_ids(FinishedTask)), "finishedtask", "FAILED", "requeue"),
    "cancel_all": (control.cancel_all, "livetask", "READY", "cancel_many"),
    "cancel": (lambda: control.cancel(all_ids(LiveTask)), "livetask", "READY", "cancel_many"),
    "prune": (lambda: control.prune(older_than=0), "finishedtask", "FAILED", "prune"),
}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("act", "table", "status", "tag"), BULK.values(), ids=BULK)
def test_of_many_tasks_others_see_a_thousand_changed_at_a_time(
    act: Callable[[], Any], table: str, status: str, tag: str
) -> None:
    """Each thousand is committed before the next is locked: nobody waits for the whole."""
    fill(table, status, 2100)
    seen: list[int] = []

    with second_connection() as other:

        def left() -> int:
            found = other.execute(f"SELECT count(*) FROM django_taskq_{table}").fetchone()
            assert found is not None
            return int(found[0])

        def note(execute: Any, sql: str, *rest: Any) -> Any:
            if f"/* django_taskq:{tag} */" in sql:
                seen.append(left())
            return execute(sql, *rest)

        with connection.execute_wrapper(note):
            changed = act()
        seen.append(left())

    assert seen == [2100, 1100, 100, 0]
    assert getattr(changed, "count", changed) == 2100


def test_a_task_that_fails_again_meanwhile_is_not_retried_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = make_row(TaskStatus.FAILED)
    requeue = operate.requeue

    def requeue_and_fail(alias: str, ids: list[str], **options: Any) -> set[str]:
        done = requeue(alias, ids, **options)
        for id in done:
            finish(tasks.add.get_result(id), status=TaskStatus.FAILED, errors=[make_error("E", "")])
        return done

    monkeypatch.setattr(operate, "requeue", requeue_and_fail)
    monkeypatch.setattr(operate, "BULK_LIMIT", 1)  # so that there is a second page to look at

    assert control.retry_all().count == 1
    assert FinishedTask.objects.get().pk == row.pk


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"status": "READY"}, "READY tasks have not finished"),
        ({"status": "SUCCESSFUL"}, "only with force"),
        ({"status": "FIALED"}, 'no status "FIALED". Did you mean "FAILED"'),
        ({"database": "defualt"}, 'no database "defualt" in DATABASES. Did you mean "default"'),
    ],
)
def test_a_retry_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ControlError, match=message.replace("?", r"\?")):
        control.retry_all(**options)


def test_waiting_tasks_are_cancelled_with_the_reason() -> None:
    ready, held = make_row(TaskStatus.READY), make_row(TaskStatus.HELD)
    running, done = make_row(TaskStatus.RUNNING), make_row(TaskStatus.SUCCESSFUL)
    awaited = make_row(TaskStatus.READY, has_successors=True)

    changed = control.cancel(ids_of(ready, held, done, awaited), reason="No more mail.")

    assert changed.count == 2
    for row in (ready, held):
        ended = FinishedTask.objects.get(pk=row.pk)
        assert (ended.status, ended.errors[-1]["message"]) == ("CANCELLED", "No more mail.")
    assert {skipped.id: skipped.why for skipped in changed.skipped} == {
        str(done.pk): "has ended already, as SUCCESSFUL",
        str(awaited.pk): "other tasks wait for it",
    }
    assert LiveTask.objects.get(pk=running.pk).status == "RUNNING"


def test_running_tasks_are_asked_to_end_and_counted_apart() -> None:
    rows = [make_row(TaskStatus.RUNNING, queue_name="mail") for _ in range(2)]
    other = make_row(TaskStatus.RUNNING)
    waiting = make_row(TaskStatus.READY, queue_name="mail")

    changed = control.cancel_all(queue_name="mail")

    assert (changed.count, changed.asked, changed.skipped) == (1, 2, [])
    asked = LiveTask.objects.filter(cancel_requested_at__isnull=False)
    assert {row.pk for row in asked} == {row.pk for row in rows}
    assert FinishedTask.objects.get().pk == waiting.pk
    assert control.cancel(ids_of(other)).asked == 1


def test_a_bulk_cancel_that_is_rolled_back_has_asked_nobody() -> None:
    row = make_row(TaskStatus.RUNNING)

    with transaction.atomic():
        assert control.cancel(ids_of(row)).asked == 1
        transaction.set_rollback(True)

    assert LiveTask.objects.get().cancel_requested_at is None


def test_filters_choose_what_is_cancelled() -> None:
    wanted = [
        make_row(TaskStatus.READY, queue_name="mail"),
        make_row(TaskStatus.HELD, queue_name="mail"),
    ]
    other = make_row(TaskStatus.READY, queue_name="reports")

    assert control.cancel_all(queue_name="mail").count == 2

    assert set(FinishedTask.objects.values_list("pk", flat=True)) == {row.pk for row in wanted}
    assert LiveTask.objects.get().pk == other.pk
    with pytest.raises(ControlError, match="have finished"):
        control.cancel_all(status="FAILED")


def test_only_one_status_can_be_cancelled() -> None:
    ready, held = make_row(TaskStatus.READY), make_row(TaskStatus.HELD)

    assert control.cancel_all(status="held").count == 1

    assert FinishedTask.objects.get().pk == held.pk
    assert LiveTask.objects.get().pk == ready.pk


def test_old_tasks_are_pruned_and_bad_ages_refused() -> None:
    make_row(TaskStatus.FAILED, finished_at=timezone.now() - timedelta(hours=2))
    kept = make_row(TaskStatus.FAILED)

    assert control.prune(older_than=timedelta(hours=1)) == 1
    assert control.prune(older_than=3600) == 0
    assert FinishedTask.objects.get().pk == kept.pk
    for age in (-1, float("inf"), float("nan")):
        with pytest.raises(ControlError, match="is no age"):
            control.prune(older_than=age)


def test_a_result_retries_itself() -> None:
    result = tasks.add.enqueue(1, 2)
    finish(result, status=TaskStatus.FAILED, errors=[make_error("builtins.ValueError", "no")])
    result.refresh()
    assert result.row_status == TaskStatus.FAILED

    assert result.retry() is True

    assert (result.row_status, result.attempts, len(result.errors)) == (TaskStatus.READY, 0, 1)
    assert result.retry() is False


def test_a_result_that_succeeded_does_not_retry_itself() -> None:
    result = tasks.add.enqueue(1, 2)
    finish(result, 3)

    assert result.retry() is False
    assert result.row_status == TaskStatus.SUCCESSFUL


@pytest.mark.parametrize("act", [control.retry, control.cancel])
def test_one_id_in_place_of_a_list_is_refused(act: Any) -> None:
    with pytest.raises(ControlError, match="takes a list of ids"):
        act("0199f0e5-7d2c-7a63-9d0c-3f1f6a4b5c6d")
