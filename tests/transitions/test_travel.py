"""move_times: time passes for tasks that wait."""

from __future__ import annotations

from datetime import datetime, timedelta

from django_taskq.db import Connection
from django_taskq.transitions.travel import move_times
from tests.support import rows


def test_the_times_of_tasks_that_wait_move_there_and_back(
    connection: Connection, worker_id: str
) -> None:
    waits = rows.add(connection, run_after=rows.ago(-60), expires_at=rows.ago(-90))
    held = rows.add(connection, status="HELD", held_for="unknown:x")
    runs = rows.add_running(connection, worker_id).id
    before = {id: rows.row(connection, id) for id in (waits, held, runs)}
    by = timedelta(seconds=40, microseconds=3)

    assert move_times(connection, -by) == 2
    after = rows.row(connection, waits)
    for column in ("run_after", "expires_at"):
        assert moment(before[waits][column]) - moment(after[column]) == by
    assert moment(before[held]["run_after"]) - moment(rows.row(connection, held)["run_after"]) == by
    assert rows.row(connection, runs) == before[runs]

    move_times(connection, by)
    assert {id: rows.row(connection, id) for id in before} == before


def moment(value: object) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
