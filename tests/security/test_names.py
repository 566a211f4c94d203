"""Names of queues and tasks are values, never a part of a statement."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_taskq import control
from django_taskq.db import Connection
from django_taskq.models import LiveTask
from django_taskq.transitions import claim
from tests import tasks
from tests.support import rows
from tests.support.fixtures import connection, worker_id

__all__ = ["connection", "worker_id"]

NASTY = [
    "'; DROP TABLE django_taskq_livetask; --",
    '"',
    "'",
    "\\",
    "\\'",
    "{a,b}",
    "{}",
    ",",
    "NULL",
    "null",
    '"NULL"',
    "%s",
    "%(queue)s",
    "%%",
    "*",
    "_",
    "%",
    " ",
    "\n\t",
    "\x01",
    "$1",
    ":x",
    "é\u202eü",
    "a" * 128,
]
texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=30
)


@given(name=st.sampled_from(NASTY) | texts)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_queue_of_any_name_is_claimed_listed_and_cancelled(db: Any, name: str) -> None:
    with transaction.atomic():
        one = tasks.add.using(queue_name=name).enqueue(1, 2)
        [two] = tasks.add.using(queue_name=name, run_after=60).enqueue_many([(1, 2)])
        other = tasks.add.using(queue_name="other").enqueue(1, 2)
        assert {row.queue_name for row in LiveTask.objects.filter(pk__in=[one.id, two.id])} == {
            name
        }
        listed = {line.id for line in control.list_tasks(queue_name=name).tasks}
        assert {one.id, two.id} <= listed
        if not set(name) & set("*?"):
            assert other.id not in listed
            assert control.cancel_all(queue_name=name).count == 2
        assert name in {queue.queue_name for queue in control.status().queues}
        transaction.set_rollback(True)


@pytest.mark.parametrize("name", NASTY, ids=repr)
def test_a_lane_of_any_name_is_claimed(connection: Connection, worker_id: str, name: str) -> None:
    ids = {rows.add(connection, queue_name=name, task=name) for _ in range(3)}
    rows.add(connection, queue_name="other")
    lanes = [claim.Lane(name, 0), claim.Lane("none", 0)]
    cursor = claim.claim(
        connection,
        worker_id=worker_id,
        token="018f0000-0000-7000-8000-000000000001",
        lanes=lanes,
        floors=["-infinity", "-infinity"],
        limit=10,
    )
    found, _ = claim.claimed_rows(cursor, "018f0000-0000-7000-8000-000000000001", lanes)
    assert {row.id for row in found} == ids
    assert {(row.queue_name, row.task) for row in found} == {(name, name)}
