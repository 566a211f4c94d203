"""What one task leaves behind, the next one does not see; its connection is kept all the same."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from django.contrib.auth.models import Group

from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import Ledger, TaskWorker, sql, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared_worker(start_shared: Starter) -> TaskWorker:
    return start_shared(children=1)


@pytest.fixture(autouse=True)
def worker(shared_worker: TaskWorker) -> Iterator[TaskWorker]:
    Group.objects.all().delete()
    yield shared_worker


def test_a_connection_is_kept_between_tasks() -> None:
    backends = [tasks.write_group.enqueue(f"g{i}").wait(timeout=20) for i in range(5)]
    assert len(set(backends)) == 1
    many = tasks.write_group.enqueue_many([(f"m{i}",) for i in range(50)])
    assert {result.wait(timeout=20) for result in many} == set(backends)
    assert Group.objects.count() == 55


def test_nothing_leaks_from_one_task_to_the_next() -> None:
    before = tasks.look_around.enqueue().wait(timeout=20)
    for leave in (tasks.leave_things_behind, tasks.leave_an_atomic_block_open):
        pid = leave.enqueue("never committed").wait(timeout=20)
        after = tasks.look_around.enqueue().wait(timeout=20)
        assert pid == after["pid"] == before["pid"], "it ran in another process"
        assert after == before
    assert before["groups"] == []
    assert before["whoever"] == "nobody"
    assert before["autocommit"] is True
    assert Group.objects.count() == 0


def test_a_broken_connection_is_replaced_for_the_next_task() -> None:
    first = tasks.write_group.enqueue("before").wait(timeout=20)
    tasks.break_the_connection.enqueue().wait(timeout=20)
    second = tasks.write_group.enqueue("after").wait(timeout=20)
    assert first != second
    assert set(Group.objects.values_list("name", flat=True)) == {"before", "after"}


def test_a_failed_statement_does_not_poison_the_next_task() -> None:
    results = tasks.write_group.enqueue_many([("same",), ("same",), ("other",)])
    results[0].wait(timeout=20)
    results[2].wait(timeout=20)
    results[1].refresh()
    assert results[1].row_status == "FAILED"
    assert results[1].errors[0].exception_class_path.endswith("IntegrityError")
    assert Group.objects.count() == 2


def test_a_connection_is_closed_when_there_is_nothing_to_do() -> None:
    backend = tasks.write_group.enqueue("g").wait(timeout=20)
    wait_until(lambda: not sql("SELECT 1 FROM pg_stat_activity WHERE pid = %s", backend), 10)
    assert tasks.add.enqueue(1, 1).wait(timeout=20) == 2


def test_a_child_leads_a_process_group_of_its_own(worker: TaskWorker, ledger: Ledger) -> None:
    pid = tasks.note.enqueue(ledger.path, "runs").wait(timeout=20)
    assert pid in worker.children()
    assert os.getpgid(pid) == pid != os.getpgid(worker.pid)
