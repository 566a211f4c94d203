"""Which queues a worker serves, in which order, and how it gets past dead rows."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

from django_taskq.worker import lanes
from django_taskq.worker.lanes import Lane, Lanes, Look, QueueChoice
from tests.worker import samples
from tests.worker.samples import claimed

A, B, C = Lane("a", 0), Lane("b", 0), Lane("c", 0)
NO_FLOOR = "-infinity"


# --- the choice of queues ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "queues, excluded, served",
    [
        ([], [], {"default", "mail", "mail-bulk", "Mail"}),
        (["mail"], [], {"mail"}),
        (["mail*"], [], {"mail", "mail-bulk"}),
        (["mail-*", "default"], [], {"default", "mail-bulk"}),
        (["[dm]*"], ["mail"], {"default", "mail-bulk"}),
        ([], ["mail*"], {"default", "Mail"}),
        (["*"], ["*"], set()),
        (["nobody"], [], set()),
    ],
)
def test_names_and_globs_choose_queues_and_exclusions_win(
    queues: list[str], excluded: list[str], served: set[str]
) -> None:
    choice = QueueChoice(queues, excluded)

    assert {q for q in ["default", "mail", "mail-bulk", "Mail"] if choice.serves(q)} == served


def test_queues_come_in_the_order_in_which_they_were_named_whatever_the_priority() -> None:
    choice = QueueChoice(["b", "a"], [])

    ordered = choice.in_order([Lane("a", 100), Lane("b", 0), Lane("b", 5), Lane("x", 9)], 0)

    assert ordered == [("b", 5), ("b", 0), ("a", 100)]


def test_the_first_pattern_that_fits_gives_a_queue_its_place() -> None:
    choice = QueueChoice(["mail-urgent", "mail-*", "*"], [])

    assert [choice.place(q) for q in ["mail-urgent", "mail-bulk", "default"]] == [0, 1, 2]


def test_without_a_named_order_priority_decides_across_queues() -> None:
    choice = QueueChoice([], [])

    ordered = choice.in_order([Lane("a", 0), Lane("b", 10), Lane("c", -10)], 0)

    assert ordered == [("b", 10), ("a", 0), ("c", -10)]


@pytest.mark.parametrize("queues", [[], ["*"]], ids=["all", "glob"])
def test_equal_lanes_take_turns_so_that_none_starves(queues: list[str]) -> None:
    choice = QueueChoice(queues, [])

    firsts = [choice.in_order([A, B, C], turn)[0] for turn in range(6)]

    assert firsts == [A, B, C, A, B, C]
    assert all(sorted(choice.in_order([A, B, C], turn)) == [A, B, C] for turn in range(3))


def test_named_queues_do_not_take_turns() -> None:
    choice = QueueChoice(["b", "a"], [])

    assert {tuple(choice.in_order([A, B], turn)) for turn in range(4)} == {(B, A)}


def test_a_child_gives_each_equal_lane_its_turn() -> None:
    known = Lanes(QueueChoice([], []))
    known.found([A, B], 0.0)

    assert {known.in_turn()[0] for _ in range(2)} == {A, B}


def test_lanes_of_other_workers_are_not_taken_up() -> None:
    known = Lanes(QueueChoice(["a"], []))

    known.found([A, B], 0.0)

    assert known.current == [A]


# --- floors -----------------------------------------------------------------------------------


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lanes, "time", SimpleNamespace(monotonic=clock))
    return clock


@pytest.fixture
def known(clock: Clock) -> Lanes:
    return Lanes(QueueChoice([], []))


SLOW, FAST = 0.5, 0.0001
BEGIN = datetime.fromisoformat("2026-01-01 00:00:00+00:00")


def at(seconds: float) -> str:
    return (BEGIN + timedelta(seconds=seconds)).isoformat(sep=" ")


def rows_of(lane: Lane, *seconds: float) -> list[lanes.Claimed]:
    return [
        claimed(
            samples.give, queue_name=lane.queue_name, priority=lane.priority, run_after=at(second)
        )
        for second in seconds
    ]


def test_claims_begin_at_the_beginning_as_long_as_they_are_fast(known: Lanes, clock: Clock) -> None:
    known.learn(rows_of(A, 1, 2), FAST, Look.FULL)

    assert known.look_now(clock.now, after_look=False) is Look.FULL
    assert known.floors([A], Look.TIGHT) == [NO_FLOOR]


def test_after_a_slow_claim_the_next_begins_where_that_one_ended(
    known: Lanes, clock: Clock
) -> None:
    known.learn(rows_of(A, 1, 2, 3) + rows_of(B, 7), SLOW, Look.FULL)

    assert known.look_now(clock.now, after_look=False) is not Look.FULL
    assert known.floors([B, A, C], Look.TIGHT) == [at(7), at(3), NO_FLOOR]


def test_now_and_then_a_claim_leaves_room_for_a_late_commit(known: Lanes, clock: Clock) -> None:
    known.learn(rows_of(A, 10), SLOW, Look.FULL)
    assert known.look_now(clock.now, after_look=False) is Look.LOOSE
    assert known.floors([A], Look.LOOSE) == [at(9)]

    known.learn(rows_of(A, 11), 0.01, Look.LOOSE)

    assert known.look_now(clock.now, after_look=False) is Look.TIGHT
    clock.now += 0.19
    assert known.look_now(clock.now, after_look=False) is Look.TIGHT
    clock.now += 0.02
    assert known.look_now(clock.now, after_look=False) is Look.LOOSE


def test_at_least_once_a_minute_a_claim_begins_at_the_beginning(known: Lanes, clock: Clock) -> None:
    known.learn(rows_of(A, 10), SLOW, Look.FULL)

    clock.now += 59
    assert known.look_now(clock.now, after_look=False) is not Look.FULL
    clock.now += 2
    assert known.look_now(clock.now, after_look=False) is Look.FULL


def test_what_a_look_has_found_below_the_floors_is_claimed(known: Lanes, clock: Clock) -> None:
    known.learn(rows_of(A, 10), SLOW, Look.FULL)

    assert known.look_now(clock.now, after_look=True) is Look.FULL
    assert known.floors([A, B], Look.FULL) == [NO_FLOOR, NO_FLOOR]


def test_looking_below_the_floors_takes_a_tenth_of_the_time(known: Lanes, clock: Clock) -> None:
    assert known.next_full_look() == float("-inf")

    known.learn(rows_of(A, 10), 0.5, Look.FULL)
    assert known.next_full_look() == pytest.approx(clock.now + 5)

    known.found([A], 0.2)
    assert known.next_full_look() == pytest.approx(clock.now + 7)


def test_a_task_from_below_does_not_lower_the_floor(known: Lanes) -> None:
    known.learn(rows_of(A, 10), SLOW, Look.FULL)

    known.learn(rows_of(A, 5), FAST, Look.LOOSE)

    assert known.floors([A], Look.TIGHT) == [at(10)]


def test_floors_rise_with_the_claims_above_them(known: Lanes) -> None:
    known.learn(rows_of(A, 10), SLOW, Look.FULL)

    known.learn(rows_of(A, 20, 30), FAST, Look.TIGHT)

    assert known.floors([A], Look.TIGHT) == [at(30)]


def test_floors_go_when_a_claim_from_the_beginning_is_fast_again(
    known: Lanes, clock: Clock
) -> None:
    known.learn(rows_of(A, 10), SLOW, Look.FULL)

    known.learn(rows_of(A, 11), FAST, Look.FULL)

    assert known.floors([A], Look.TIGHT) == [NO_FLOOR]
    assert known.look_now(clock.now, after_look=False) is Look.FULL


def test_a_slow_claim_of_nothing_raises_no_floor(known: Lanes) -> None:
    known.learn([], SLOW, Look.FULL)

    assert known.floors([A], Look.TIGHT) == [NO_FLOOR]


def test_a_new_connection_begins_without_floors(known: Lanes) -> None:
    known.learn(rows_of(A, 10), SLOW, Look.FULL)

    known.forget_floors()

    assert known.floors([A], Look.TIGHT) == [NO_FLOOR]
