"""What a child remembers of its lanes does not outlive the connection on which it has seen it."""

from __future__ import annotations

import threading

from django_taskq.db import Connection
from django_taskq.worker.lanes import Look
from tests.races.feeding import child
from tests.support import rows
from tests.support.waiting import until
from tests.worker import samples

CUT = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE '%taskworker child 0'
"""


def test_after_a_reconnect_a_task_below_the_floors_does_not_wait_for_the_next_full_look(
    one: Connection, worker_id: str
) -> None:
    may_end = threading.Event()
    with child(worker_id, queues=("*",)) as running:
        running.before_report = lambda row: may_end.wait(60)
        first = rows.add(one, task="progress")
        running.wake()
        until(lambda: first in running.starts, "it runs")
        # The clock of the database that is lost was ahead; there, looks from the beginning have
        # taken so long that the next is affordable in a minute.
        last = samples.claimed(samples.give, run_after="2999-01-01 00:00:00+00:00")
        running.feeder.claims.lanes.learn([last], 1000.0, Look.FULL)
        below = rows.add(one, task="complete")
        assert one.execute(CUT).fetchone() == (1,)
        may_end.set()  # its outcome is sent on a new connection
        running.wake()
        until(
            lambda: rows.statuses_now(one, [first, below]) == ["SUCCESSFUL"] * 2,
            "what lies below the floor has run",
        )
