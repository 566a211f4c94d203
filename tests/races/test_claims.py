"""A claim decides on the rows that are there when it locks them, and its token is known before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest

from django_taskq.db import Connection
from django_taskq.transitions import claim
from django_taskq.transitions.claim import Lane
from tests.races.feeding import child
from tests.support import rows
from tests.support.waiting import start_and_wait_until_blocked, until


def by_lanes(connection: Connection, worker_id: str) -> list[Any]:
    cursor = claim.claim(
        connection,
        worker_id=worker_id,
        token=str(uuid4()),
        lanes=[Lane("default", 0)],
        floors=["-infinity"],
        limit=10,
    )
    return cursor.fetchall()


def woken(connection: Connection, worker_id: str) -> list[Any]:
    return claim.claim_woken(
        connection, worker_id=worker_id, token=str(uuid4()), limit=10
    ).fetchall()


def suspect(connection: Connection, worker_id: str) -> list[Any]:
    return claim.claim_suspect(
        connection, worker_id=worker_id, token=str(uuid4()), queues=["default"]
    )


CLAIMS: dict[str, Callable[[Connection, str], list[Any]]] = {
    "CLAIM": by_lanes,
    "CLAIM_WOKEN": woken,
    "CLAIM_SUSPECT": suspect,
}

# What may have become of a due task: the columns that another one has changed.
CHANGES = {
    "claimed": "status = 'RUNNING', claim = gen_random_uuid(), worker_id = gen_random_uuid(), "
    "started_at = now(), attempts = 1",
    "claimed, and retried later": "run_after = now() + interval '1 hour', attempts = 1",
    "crashed for the second time": "crashes = 2",
    "moved": "queue_name = 'other'",
}


def paused(statement: str) -> str:
    """Let a claim take its snapshot, and pause before it locks rows."""
    with_, first, rest = statement.partition(
        "WITH RECURSIVE " if "WITH RECURSIVE " in statement else "WITH "
    )
    pause = "pause AS MATERIALIZED (SELECT pg_advisory_xact_lock(42)), "
    where = "EXISTS (SELECT FROM django_taskq_worker"
    return with_ + first + pause + rest.replace(where, f"EXISTS (SELECT FROM pause) AND {where}")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (name, change)
        for name in CLAIMS
        for change in CHANGES
        # Suspects have crashed twice already.
        if not (name == "CLAIM_SUSPECT" and change.startswith("crashed"))
    ],
)
def test_what_may_not_run_any_more_since_a_claim_began_is_not_claimed(
    one: Connection, other: Connection, worker_id: str, name: str, change: str
) -> None:
    """SKIP LOCKED takes rows that are newer than the snapshot, and asks the conditions again."""
    crashes = 2 if name == "CLAIM_SUSPECT" else 0
    changed, left = (rows.add(one, crashes=crashes) for _ in range(2))
    other.execute("SET lock_timeout = '20s'")
    one.execute("SELECT pg_advisory_lock(42)")

    with mock.patch.object(claim, name, paused(getattr(claim, name))):
        claiming = start_and_wait_until_blocked(lambda: CLAIMS[name](other, worker_id), other, one)
        one.execute(f"UPDATE django_taskq_livetask SET {CHANGES[change]} WHERE id = %s", [changed])
        before = rows.row(one, changed)
        one.execute("SELECT pg_advisory_unlock(42)")
        assert [row[0] for row in claiming.result()] == [left]

    assert rows.row(one, changed) == before
    assert rows.row(one, left)["worker_id"] == worker_id


@pytest.mark.parametrize("name", ["claim", "claim_woken", "claim_suspect"])
def test_the_token_of_a_claim_is_noted_before_it_is_sent(
    one: Connection, worker_id: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the process dies before the answer has come, its supervisor knows whose rows these are."""
    id = rows.add(one, task="complete", crashes=2 if name == "claim_suspect" else 0)
    send = getattr(claim, name)
    noted: list[bool] = []

    with child(worker_id, queues=("*",) if name == "claim" else ()) as running:

        def note(connection: Connection, *, token: str, **options: Any) -> Any:
            noted.append(running.record.holdings().claims == {token})
            return send(connection, token=token, **options)

        def has_ended() -> bool:
            running.order("x" if name == "claim_suspect" else "w")
            return rows.statuses_now(one, [id]) == ["SUCCESSFUL"]

        monkeypatch.setattr(claim, name, note)
        until(has_ended, "the task has ended")

    assert noted
    assert all(noted)
