"""What the migrations make, beyond what Django's own state shows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from django_taskq.db import Connection
from tests.support import databases, rows
from tests.support.fixtures import connection, worker_id

__all__ = ["connection", "worker_id"]


def options_of(connection: Connection, table: str) -> dict[str, str]:
    found = connection.execute(
        "SELECT reloptions FROM pg_class WHERE oid = %s::regclass", [table]
    ).fetchone()
    assert found is not None
    return dict(option.split("=") for option in found[0])


def test_the_live_table_is_vacuumed_by_count_at_full_speed_and_not_truncated(
    connection: Connection,
) -> None:
    options = options_of(connection, rows.LIVE)

    assert options["fillfactor"] == "80"
    assert options["vacuum_truncate"] == "off"
    assert options["autovacuum_vacuum_cost_delay"] == "0"
    for kind in ("vacuum", "analyze", "vacuum_insert"):
        assert options[f"autovacuum_{kind}_scale_factor"] == "0"
        assert int(options[f"autovacuum_{kind}_threshold"]) >= 1000


def test_worker_rows_have_room_for_their_beats(connection: Connection) -> None:
    assert options_of(connection, "django_taskq_worker")["fillfactor"] == "50"


RUNNING: dict[str, Any] = {
    "status": "RUNNING",
    "claim": str(uuid4()),
    "worker_id": str(uuid4()),
    "started_at": rows.ago(1),
}


@pytest.mark.parametrize(
    "columns, constraint",
    [
        ({"status": "SUCCESSFUL"}, "django_taskq_live_status"),
        ({"status": "nonsense"}, "django_taskq_live_status"),
        ({"status": "RUNNING"}, "django_taskq_live_claim"),
        ({**RUNNING, "claim": None}, "django_taskq_live_claim"),
        ({**RUNNING, "worker_id": None}, "django_taskq_live_claim"),
        ({**RUNNING, "started_at": None}, "django_taskq_live_claim"),
        ({**RUNNING, "status": "READY"}, "django_taskq_live_claim"),
        ({"claim": str(uuid4())}, "django_taskq_live_claim"),
        ({"status": "HELD"}, "django_taskq_live_held_for"),
        ({"held_for": "unknown:x"}, "django_taskq_live_held_for"),
        ({"priority": 101}, "django_taskq_live_priority"),
        ({"priority": -101}, "django_taskq_live_priority"),
        ({"attempts": -1}, "django_taskq_live_counts"),
        ({"crashes": -1}, "django_taskq_live_counts"),
        ({"max_attempts": 0}, "django_taskq_live_counts"),
        ({"attempts": 32_767}, "django_taskq_live_room"),
        ({"crashes": 32_767}, "django_taskq_live_room"),
        ({"errors": "{}"}, "django_taskq_live_errors"),
    ],
)
def test_postgresql_refuses_nonsense_in_a_live_row(
    connection: Connection, columns: dict[str, Any], constraint: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        rows.add(connection, **columns)
    assert refused.value.diag.constraint_name == constraint


@pytest.mark.parametrize("status", ["READY", "RUNNING", "HELD"])
def test_postgresql_refuses_an_unfinished_status_in_a_finished_row(
    connection: Connection, status: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        rows.insert(connection, rows.DONE, status=status)
    assert refused.value.diag.constraint_name == "django_taskq_finished_status"


def test_a_worker_is_a_supervisor_or_a_child(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(
            "INSERT INTO django_taskq_worker (id, kind, host, pid) VALUES (%s, 'BOSS', 'here', 1)",
            [str(uuid4())],
        )


def test_a_name_is_all_that_a_plain_sql_insert_needs(connection: Connection) -> None:
    found = connection.execute(
        "INSERT INTO django_taskq_livetask (task) VALUES ('shop.tasks.send') RETURNING id"
    ).fetchone()
    assert found is not None

    stored = rows.row(connection, found[0])
    assert (stored["status"], stored["queue_name"], stored["priority"]) == ("READY", "default", 0)
    assert (stored["args"], stored["kwargs"], stored["errors"]) == ([], {}, [])
    assert (stored["attempts"], stored["crashes"], stored["max_attempts"]) == (0, 0, None)
    assert stored["has_successors"] is False


def test_times_of_a_plain_sql_insert_are_those_of_the_insert_not_of_its_transaction(
    connection: Connection,
) -> None:
    connection.execute("SELECT pg_sleep(0.01)")
    id = rows.insert(connection, rows.LIVE)

    found = connection.execute(
        "SELECT enqueued_at > now(), run_after > now() FROM django_taskq_livetask WHERE id = %s",
        [id],
    ).fetchone()
    assert found == (True, True)


def test_json_comes_back_as_it_was_written(connection: Connection) -> None:
    text = '[1e16, -0.0,  {"b":1, "a":2, "a":3}]'
    id = rows.insert(connection, rows.LIVE, args=text)

    found = connection.execute(
        "SELECT args::text FROM django_taskq_livetask WHERE id = %s", [id]
    ).fetchone()
    assert found == (text,)


def new_ids(connection: Connection, count: int) -> list[UUID]:
    found = connection.execute(
        "SELECT django_taskq_new_id() FROM generate_series(1, %s)", [count]
    ).fetchall()
    return [UUID(row[0]) for row in found]


def test_ids_of_plain_sql_inserts_are_uuids_of_version_7(connection: Connection) -> None:
    before = time.time()
    ids = new_ids(connection, 1000)
    after = time.time()

    assert len(set(ids)) == 1000
    assert {(id.version, id.variant) for id in ids} == {(7, "specified in RFC 4122")}
    for id in ids:
        assert before - 60 <= (id.int >> 80) / 1000 <= after + 60


def test_ids_of_plain_sql_inserts_grow_with_time(connection: Connection) -> None:
    moments = [id.int >> 80 for id in new_ids(connection, 1000)]
    assert moments == sorted(moments)

    connection.execute("SELECT pg_sleep(0.005)")
    assert min(new_ids(connection, 10)).int >> 80 > moments[-1]


def test_ids_of_plain_sql_inserts_differ_in_their_random_part(connection: Connection) -> None:
    ids = new_ids(connection, 2000)

    # Behind the milliseconds: all bits but those of the version and of the variant.
    for place in [*range(62), *range(64, 76)]:
        share = sum(id.int >> place & 1 for id in ids) / len(ids)
        assert 0.4 < share < 0.6, f"bit {place} is not random"


@pytest.fixture
def own_database(server_url: str) -> Iterator[str]:
    with databases.empty_database(server_url) as name:
        yield databases.url_of(server_url, name)


def ours(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        found = connection.execute(
            """
            SELECT relname::text FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relname ~ '^django_taskq'
            UNION ALL
            SELECT proname FROM pg_proc WHERE proname ~ '^django_taskq'
            """
        ).fetchall()
    return {row[0] for row in found}


def test_migrating_to_zero_leaves_nothing_and_forward_again_brings_all(own_database: str) -> None:
    databases.migrate(own_database, "django_taskq")
    there = ours(own_database)
    assert {"django_taskq_livetask", "django_taskq_finishedtask", "django_taskq_worker"} <= there
    assert "django_taskq_new_id" in there

    databases.migrate(own_database, "django_taskq", "zero")
    assert ours(own_database) == set()

    databases.migrate(own_database, "django_taskq")
    assert ours(own_database) == there
