"""claim: which rows a process gets, in which order, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest

from django_taskq.db import Connection
from django_taskq.transitions import claim
from django_taskq.transitions.claim import Claimed, Lane
from tests.support import rows

DEFAULT = Lane("default", 0)


def take(
    connection: Connection,
    worker_id: str,
    *lanes: Lane,
    limit: int = 100,
    floors: Sequence[str] | None = None,
) -> list[Claimed]:
    """Claim along these lanes and return what was claimed, in its order."""
    token = str(uuid4())
    cursor = claim.claim(
        connection,
        worker_id=worker_id,
        token=token,
        lanes=lanes or [DEFAULT],
        floors=floors or ["-infinity"] * len(lanes or [DEFAULT]),
        limit=limit,
    )
    return claim.claimed_rows(cursor, token, lanes or [DEFAULT])[0]


def ids(claimed: Sequence[Claimed]) -> list[str]:
    return [row.id for row in claimed]


def test_a_claimed_task_runs_under_the_token_of_its_claim(
    connection: Connection, worker_id: str
) -> None:
    id = rows.add(connection, args=[1, "zwei"], kwargs={"a": None}, max_attempts=4)

    claimed = take(connection, worker_id)

    assert ids(claimed) == [id]
    stored = rows.row(connection, id)
    assert stored["status"] == "RUNNING"
    assert stored["claim"] == claimed[0].claim
    assert stored["worker_id"] == worker_id
    assert stored["attempts"] == claimed[0].attempts == 1
    assert stored["started_at"] is not None
    assert claimed[0].args == '[1, "zwei"]'
    assert claimed[0].kwargs == '{"a": null}'
    assert claimed[0].max_attempts == 4
    assert not claimed[0].is_expired
    assert claimed[0].errors is None


def test_tasks_come_in_order_of_their_time_then_of_their_id(
    connection: Connection, worker_id: str
) -> None:
    same = rows.Raw("timestamptz '2020-02-02 00:00:00+00'")
    second, third = sorted([str(uuid4()), str(uuid4())])
    rows.add(connection, id=third, run_after=same)
    rows.add(connection, id=second, run_after=same)
    last = rows.add(connection, run_after=rows.ago(10))
    first = rows.add(connection, run_after=rows.Raw("timestamptz '2020-01-01 00:00:00+00'"))

    assert ids(take(connection, worker_id)) == [first, second, third, last]


def test_a_short_claim_takes_the_oldest(connection: Connection, worker_id: str) -> None:
    late = rows.add(connection, run_after=rows.ago(10))
    early = rows.add(connection, run_after=rows.ago(100))

    assert ids(take(connection, worker_id, limit=1)) == [early]
    assert ids(take(connection, worker_id, limit=1)) == [late]


def test_lanes_are_served_in_the_order_in_which_they_are_asked_for(
    connection: Connection, worker_id: str
) -> None:
    mail = rows.add(connection, queue_name="mail", run_after=rows.ago(30))
    urgent = rows.add(connection, priority=10, run_after=rows.ago(5))
    plain = rows.add(connection, run_after=rows.ago(60))
    lanes = [Lane("default", 10), Lane("default", 0), Lane("mail", 0)]

    assert ids(take(connection, worker_id, *lanes, limit=2)) == [urgent, plain]
    assert ids(take(connection, worker_id, *lanes, limit=2)) == [mail]


def test_a_lane_that_is_not_asked_for_is_left_alone(connection: Connection, worker_id: str) -> None:
    others = [rows.add(connection, queue_name="mail"), rows.add(connection, priority=1)]

    assert take(connection, worker_id) == []
    assert rows.statuses(connection, others) == ["READY", "READY"]


def test_a_task_that_is_due_later_waits(connection: Connection, worker_id: str) -> None:
    rows.add(connection, run_after=rows.ago(-3600))

    assert take(connection, worker_id) == []


def test_below_a_floor_nothing_is_claimed(connection: Connection, worker_id: str) -> None:
    below = rows.add(connection, run_after=rows.Raw("timestamptz '2020-01-01 00:00:00+00'"))
    on_it = rows.add(connection, run_after=rows.Raw("timestamptz '2020-01-02 00:00:00+00'"))

    assert ids(take(connection, worker_id, floors=["2020-01-02 00:00:00+00"])) == [on_it]
    assert ids(take(connection, worker_id)) == [below]


@pytest.mark.parametrize("seconds, is_expired", [(1, True), (-3600, False)])
def test_a_claim_says_which_tasks_came_too_late(
    connection: Connection, worker_id: str, seconds: float, is_expired: bool
) -> None:
    rows.add(connection, expires_at=rows.ago(seconds))

    assert [row.is_expired for row in take(connection, worker_id)] == [is_expired]


@pytest.mark.parametrize("asked, is_cancelled", [(rows.ago(1), True), (None, False)])
def test_a_claim_says_which_tasks_somebody_asked_to_end(
    connection: Connection, worker_id: str, asked: Any, is_cancelled: bool
) -> None:
    rows.add(connection, cancel_requested_at=asked)

    assert [row.is_cancelled for row in take(connection, worker_id)] == [is_cancelled]


def test_a_claim_brings_what_the_task_carries_along_undecoded(
    connection: Connection, worker_id: str
) -> None:
    rows.add(connection, headers={"language": "de"})
    rows.add(connection)

    assert [row.headers for row in take(connection, worker_id)] == ['{"language": "de"}', None]


def test_a_retried_task_brings_its_earlier_errors_along(
    connection: Connection, worker_id: str
) -> None:
    rows.add(connection, attempts=1, errors=[{"message": "first"}])
    rows.add(connection, crashes=1, errors=[{"message": "crash"}])

    assert [row.errors for row in take(connection, worker_id)] == [
        '[{"message": "first"}]',
        '[{"message": "crash"}]',
    ]


def test_a_process_that_was_declared_dead_claims_nothing(connection: Connection) -> None:
    id = rows.add(connection)

    assert take(connection, str(uuid4())) == []
    assert rows.row(connection, id)["attempts"] == 0


def test_suspects_are_not_claimed_with_others(connection: Connection, worker_id: str) -> None:
    rows.add(connection, crashes=2, run_after=rows.ago(100))
    once_crashed = rows.add(connection, crashes=1)

    assert ids(take(connection, worker_id)) == [once_crashed]


def test_a_suspect_is_claimed_alone_and_the_longest_waiting_first(
    connection: Connection, worker_id: str
) -> None:
    rows.add(connection)
    second = rows.add(connection, crashes=2, run_after=rows.ago(10))
    first = rows.add(connection, crashes=2, run_after=rows.ago(20))
    rows.add(connection, crashes=2, run_after=rows.ago(-3600))
    rows.add(connection, crashes=2, queue_name="mail", run_after=rows.ago(30))

    def take_suspect() -> list[str]:
        return ids(
            claim.claim_suspect(
                connection, worker_id=worker_id, token=str(uuid4()), queues=["default", "other"]
            )
        )

    assert claim.suspect_queues(connection) in (["default", "mail"], ["mail", "default"])
    assert [take_suspect(), take_suspect(), take_suspect()] == [[first], [second], []]
    assert rows.row(connection, first)["attempts"] == 1


def test_a_process_that_was_declared_dead_claims_no_suspect(connection: Connection) -> None:
    rows.add(connection, crashes=2)

    assert (
        claim.claim_suspect(
            connection, worker_id=str(uuid4()), token=str(uuid4()), queues=["default"]
        )
        == []
    )


def found(connection: Connection) -> list[Lane]:
    return claim.found_lanes(claim.find_lanes(connection))


def test_lanes_with_due_tasks_are_found(connection: Connection, worker_id: str) -> None:
    for queue_name, priority in [("b", 0), ("a", -5), ("a", 100), ("a", 0), ("c", 7)]:
        rows.add(connection, queue_name=queue_name, priority=priority)
        rows.add(connection, queue_name=queue_name, priority=priority)
    rows.add(connection, queue_name="later", run_after=rows.ago(-3600))
    rows.add(connection, queue_name="held", status="HELD", held_for="unknown:x")
    rows.add(connection, queue_name="suspects", crashes=2)
    rows.add_running(connection, worker_id, queue_name="running")

    assert sorted(found(connection)) == [("a", -5), ("a", 0), ("a", 100), ("b", 0), ("c", 7)]


def test_a_suspect_at_the_head_of_a_lane_hides_nobody(connection: Connection) -> None:
    rows.add(connection, crashes=2, run_after=rows.ago(100))
    rows.add(connection)

    assert found(connection) == [DEFAULT]


def test_an_empty_table_has_no_lanes(connection: Connection) -> None:
    assert found(connection) == []
    assert claim.tick(connection, []) == ([], set(), {})


def test_a_tick_tells_when_a_suspect_waits(connection: Connection) -> None:
    rows.add(connection, crashes=2, run_after=rows.ago(-3600))
    assert claim.tick(connection, [])[1] == set()

    rows.add(connection, crashes=2, queue_name="mail")
    assert claim.tick(connection, [])[1] == {"mail"}


def test_a_tick_tells_where_tasks_are_due_and_when_the_next_ones_will_be(
    connection: Connection,
) -> None:
    rows.add(connection, queue_name="due")
    rows.add(connection, queue_name="later", run_after=rows.ago(-100))
    rows.add(connection, queue_name="later", run_after=rows.ago(-200))
    rows.add(connection, queue_name="both")
    rows.add(connection, queue_name="both", run_after=rows.ago(-300))

    seen = {tick.lane.queue_name: tick for tick in claim.tick(connection, [])[0]}

    assert {name: tick.is_due for name, tick in seen.items()} == {
        "due": True,
        "later": False,
        "both": True,
    }
    assert seen["due"].due_in is None
    assert seen["later"].due_in == pytest.approx(100, abs=20)
    assert seen["both"].due_in == pytest.approx(300, abs=20)


def test_a_tick_tells_which_tasks_of_these_children_were_asked_to_end(
    connection: Connection, worker_id: str
) -> None:
    other, third = rows.add_worker(connection), rows.add_worker(connection)
    asked = [
        rows.add_running(connection, worker, cancel_requested_at=rows.ago(1))
        for worker in (worker_id, worker_id, other, third)
    ]
    rows.add_running(connection, worker_id)
    rows.add(connection, cancel_requested_at=rows.ago(1))

    assert claim.tick(connection, [worker_id, other])[2] == {
        worker_id: {asked[0].id, asked[1].id},
        other: {asked[2].id},
    }


def test_waiting_tasks_are_counted_up_to_a_limit(
    connection: Connection, worker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.add_running(connection, worker_id)
    rows.add(connection)
    rows.add(connection, run_after=rows.ago(-3600))
    assert claim.count_waiting(connection) == 2

    connection.execute(
        "INSERT INTO django_taskq_livetask (task) SELECT 'x' FROM generate_series(1, 10100)"
    )
    assert claim.count_waiting(connection) == claim.COUNT_LIMIT


def test_a_claim_says_how_long_it_took_to_find_its_rows(
    connection: Connection, worker_id: str
) -> None:
    rows.add(connection)
    token = str(uuid4())

    cursor = claim.claim(
        connection,
        worker_id=worker_id,
        token=token,
        lanes=[DEFAULT],
        floors=["-infinity"],
        limit=1,
    )
    _, seconds = claim.claimed_rows(cursor, token, [DEFAULT])

    assert 0 < seconds < 30


def test_names_with_quotes_backslashes_and_commas_are_lanes_too(
    connection: Connection, worker_id: str
) -> None:
    names = ['say "hi"', "back\\slash", "a,b", "{x}", "NULL", "ümlaut", " "]
    expected = [rows.add(connection, queue_name=name) for name in names]

    claimed = take(connection, worker_id, *(Lane(name, 0) for name in names))

    assert ids(claimed) == expected


def take_woken(connection: Connection, worker_id: str, limit: int) -> list[Claimed]:
    """Claim as a child does that was idle and is woken."""
    token = str(uuid4())
    cursor = claim.claim_woken(connection, worker_id=worker_id, token=token, limit=limit)
    return claim.claimed_rows(cursor, token, [])[0]


def test_a_woken_child_takes_the_most_urgent_of_all_queues_first(
    connection: Connection, worker_id: str
) -> None:
    low = rows.add(connection, queue_name="a", run_after=rows.ago(30))
    later = rows.add(connection, queue_name="a", priority=9, run_after=rows.ago(-60))
    high = rows.add(connection, queue_name="b", priority=5, run_after=rows.ago(10))
    suspect = rows.add(connection, queue_name="b", priority=7, crashes=2)
    middle = rows.add(connection, queue_name="c", priority=3, run_after=rows.ago(20))

    assert ids(take_woken(connection, worker_id, limit=2)) == [high, middle]
    assert ids(take_woken(connection, worker_id, limit=2)) == [low]
    for waiting in (later, suspect):
        assert rows.row(connection, waiting)["status"] == "READY"


def test_a_woken_child_that_was_declared_dead_claims_nothing(connection: Connection) -> None:
    rows.add(connection)

    assert take_woken(connection, str(uuid4()), limit=5) == []


@pytest.mark.parametrize("run_after", [60, -3600], ids=["due", "due-later"])
def test_one_task_is_claimed_by_its_id_due_or_not(
    connection: Connection, worker_id: str, run_after: float
) -> None:
    id = rows.add(connection, run_after=rows.ago(run_after))
    rows.add(connection)
    token = str(uuid4())

    row = claim.claim_one(connection, worker_id=worker_id, token=token, task_id=id)

    assert row is not None
    assert (row.id, row.claim, row.attempts) == (id, token, 1)
    assert rows.row(connection, id)["status"] == "RUNNING"
    assert claim.claim_one(connection, worker_id=worker_id, token=token, task_id=id) is None


def test_one_task_is_not_claimed_by_a_process_whose_row_is_gone(connection: Connection) -> None:
    id = rows.add(connection)
    assert (
        claim.claim_one(connection, worker_id=str(uuid4()), token=str(uuid4()), task_id=id) is None
    )
    assert rows.row(connection, id)["status"] == "READY"
