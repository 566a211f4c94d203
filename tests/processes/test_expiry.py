"""What nobody starts in time ends, also where no worker would come to it."""

from __future__ import annotations

import pytest

from django_taskq.exceptions import TaskExpired
from django_taskq.models import FinishedTask
from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import Ledger, sql, statuses, wait_until

pytestmark = pytest.mark.slow

# With these settings a worker looks every six seconds instead of once a minute.
BRISK = "tests.processes.brisk_settings"


def test_a_task_expires_in_a_queue_that_no_worker_serves_and_under_a_name_that_none_knows(
    start: Starter, ledger: Ledger
) -> None:
    worker = start("-Q", "served", settings=BRISK)
    lonely = tasks.note.using(queue_name="lonely", expires_after=1).enqueue(ledger.path, "lonely")
    stays = tasks.note.using(queue_name="lonely", expires_after=600).enqueue(ledger.path, "stays")
    [(unknown,)] = sql(
        "INSERT INTO django_taskq_livetask (task, queue_name, expires_at) "
        "VALUES ('gone.task', 'served', clock_timestamp() + interval '5 seconds') RETURNING id"
    )
    wait_until(lambda: statuses()["HELD"] == 1, what="the unknown one is put aside")

    with pytest.raises(TaskExpired):
        lonely.wait(timeout=20)
    wait_until(FinishedTask.objects.filter(pk=unknown).exists, 20, "the unknown one ends")

    assert FinishedTask.objects.get(pk=unknown).status == "EXPIRED"
    stays.refresh()
    assert stays.row_status == "READY"
    assert ledger.tags() == []
    assert "expired while they waited" in worker.output
