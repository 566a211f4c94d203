"""Lists of tasks: newest first, filtered, page by page, never everything."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from django_taskq import TaskStatus, control
from django_taskq.control import ControlError, listing
from tests.rows import make_error, make_row

pytestmark = pytest.mark.django_db

NOW = timezone.now()


def listed(**filters: Any) -> list[str]:
    return [line.id for line in control.list_tasks(**filters).tasks]


def walk(**filters: Any) -> list[str]:
    """Return the ids of all pages."""
    found: list[str] = []
    before = None
    while True:
        page = control.list_tasks(before=before, **filters)
        found += [line.id for line in page.tasks]
        if page.next is None:
            return found
        before = page.next


def test_tasks_of_both_tables_come_newest_first() -> None:
    rows = [make_row(status) for status in TaskStatus]

    assert listed() == [str(row.pk) for row in reversed(rows)]


def test_a_line_says_what_the_row_says() -> None:
    row = make_row(
        TaskStatus.FAILED,
        task="shop.tasks.send",
        queue_name="mail",
        priority=5,
        args=["secret"],
        attempts=2,
        max_attempts=3,
        errors=[make_error("builtins.KeyError", "secret"), make_error("shop.Down", "secret")],
    )

    [line] = control.list_tasks().tasks

    assert (line.id, line.status, line.task) == (str(row.pk), TaskStatus.FAILED, "shop.tasks.send")
    assert (line.queue_name, line.priority) == ("mail", 5)
    assert (line.attempts, line.max_attempts, line.error) == (2, 3, "shop.Down")
    assert line.enqueued_at == row.enqueued_at
    assert line.finished_at == getattr(row, "finished_at", None)
    assert "secret" not in repr(line)


@pytest.mark.parametrize("status", list(TaskStatus))
def test_a_status_is_listed_alone(status: TaskStatus) -> None:
    rows = {each: make_row(each) for each in TaskStatus}

    assert listed(status=status.value.lower()) == [str(rows[status].pk)]


@pytest.mark.parametrize("status", [None, *TaskStatus])
def test_pages_join_without_a_gap_or_a_repetition(status: TaskStatus | None) -> None:
    for number in range(7):
        for each in TaskStatus:
            moment = NOW - timedelta(minutes=number // 3)  # batches end at one moment
            finished = {"finished_at": moment} if each in listing.FINISHED else {}
            make_row(each, **finished)
    wanted = {} if status is None else {"status": status.value}
    everything = listed(**wanted)

    assert len(everything) == (7 if status else 7 * len(TaskStatus))
    assert walk(**wanted, limit=2) == everything
    assert walk(**wanted, limit=len(everything)) == everything


def test_what_ended_last_comes_first_in_a_list_of_an_ending() -> None:
    late = make_row(TaskStatus.FAILED, finished_at=NOW)
    early = make_row(TaskStatus.FAILED, finished_at=NOW - timedelta(hours=1))

    assert listed(status="FAILED") == [str(late.pk), str(early.pk)]
    assert listed() == [str(early.pk), str(late.pk)]  # by id: by when they were enqueued


@pytest.mark.parametrize(
    ("pattern", "is_found"),
    [
        ("shop.tasks.send_mail", True),
        ("shop.*", True),
        ("*send?mail", True),
        ("shop.tasks.send", False),
        ("shop%", False),
        ("shop_tasks*", False),
        ("shop.tasks.send_mai\\l", False),
    ],
)
def test_a_task_is_found_by_a_pattern(pattern: str, is_found: bool) -> None:
    make_row(TaskStatus.READY, task="shop.tasks.send_mail")

    assert len(listed(task=pattern)) == is_found


def test_queues_are_found_by_a_pattern() -> None:
    mail, bulk, _ = (make_row(TaskStatus.READY, queue_name=n) for n in ("mail", "mail-b", "x"))

    assert listed(queue_name="mail") == [str(mail.pk)]
    assert listed(queue_name="mail*") == [str(bulk.pk), str(mail.pk)]


@pytest.mark.parametrize("status", [None, "READY", "FAILED", "SUCCESSFUL"])
def test_since_leaves_out_what_is_older(status: str | None) -> None:
    hour = timedelta(hours=1)
    made = TaskStatus(status or "READY")
    column = "finished_at" if made in listing.FINISHED else "enqueued_at"
    young = make_row(made, **{column: NOW - hour})
    make_row(made, **{column: NOW - 3 * hour})

    assert listed(status=status, since=NOW - 2 * hour) == [str(young.pk)]
    assert listed(status=status, since=NOW + hour) == []


def test_a_rare_match_is_found_behind_many_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_WINDOW", 3)
    rare = make_row(TaskStatus.READY, queue_name="rare")
    for _ in range(10):
        make_row(TaskStatus.READY)

    page = control.list_tasks(queue_name="rare")

    assert ([line.id for line in page.tasks], page.next, page.is_cut) == (
        [str(rare.pk)],
        None,
        False,
    )


@pytest.mark.parametrize("status", ["READY", "FAILED"])
def test_a_search_that_goes_too_far_stops_and_says_where_to_go_on(
    monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    monkeypatch.setattr(listing, "_WINDOW", 3)
    monkeypatch.setattr(listing, "_PAGE_WINDOW", 6)
    rare = make_row(TaskStatus(status), queue_name="rare")
    for _ in range(10):
        make_row(TaskStatus(status))

    page = control.list_tasks(status=status, queue_name="rare")
    assert (page.tasks, page.is_cut) == ([], True)

    rest = control.list_tasks(status=status, queue_name="rare", before=page.next)
    assert ([line.id for line in rest.tasks], rest.is_cut) == ([str(rare.pk)], False)


@pytest.mark.parametrize("before", ["nonsense", "yesterday,0199f0e5-0000-7000-8000-000000000000"])
@pytest.mark.parametrize("status", [None, "FAILED"])
def test_a_place_that_no_page_gave_is_refused(status: str | None, before: str) -> None:
    with pytest.raises(ControlError, match="not the end of a page"):
        control.list_tasks(status=status, before=before)


def test_a_place_of_a_list_in_another_order_is_refused() -> None:
    row = make_row(TaskStatus.FAILED)

    with pytest.raises(ControlError, match="with the same status"):
        control.list_tasks(status="FAILED", before=str(row.pk))


def test_a_list_leaves_the_callers_settings_and_transaction_alone() -> None:
    make_row(TaskStatus.READY)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '77s'")

    assert len(listed()) == 1

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('statement_timeout'), current_setting('enable_seqscan')"
        )
        assert cursor.fetchone() == ("77s", "on")
    make_row(TaskStatus.READY)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"limit": 0}, "room for one task"), ({"since": "yesterday"}, "is no datetime")],
)
def test_a_list_that_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ControlError, match=message):
        listing.list_tasks(**given)
