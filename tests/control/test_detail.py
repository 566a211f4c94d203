"""Everything about one task, and why it does not run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from django_taskq import TaskStatus, control
from django_taskq.control import ControlError, detail
from django_taskq.models.worker import WorkerKind
from django_taskq.redact import MASK
from django_taskq.tasks_api import TaskResultDoesNotExist
from tests.rows import make_error, make_row, make_worker

pytestmark = pytest.mark.django_db

INFO = {"queues": [], "concurrency": 2, "pool": "processes"}


def why(row: Any) -> str:
    return control.show(str(row.pk)).why


def in_future(seconds: float) -> Any:
    return timezone.now() + timedelta(seconds=seconds)


@pytest.mark.parametrize("status", list(TaskStatus))
def test_a_task_of_any_status_is_shown_whole(status: TaskStatus) -> None:
    row = make_row(
        status,
        args=[1, {"a": 2}],
        kwargs={"x": "y"},
        errors=[make_error("builtins.ValueError", "no")],
        headers={"tenant": "acme"},
        options={"timeout": 5},
        progress={"done": 1},
    )

    shown = control.show(str(row.pk))

    assert (shown.id, shown.status, shown.task) == (str(row.pk), status, row.task)
    assert (shown.args, shown.kwargs) == ([1, {"a": 2}], {"x": "y"})
    assert (shown.errors, shown.headers, shown.options) == (
        row.errors,
        {"tenant": "acme"},
        {"timeout": 5},
    )
    for name in ("enqueued_at", "run_after", "started_at", "attempts", "max_attempts", "crashes"):
        assert getattr(shown, name) == getattr(row, name), name
    assert shown.finished_at == getattr(row, "finished_at", None)
    assert shown.why


def test_a_value_is_shown() -> None:
    row = make_row(TaskStatus.SUCCESSFUL, return_value={"sum": 3})

    assert control.show(str(row.pk)).return_value == {"sum": 3}


def test_the_beginning_of_an_id_is_enough_if_it_is_the_only_one() -> None:
    row = make_row(TaskStatus.READY, id=UUID("0199f0e5-7d2c-7a63-9d0c-3f1f6a4b5c6d"))
    other = make_row(TaskStatus.FAILED, id=UUID("0199f0e5-8000-7a63-9d0c-3f1f6a4b5c6d"))

    assert control.show("0199f0e5-7").id == str(row.pk)
    assert control.find_id("0199F0E58") == str(other.pk)
    assert control.find_id(str(row.pk)) == str(row.pk)
    with pytest.raises(ControlError, match=f"{row.pk}, {other.pk}. Write more"):
        control.find_id("0199")
    with pytest.raises(TaskResultDoesNotExist):
        control.find_id("0299")


SECRET = "4111-1111"


def test_secret_arguments_are_masked_wherever_they_show() -> None:
    row = make_row(
        TaskStatus.SUCCESSFUL,
        task="tests.tasks.echo",
        args=[1],
        kwargs={"password": SECRET, "name": "Ada"},
        errors=[make_error("builtins.ValueError", f"no such card: {SECRET}")],
        progress={"done": 1, "message": f"charging {SECRET}"},
        return_value={"card": [SECRET, True], "sum": 3},
    )

    shown = control.show(str(row.pk))

    assert SECRET not in repr(shown)
    assert (shown.args, shown.kwargs) == ([1], {"password": MASK, "name": "Ada"})
    assert shown.errors[0]["message"] == f"no such card: {MASK}"
    assert shown.errors[0]["exception_class_path"] == "builtins.ValueError"
    assert shown.return_value == {"card": [MASK, True], "sum": 3}


def test_of_a_task_that_is_not_known_here_everything_is_masked() -> None:
    row = make_row(
        TaskStatus.FAILED,
        task="shop.tasks.gone",
        args=[SECRET],
        errors=[make_error("builtins.ValueError", SECRET)],
    )

    shown = control.show(str(row.pk))

    assert SECRET not in repr(shown)
    assert shown.args == MASK


@pytest.mark.parametrize("text", ["", "shop", "0199'--", "0" * 33])
def test_what_cannot_be_an_id_is_refused(text: str) -> None:
    with pytest.raises(ControlError, match="not an id"):
        control.find_id(text)


# --- why it does not run --------------------------------------------------------------------------


def test_it_is_due_later() -> None:
    make_worker(info=INFO)
    row = make_row(TaskStatus.READY, run_after=in_future(100), attempts=1, max_attempts=3)

    assert why(row).startswith("It is due later after attempt 1: at ")
    assert "places" not in why(row)


def test_no_worker_serves_its_queue() -> None:
    row = make_row(TaskStatus.READY, queue_name="mail")
    assert why(row) == 'No worker serves the queue "mail".'

    make_worker(info={**INFO, "queues": ["web", "re*"], "excluded": ["rest"]})
    assert why(row) == (
        'No worker serves the queue "mail". Workers that run serve web, re* but rest.'
    )

    make_worker(info=INFO, last_seen_at=in_future(-60))
    assert why(row).startswith("No worker serves")


def test_others_come_before_it() -> None:
    make_worker(info=INFO)
    for moment in (-300, -200):
        make_row(TaskStatus.READY, run_after=in_future(moment))
    row = make_row(TaskStatus.READY, run_after=in_future(-100))
    make_row(TaskStatus.READY, run_after=in_future(-50))
    make_row(TaskStatus.READY, priority=5, run_after=in_future(-10))
    make_row(TaskStatus.READY, priority=5, run_after=in_future(500))
    make_row(TaskStatus.READY, priority=-5, run_after=in_future(-500))
    make_row(TaskStatus.READY, queue_name="mail", run_after=in_future(-500))

    assert why(row) == (
        "3 of its queue come before it. 0 of 2 places of the workers that serve its queue are busy."
    )


def test_nothing_is_in_its_way() -> None:
    make_worker(info=INFO)
    row = make_row(TaskStatus.READY)

    assert why(row).endswith("are busy. It starts within a second.")


def test_those_before_it_are_not_counted_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detail, "_AHEAD", 2)
    make_worker(info=INFO)
    for _ in range(2):
        make_row(TaskStatus.READY, run_after=in_future(-100))

    assert why(make_row(TaskStatus.READY)).startswith("2 or more of its queue come before it.")


def test_it_is_a_suspect() -> None:
    make_worker(info=INFO)

    assert "died 2 times" in why(make_row(TaskStatus.READY, crashes=2))


def test_its_name_is_not_known() -> None:
    row = make_row(TaskStatus.HELD, held_for="unknown:shop.tasks.gone")

    assert 'knows a task called "shop.tasks.gone"' in why(row)


def test_it_runs_somewhere() -> None:
    parent = make_worker(info=INFO, host="web-1", pid=10)
    child = make_worker(kind=WorkerKind.CHILD.value, parent_id=parent.id, pid=11)
    row = make_row(TaskStatus.RUNNING, worker_id=child.id)
    assert why(row).startswith("It runs, or is about to, in process 11 on web-1, since ")

    parent.last_seen_at = in_future(-100)
    parent.save()
    assert "process 11 on web-1, which was not heard of for 100 s" in why(row)


def test_the_process_that_ran_it_is_gone() -> None:
    assert "takes it back within seconds" in why(make_row(TaskStatus.RUNNING, worker_id=uuid4()))


def test_it_has_ended() -> None:
    assert why(make_row(TaskStatus.EXPIRED)).startswith("It has ended as EXPIRED, at ")
