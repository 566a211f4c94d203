"""prune: old finished tasks are deleted, in batches, and nothing else is."""

from __future__ import annotations

from typing import Any
from unittest import mock

import psycopg
import pytest
from django.db import connection as django_connection
from django.db import transaction

from django_taskq import db
from django_taskq.db import Connection
from django_taskq.transitions import prune
from tests.support import rows

DAY = 24 * 3600.0


def finished(connection: psycopg.Connection[Any], days: float, **columns: Any) -> str:
    values = {"status": "SUCCESSFUL", "finished_at": rows.ago(days * DAY), **columns}
    return rows.insert(connection, rows.DONE, **values)


def left(connection: psycopg.Connection[Any]) -> set[str]:
    return {str(row[0]) for row in connection.execute("SELECT id FROM django_taskq_finishedtask")}


def test_what_finished_too_long_ago_goes_whatever_it_came_to(connection: Connection) -> None:
    for status in ("SUCCESSFUL", "FAILED", "CANCELLED", "EXPIRED"):
        finished(connection, 7.01, status=status)
    young = finished(connection, 6.99)
    waiting = rows.add(connection, enqueued_at=rows.ago(30 * DAY), run_after=rows.ago(30 * DAY))

    assert prune.prune_batch(connection, age=7 * DAY).rows == 4

    assert left(connection) == {young}
    assert rows.row(connection, waiting)["status"] == "READY"
    assert prune.prune_batch(connection, age=7 * DAY).rows == 0


def test_the_oldest_go_first_and_the_next_batch_goes_on_where_the_last_one_ended(
    connection: Connection,
) -> None:
    ids = [finished(connection, 20 - n) for n in range(5)]

    first = prune.prune_batch(connection, age=7 * DAY, limit=2)
    assert (first.rows, left(connection)) == (2, set(ids[2:]))
    # What is older than the floor waits for the next sweep.
    late = finished(connection, 30)
    second = prune.prune_batch(connection, age=7 * DAY, limit=2, floor=first.floor)
    assert (second.rows, left(connection)) == (2, {ids[4], late})
    third = prune.prune_batch(connection, age=7 * DAY, limit=2, floor=second.floor)
    assert (third.rows, left(connection)) == (1, {late})
    assert prune.prune_batch(connection, age=7 * DAY, floor=third.floor) == (0, third.floor)
    assert prune.prune_batch(connection, age=7 * DAY).rows == 1


@pytest.mark.django_db(transaction=True)
def test_an_operator_prunes_on_their_own_connection_in_batches() -> None:
    with db.worker_connection("default", name="test") as own:
        own.execute(
            "INSERT INTO django_taskq_finishedtask (task, status, finished_at) "
            "SELECT 'x', 'FAILED', now() - n * interval '1 hour' FROM generate_series(1, 2500) AS n"
        )
        assert prune.prune("default", 2000.5 * 3600, limit=200) == 200
        assert prune.prune("default", 1.5 * 3600, limit=1) == 1
        assert len(left(own)) == 2299
        assert prune.prune("default", 1.5 * 3600) == 2298
        assert len(left(own)) == 1
        with transaction.atomic():
            assert prune.prune("default", 0.0) == 1
            transaction.set_rollback(True)
        assert len(left(own)) == 1
    django_connection.close()


@pytest.mark.django_db(transaction=True)
def test_an_operators_next_batch_goes_on_where_the_last_one_ended() -> None:
    ends = []

    def note(*args: Any) -> prune.Pruned:
        *_, floor = args
        assert floor == (ends[-1] if ends else prune.BEGINNING)
        found = once(*args)
        ends.append(found.floor)
        return found

    once = prune._prune_once
    with (
        db.worker_connection("default", name="test") as own,
        mock.patch.object(prune, "MOST", 2),
        mock.patch.object(prune, "_prune_once", note),
    ):
        for days in range(5):
            finished(own, 20 + days)
        assert prune.prune("default", 7 * DAY) == 5
    assert len(set(ends)) == 3
    django_connection.close()
