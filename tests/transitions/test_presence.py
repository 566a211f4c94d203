"""Worker rows: a process appears, beats, and leaves."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from django_taskq.db import Connection
from django_taskq.transitions import presence


def arrive(connection: Connection, **changes: Any) -> str:
    values: dict[str, Any] = {
        "id": str(uuid4()),
        "kind": "CHILD",
        "parent_id": None,
        "host": "web-1",
        "pid": 0,
        "info": {"queues": ["a", "b"], "note": 'say "hi"'},
    }
    values |= changes
    presence.arrive(connection, **values)
    return str(values["id"])


def read(connection: Connection, id: str) -> tuple[Any, ...] | None:
    return connection.execute(
        "SELECT kind, parent_id, host, pid, info->>'note', beat FROM django_taskq_worker "
        "WHERE id = %s",
        [id],
    ).fetchone()


def seen_at(connection: Connection, id: str) -> Any:
    found = connection.execute("SELECT last_seen_at FROM django_taskq_worker WHERE id = %s", [id])
    return found.fetchall()[0][0]


@pytest.mark.parametrize("kind", ["SUPERVISOR", "CHILD"])
def test_a_process_that_arrives_is_listed(connection: Connection, kind: str) -> None:
    parent = str(uuid4())
    id = arrive(connection, kind=kind, parent_id=parent, pid=7)

    assert read(connection, id) == (kind, parent, "web-1", 7, 'say "hi"', 0)


def test_the_process_id_of_a_child_is_noted_after_its_fork(connection: Connection) -> None:
    id, other = arrive(connection), arrive(connection)

    presence.set_pid(connection, id=id, pid=4711)

    found = [read(connection, one) for one in (id, other)]
    assert [row and row[3] for row in found] == [4711, 0]


def test_a_beat_counts_and_tells_who_is_still_known(connection: Connection) -> None:
    one, other, gone = arrive(connection), arrive(connection), str(uuid4())
    arrived = seen_at(connection, one)

    assert presence.beat(connection, [one, gone]).known == {one}
    assert presence.beat(connection, [one, other]).known == {one, other}

    found = [read(connection, id) for id in (one, other)]
    assert [row and row[5] for row in found] == [2, 1]
    assert seen_at(connection, one) > arrived


def test_a_beat_reads_the_counters_of_all_others(connection: Connection) -> None:
    mine, worker = arrive(connection), arrive(connection, kind="SUPERVISOR", pid=7)
    child = arrive(connection, parent_id=worker, pid=8, host="web-2")
    presence.beat(connection, [worker, child])
    presence.beat(connection, [worker])

    seen = {row.id: row for row in presence.beat(connection, [mine]).others}

    assert seen == {
        worker: (worker, "SUPERVISOR", None, "web-1", 7, 2),
        child: (child, "CHILD", worker, "web-2", 8, 1),
    }


def test_only_a_counter_that_still_stands_where_it_was_seen_is_declared_dead(
    connection: Connection,
) -> None:
    mine, still, moved, gone = (arrive(connection) for _ in range(4))
    others = presence.beat(connection, [mine]).others
    presence.beat(connection, [moved])
    presence.leave(connection, [gone])

    assert presence.declare_dead(connection, others) == {still}

    assert [read(connection, id) is not None for id in (mine, still, moved)] == [True, False, True]


def test_a_process_that_leaves_is_not_listed_any_more(connection: Connection) -> None:
    one, other = arrive(connection), arrive(connection)

    presence.leave(connection, [one])

    assert read(connection, one) is None
    assert read(connection, other) is not None


def test_a_database_without_the_tables_is_recognised(connection: Connection) -> None:
    assert presence.tables_exist(connection) is True

    connection.execute("ALTER TABLE django_taskq_worker RENAME TO elsewhere")

    assert presence.tables_exist(connection) is False


def test_only_our_own_migrations_are_asked_for(connection: Connection) -> None:
    applied = presence.applied_migrations(connection)

    assert applied is not None and "0001_tasks" in applied
    assert "0001_initial" not in applied, "that is another app's"


def test_a_record_of_migrations_that_is_not_there_or_not_ours_to_read_is_not_asked(
    connection: Connection,
) -> None:
    connection.execute("CREATE ROLE stranger; SET LOCAL ROLE stranger")
    assert presence.applied_migrations(connection) is None

    connection.execute("RESET ROLE; ALTER TABLE django_migrations RENAME TO elsewhere")
    assert presence.applied_migrations(connection) is None
