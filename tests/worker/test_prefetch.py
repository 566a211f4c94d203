"""How many tasks a child claims, by what it holds and what it knows of their times."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from django_taskq.ids import new_ids
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.parallel_record import ParallelRecord
from django_taskq.worker.prefetch import Prefetch
from django_taskq.worker.record import Record
from django_taskq.worker.shared_memory import SharedMemory

MILLISECOND = 0.001
# So many tasks of a millisecond fill 50 of them.
FULL = 50


class Child:
    """A child that runs so many tasks at once, and the room that it has."""

    def __init__(
        self, size: int = 1, *, lent: Callable[[], int] | None = None, most: int = 0
    ) -> None:
        self.memory = SharedMemory.create(1, 0 if size == 1 else size)
        self.record: Record = self.memory.records[0]
        self.record.reset()
        self.now = time.monotonic()
        options = WorkerOptions(database="default", max_tasks_per_child=most)
        self.hand = SimpleNamespace(unsent=[], run_time=None)
        seat: Any = SimpleNamespace(record=self.record, options=options)
        self.pool = SimpleNamespace(size=size, busy=0)
        self.prefetch = Prefetch(seat, self.pool, self.hand, lent)  # type: ignore[arg-type]

    def holds(self, count: int, *, running_for: float | None = None, places: int = 1) -> None:
        """Let it have claimed so many tasks, the first of which run since then."""
        epoch = self.record.announce(str(uuid4()))
        ids = new_ids(count)
        assert self.record.accept(epoch, ids)
        if running_for is not None:
            self.pool.busy = places
            since = self.now - running_for
            if isinstance(self.record, ParallelRecord):
                for place in range(places):
                    assert self.record.start_in(place, epoch, ids[place], since, 0.0)
            else:
                assert self.record.start(epoch, since, 0.0)

    def room(self, *, may_wait: bool = True) -> int:
        return self.prefetch.room(self.now, may_wait=may_wait)


def test_while_nobody_knows_how_long_tasks_run_one_is_claimed_at_a_time() -> None:
    child = Child()
    assert child.room() == 1

    child.holds(1)

    assert child.room() == 0


@pytest.mark.parametrize(
    "run_time, room", [(MILLISECOND, FULL), (0.01, 5), (0.03, 1), (0.2, 1), (0.0, 500)]
)
def test_about_as_many_are_claimed_as_start_within_50_ms(run_time: float, room: int) -> None:
    child = Child()
    child.hand.run_time = run_time

    assert child.room() == room


@pytest.mark.parametrize("held, room", [(1, FULL - 1), (24, FULL - 24), (25, 0), (49, 0)])
def test_a_claim_of_its_own_is_made_when_more_than_half_is_wanted(held: int, room: int) -> None:
    child = Child()
    child.hand.run_time = MILLISECOND
    child.holds(held, running_for=0.0)

    assert child.room() == room


@pytest.mark.parametrize("held, room", [(37, FULL - 37), (38, 0)])
def test_a_claim_that_goes_with_outcomes_is_made_for_less(held: int, room: int) -> None:
    child = Child()
    child.hand.run_time = MILLISECOND
    child.hand.unsent = ["an outcome"]
    child.holds(held, running_for=0.0)

    assert child.room() == room


@pytest.mark.parametrize("seconds, room", [(0.9, FULL - 1), (1.1, 0), (100.0, 0)])
def test_nothing_is_claimed_to_wait_behind_a_task_that_runs_for_a_second(
    seconds: float, room: int
) -> None:
    child = Child()
    child.hand.run_time = MILLISECOND
    child.holds(1, running_for=seconds)

    assert child.room() == room


def test_what_may_not_wait_is_claimed_for_free_places_alone() -> None:
    child = Child()
    child.hand.run_time = MILLISECOND
    assert child.room(may_wait=False) == 1

    child.holds(1, running_for=0.0)

    assert child.room(may_wait=False) == 0
    assert child.room(may_wait=True) == FULL - 1


@pytest.mark.parametrize("held, room", [(0, 20), (10, 10), (19, 1)])
def test_no_more_are_claimed_than_the_child_lives_to_run(held: int, room: int) -> None:
    child = Child(most=20)
    child.hand.run_time = MILLISECOND
    if held:
        child.holds(held, running_for=0.0)

    assert child.room() == room


# --- several at once -----------------------------------------------------------------------------


def test_with_places_tasks_are_claimed_ahead_only_while_they_flow() -> None:
    child = Child(4)
    child.hand.run_time = 0.01
    assert child.room() == 4
    child.holds(4, running_for=0.0, places=4)

    # It has claimed just now: what four places start within 50 ms, but for one.
    assert child.room() == 19

    child.now += 0.3
    assert child.room() == 0


def test_a_long_task_in_one_place_does_not_keep_the_others_empty() -> None:
    child = Child(4)
    child.hand.run_time = 0.01
    child.holds(1, running_for=100.0)
    child.now += 0.3

    assert child.room() == 3


def test_places_that_another_child_still_takes_are_not_filled() -> None:
    lent = 3
    child = Child(4, lent=lambda: lent)
    child.hand.run_time = 0.01
    assert child.room() == 1
    assert child.prefetch.next_at(child.now) == child.now + 0.02

    lent = 0

    assert child.room() == 4
    assert child.prefetch.next_at(child.now) == float("inf")
