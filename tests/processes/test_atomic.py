"""Atomic tasks in a real worker: all of it or nothing, whatever happens to the process."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group

from django_taskq.models import FinishedTask
from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import Ledger, sql, statuses, wait_until

pytestmark = pytest.mark.slow


def test_many_atomic_tasks_commit_what_they_write_and_enqueue(
    start: Starter, ledger: Ledger
) -> None:
    start(children=2)
    results = tasks.write_and_enqueue.enqueue_many([(ledger.path, f"n{i}") for i in range(200)])

    assert [result.wait(timeout=30) for result in results] == [f"n{i}" for i in range(200)]

    wait_until(lambda: not statuses(), 20, "what they enqueued has run")
    assert sorted(ledger.tags()) == sorted(f"n{i}" for i in range(200))
    together = sql(
        "SELECT count(*) FROM django_taskq_finishedtask AS t JOIN auth_group AS g "
        "ON t.return_value #>> '{}' = g.name AND t.xmin = g.xmin"
    )
    assert together == [(200,)]


def test_a_kill_between_completion_and_commit_leaves_nothing_and_the_task_runs_again(
    start: Starter, ledger: Ledger
) -> None:
    worker = start(children=1)
    result = tasks.die_before_commit.enqueue(ledger.path, "once")

    assert result.wait(timeout=20) == "once"

    wait_until(lambda: not statuses(), 20, "what it enqueued has run")
    assert ledger.tags() == ["started", "started", "once"]
    assert Group.objects.get().name == "once"
    assert FinishedTask.objects.get(pk=result.id).crashes == 1
    assert "was killed by SIGKILL" in worker.output


@pytest.mark.parametrize("commits", [True, False])
def test_a_commit_whose_answer_is_lost_is_neither_repeated_nor_forgotten(
    start: Starter, ledger: Ledger, commits: bool
) -> None:
    worker = start(children=1)
    result = tasks.lose_the_answer.enqueue(ledger.path, "once", commits=commits)

    assert result.wait(timeout=20) == "once"

    assert Group.objects.get().name == "once"
    assert ledger.tags() == ["started"] * (1 if commits else 2)
    assert (result.attempts, result.errors) == (1, [])
    assert tasks.add.enqueue(1, 2).wait(timeout=20) == 3
    if commits:
        worker.wait_for("had committed; only the answer was lost", timeout=10)
