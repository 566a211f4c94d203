"""The admin: it shows every row and changes none."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from django_taskq import TaskStatus
from django_taskq.models import FinishedTask, LiveTask, Worker
from django_taskq.models.worker import WorkerKind
from django_taskq.statuses import FINISHED
from tests.rows import make_error, make_row, make_worker

pytestmark = pytest.mark.django_db

MODELS = [LiveTask, FinishedTask, Worker]
NASTY = "<script>alert('x')</script>&\""


@pytest.fixture
def boss(client: Client) -> Client:
    """Log a superuser in."""
    client.force_login(User.objects.create_superuser("boss"))
    return client


@pytest.fixture
def rows() -> list[Any]:
    """Make a row of every status and of every kind of process."""
    made: list[Any] = [make_row(status) for status in TaskStatus]
    made += [make_worker(kind=kind.value, parent_id=uuid4()) for kind in WorkerKind]
    return made


def url(model: Any, page: str, *args: Any) -> str:
    return reverse(f"admin:django_taskq_{model._meta.model_name}_{page}", args=args)


@pytest.mark.parametrize("model", MODELS)
def test_a_list_of_nothing_can_be_seen(boss: Client, model: Any) -> None:
    assert boss.get(url(model, "changelist")).status_code == 200


@pytest.mark.parametrize("model", MODELS)
def test_a_list_shows_every_row(boss: Client, rows: list[Any], model: Any) -> None:
    page = boss.get(url(model, "changelist"))
    assert page.status_code == 200
    for row in rows:
        if isinstance(row, model):
            assert str(row.pk) in page.text


@pytest.mark.parametrize("status", TaskStatus)
def test_a_task_of_every_status_has_a_page(boss: Client, status: TaskStatus) -> None:
    row = make_row(
        status,
        args=[15, "é", {"a": [None]}],
        attempts=2,
        progress={"done": 3, "total": 4, "message": "nearly"},
        options={"timeout": 5},
        errors=[make_error("builtins.OSError", "first try"), make_error("x.Gone", "second try")],
    )
    page = boss.get(url(type(row), "change", row.pk))
    assert page.status_code == 200
    for text in (str(row.pk), "tests.tasks.add", "é", "nearly", "first try", "second try"):
        assert text in page.text, text
    assert str(status.label) in page.text


@pytest.mark.parametrize("kind", WorkerKind)
def test_a_process_has_a_page(boss: Client, kind: WorkerKind) -> None:
    row = make_worker(kind=kind.value, host="box-seven", info={"queues": ["mail"]})
    page = boss.get(url(Worker, "change", row.pk))
    assert page.status_code == 200
    assert "box-seven" in page.text
    assert "mail" in page.text


def test_a_row_of_plain_sql_has_a_page(boss: Client) -> None:
    row = LiveTask.objects.create(task="shop.tasks.nowhere")
    page = boss.get(url(LiveTask, "change", row.pk))
    assert page.status_code == 200
    assert "shop.tasks.nowhere" in page.text


@pytest.mark.parametrize("status", [TaskStatus.READY, TaskStatus.FAILED])
def test_what_tasks_say_is_escaped(boss: Client, status: TaskStatus) -> None:
    columns: dict[str, Any] = {
        "task": NASTY,
        "queue_name": NASTY,
        "args": [NASTY],
        "kwargs": {NASTY: NASTY},
        "progress": {"done": 1, "total": 2, "message": NASTY},
        "errors": [dict.fromkeys(make_error("x", "y"), NASTY) | {"attempt": 1}],
    }
    if status in FINISHED:
        columns["return_value"] = {NASTY: NASTY}
    row = make_row(status, **columns)
    for page in (
        boss.get(url(type(row), "changelist")),
        boss.get(url(type(row), "change", row.pk)),
        boss.get(url(type(row), "history", row.pk)),
    ):
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "&lt;script&gt;alert" in page.text


def test_what_processes_say_is_escaped(boss: Client) -> None:
    row = make_worker(host=NASTY, info={NASTY: NASTY})
    for page in (
        boss.get(url(Worker, "changelist")),
        boss.get(url(Worker, "change", row.pk)),
    ):
        assert "<script>alert" not in page.text
        assert "&lt;script&gt;alert" in page.text


# Nothing can be changed


def as_stored(row: Any) -> Any:
    return type(row).objects.filter(pk=row.pk).values().get()


@pytest.mark.parametrize("model", MODELS)
def test_even_a_superuser_adds_nothing(boss: Client, model: Any) -> None:
    assert boss.get(url(model, "add")).status_code == 403
    assert boss.post(url(model, "add"), {"task": "tests.tasks.add"}).status_code == 403
    assert not model.objects.exists()


@pytest.mark.parametrize("place", range(len(TaskStatus) + len(WorkerKind)))
def test_even_a_superuser_changes_and_deletes_nothing(
    boss: Client, rows: list[Any], place: int
) -> None:
    row = rows[place]
    before = as_stored(row)
    change, delete = url(type(row), "change", row.pk), url(type(row), "delete", row.pk)
    assert boss.post(change, {"task": "x", "status": "READY", "host": "x"}).status_code == 403
    assert boss.get(delete).status_code == 403
    assert boss.post(delete, {"post": "yes"}).status_code == 403
    assert as_stored(row) == before


@pytest.mark.parametrize("model", MODELS)
def test_no_action_is_offered_and_none_is_obeyed(boss: Client, rows: list[Any], model: Any) -> None:
    before = model.objects.count()
    page = boss.get(url(model, "changelist"))
    assert 'name="action"' not in page.text
    chosen = [str(row.pk) for row in rows if isinstance(row, model)]
    boss.post(
        url(model, "changelist"),
        {"action": "delete_selected", "_selected_action": chosen, "post": "yes"},
    )
    assert model.objects.count() == before > 0


def test_a_detail_page_has_no_field_to_type_into(boss: Client, rows: list[Any]) -> None:
    for row in rows:
        page = boss.get(url(type(row), "change", row.pk)).text
        main = page[page.index('id="content"') :]
        for field in ("<textarea", '<input type="text"', '<input type="submit"', "<select"):
            assert field not in main, (row, field)


# Who may look


@pytest.mark.parametrize("model", MODELS)
def test_staff_without_the_permission_sees_nothing(
    client: Client, rows: list[Any], model: Any
) -> None:
    client.force_login(User.objects.create_user("clerk", is_staff=True))
    row = next(row for row in rows if isinstance(row, model))
    for page in (
        client.get(url(model, "changelist")),
        client.get(url(model, "change", row.pk)),
        client.get(url(model, "add")),
        client.post(url(model, "delete", row.pk), {"post": "yes"}),
    ):
        assert page.status_code == 403


@pytest.mark.parametrize("model", MODELS)
def test_the_view_permission_is_enough_to_look(client: Client, rows: list[Any], model: Any) -> None:
    viewer = User.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.add(
        Permission.objects.get(
            content_type__app_label="django_taskq", codename=f"view_{model._meta.model_name}"
        )
    )
    client.force_login(viewer)
    row = next(row for row in rows if isinstance(row, model))
    assert client.get(url(model, "changelist")).status_code == 200
    assert client.get(url(model, "change", row.pk)).status_code == 200


@pytest.mark.parametrize("model", MODELS)
def test_all_permissions_together_still_change_nothing(
    client: Client, rows: list[Any], model: Any
) -> None:
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(content_type__app_label="django_taskq"))
    client.force_login(clerk)
    row = next(row for row in rows if isinstance(row, model))
    assert client.post(url(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    assert client.post(url(model, "change", row.pk), {}).status_code == 403


@pytest.mark.parametrize("model", MODELS)
def test_a_visitor_is_sent_to_the_login(client: Client, model: Any) -> None:
    page = client.get(url(model, "changelist"))
    assert page.status_code == 302
    assert "/login/" in page["Location"]


# What it costs


@pytest.mark.parametrize("model", MODELS)
def test_a_full_list_costs_as_many_queries_as_a_short_one(boss: Client, model: Any) -> None:
    def fill(count: int) -> None:
        for _ in range(count):
            if model is Worker:
                make_worker()
            else:
                make_row(TaskStatus.FAILED if model is FinishedTask else TaskStatus.READY)

    from django.db import connection

    fill(1)
    with CaptureQueriesContext(connection) as short:
        boss.get(url(model, "changelist"))
    fill(30)
    with CaptureQueriesContext(connection) as full:
        boss.get(url(model, "changelist"))
    assert len(full) == len(short) <= 6


@pytest.mark.parametrize("model", [LiveTask, FinishedTask])
def test_no_count_reads_a_whole_table(boss: Client, model: Any) -> None:
    from django.db import connection

    make_row(TaskStatus.FAILED if model is FinishedTask else TaskStatus.READY)
    with CaptureQueriesContext(connection) as seen:
        boss.get(url(model, "changelist"))
    counts = [q["sql"] for q in seen if "COUNT(" in q["sql"] and model._meta.db_table in q["sql"]]
    assert counts
    for count in counts:
        assert "LIMIT" in count


# Looking for something


def test_a_task_is_found_by_its_id(boss: Client) -> None:
    wanted, other = make_row(TaskStatus.READY), make_row(TaskStatus.READY)
    page = boss.get(url(LiveTask, "changelist"), {"q": str(wanted.pk)})
    assert str(wanted.pk) in page.text
    assert str(other.pk) not in page.text


@pytest.mark.parametrize("model", [LiveTask, FinishedTask])
@pytest.mark.parametrize("text", ["nonsense", "5", "'; DROP TABLE", "%", "\x00", "é" * 300])
def test_looking_for_nonsense_finds_nothing_and_breaks_nothing(
    boss: Client, rows: list[Any], model: Any, text: str
) -> None:
    page = boss.get(url(model, "changelist"), {"q": text})
    assert page.status_code == 200


@pytest.mark.parametrize("model", [LiveTask, FinishedTask])
def test_tasks_are_filtered_by_status(boss: Client, rows: list[Any], model: Any) -> None:
    for row in rows:
        if not isinstance(row, model):
            continue
        page = boss.get(url(model, "changelist"), {"status__exact": row.status})  # type: ignore[attr-defined]
        assert page.status_code == 200
        assert str(row.pk) in page.text
        for other in rows:
            if isinstance(other, model) and other is not row:
                assert str(other.pk) not in page.text


@pytest.mark.parametrize("model", MODELS)
def test_a_page_of_a_row_that_is_gone_leads_back(boss: Client, model: Any) -> None:
    for pk in (uuid4(), "nonsense"):
        assert boss.get(url(model, "change", pk)).status_code == 302


def test_a_list_can_be_sorted_by_each_of_its_columns(boss: Client, rows: list[Any]) -> None:
    for model in MODELS:
        for column in range(1, 9):
            assert boss.get(url(model, "changelist"), {"o": str(column)}).status_code in {200, 302}
