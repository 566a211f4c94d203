"""Status, workers and health: what is there as a whole."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from django_taskq import TaskStatus, control
from django_taskq.control import ControlError, QueueStatus, overview
from django_taskq.models import Worker
from django_taskq.models.worker import WorkerKind
from tests.rows import make_row, make_worker

pytestmark = pytest.mark.django_db


def queue(name: str = "default") -> QueueStatus:
    return {found.queue_name: found for found in control.status().queues}[name]


def ago(**units: float) -> Any:
    return timezone.now() - timedelta(**units)


def make_child(parent: Worker, **columns: Any) -> Worker:
    return make_worker(kind=WorkerKind.CHILD.value, parent_id=parent.id, **columns)


def supervisor(**info: Any) -> Worker:
    columns = {key: info.pop(key) for key in ("host", "pid", "last_seen_at") if key in info}
    known = {"queues": [], "excluded": [], "concurrency": 2, "pool": "processes", "version": "1"}
    return make_worker(info={**known, **info}, **columns)


# --- status ---------------------------------------------------------------------------------------


def test_what_waits_is_told_from_what_waits_for_its_time() -> None:
    first = make_row(TaskStatus.READY, run_after=ago(minutes=5))
    make_row(TaskStatus.READY, priority=10, run_after=ago(minutes=1))
    later = make_row(TaskStatus.READY, priority=10, run_after=ago(minutes=-10))
    make_row(TaskStatus.READY, run_after=ago(minutes=-20))

    found = queue()

    assert (found.due, found.later, found.at_least) == (2, 2, [])
    assert found.oldest_due_at == first.run_after
    assert found.oldest_due_seconds is not None and 300 <= found.oldest_due_seconds < 360
    assert found.next_due_at == later.run_after


def test_each_queue_is_counted_for_itself() -> None:
    for status in TaskStatus:
        make_row(status)
    make_row(TaskStatus.FAILED, queue_name="mail", finished_at=ago(days=3))
    make_row(TaskStatus.HELD, queue_name="mail")

    default, mail = queue(), queue("mail")

    assert (default.due, default.held, default.running) == (1, 1, 1)
    assert (default.failed, default.cancelled, default.expired) == (1, 1, 1)
    assert default.ended_last_hour == 4
    assert (mail.due, mail.held, mail.failed, mail.ended_last_hour) == (0, 1, 1, 0)
    assert mail.oldest_due_at is None and mail.next_due_at is None


def test_counting_stops_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(101):
        make_row(TaskStatus.READY)
    monkeypatch.setattr(
        overview, "STATUS_LANES", overview.STATUS_LANES.replace("20000", "2")
    )  # 100 for each lane

    assert (queue().due, queue().at_least) == (100, ["due"])


def test_the_rate_is_of_the_last_minute_and_of_the_last_hour() -> None:
    for minutes in (0.1, 0.2, 0.3, 30, 59):
        make_row(TaskStatus.SUCCESSFUL, finished_at=ago(minutes=minutes))
    make_row(TaskStatus.SUCCESSFUL, finished_at=ago(minutes=61))

    status = control.status()

    assert status.rate_last_minute == round(3 / 60, 3)
    assert status.rate_last_hour == round(5 / 3600, 3)


def test_a_rate_too_high_to_count_an_hour_is_of_what_was_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overview, "_RECENT", 3)
    for _ in range(2):
        make_row(TaskStatus.SUCCESSFUL, finished_at=ago(seconds=1))
    make_row(TaskStatus.SUCCESSFUL, finished_at=ago(seconds=10))

    status = control.status()

    assert status.rate_last_minute == pytest.approx(0.3, rel=0.1)
    assert status.rate_last_hour == pytest.approx(0.3, rel=0.1)
    assert status.queues[0].at_least == ["ended_last_hour"]


def test_an_empty_database_has_a_status() -> None:
    status = control.status()

    assert (status.queues, status.workers, status.slots) == ([], 0, 0)
    assert (status.rate_last_minute, status.rate_last_hour) == (0, 0)


def test_workers_count_while_they_are_heard_of() -> None:
    heard = supervisor(concurrency=4)
    child = make_child(heard)
    make_child(heard)
    make_row(TaskStatus.RUNNING, worker_id=child.id)
    supervisor(concurrency=8, last_seen_at=ago(seconds=31))

    status = control.status()

    assert (status.workers, status.silent_workers, status.slots, status.busy) == (1, 1, 4, 1)


# --- workers --------------------------------------------------------------------------------------


def test_a_worker_is_shown_with_its_children_and_what_they_hold() -> None:
    made = supervisor(host="web-1", pid=10, queues=["mail", "re*"], excluded=["rest"])
    busy = make_child(made, host="web-1", pid=11)
    make_child(made, host="web-1", pid=12)
    for _ in range(3):
        make_row(TaskStatus.RUNNING, worker_id=busy.id)

    [worker] = control.workers()

    assert (worker.id, worker.host, worker.pid) == (str(made.id), "web-1", 10)
    assert (worker.pool, worker.queues, worker.excluded) == ("processes", ["mail", "re*"], ["rest"])
    assert (worker.claimed, worker.busy, worker.concurrency) == (3, 1, 2)
    assert [(child.pid, child.claimed) for child in worker.children] == [(11, 3), (12, 0)]
    assert not worker.is_silent and worker.last_seen_seconds < 30
    assert worker.serves("mail") and worker.serves("reports")
    assert not worker.serves("rest") and not worker.serves("default")


def test_places_of_a_pool_in_one_process_are_counted_by_its_tasks() -> None:
    made = supervisor(pool="threads", concurrency=2)
    child = make_child(made)
    for _ in range(3):
        make_row(TaskStatus.RUNNING, worker_id=child.id)

    [worker] = control.workers()

    assert (worker.claimed, worker.busy) == (3, 2)


def test_children_whose_supervisor_is_gone_are_shown_but_serve_nothing() -> None:
    gone = uuid4()
    make_worker(kind=WorkerKind.CHILD.value, parent_id=gone, pid=11)
    make_worker(kind=WorkerKind.CHILD.value, parent_id=gone, pid=12)

    [worker] = control.workers()

    assert (worker.is_orphan, worker.pid, len(worker.children)) == (True, 0, 2)
    assert not worker.serves("default")
    assert control.status().workers == 0


# --- health ---------------------------------------------------------------------------------------


def test_without_a_worker_nothing_is_healthy() -> None:
    health = control.health()

    assert not health.is_healthy
    assert health.problems == ["No worker was heard of in the last 30 s."]


def test_a_worker_and_no_waiting_is_healthy() -> None:
    supervisor()

    assert control.health(queues=["mail"], max_wait=1) == control.Health(
        is_healthy=True, problems=[], workers=1, oldest_due_seconds=None
    )


def test_a_queue_that_no_worker_serves_is_not_healthy() -> None:
    supervisor(queues=["mail"])

    assert control.health(queues=["mail"]).is_healthy
    assert control.health(queues=["mail", "bulk"]).problems == [
        'No worker serves the queue "bulk".'
    ]


def test_only_workers_of_the_asked_host_count() -> None:
    supervisor(host="web-1")

    assert control.health(host="web-1").is_healthy
    assert control.health(host="web-2").problems == [
        "No worker on web-2 was heard of in the last 30 s."
    ]


def test_a_task_that_waits_too_long_is_not_healthy() -> None:
    supervisor()
    make_row(TaskStatus.READY, queue_name="mail", run_after=ago(seconds=100))
    make_row(TaskStatus.READY, queue_name="bulk", run_after=ago(seconds=1000))
    make_row(TaskStatus.READY, queue_name="mail", run_after=ago(seconds=-1000))

    assert control.health(queues=["mail"], max_wait=200).is_healthy
    assert not control.health(queues=["mail"], max_wait=50).is_healthy
    [problem] = control.health(max_wait=200).problems
    assert problem == 'A task in the queue "bulk" has waited for 1000 s, more than 200 s.'
    assert control.health().is_healthy


def test_one_queue_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(ControlError, match="takes a list of names"):
        control.health(queues="mail")
