"""The record of a child that runs several tasks at once."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest

from django_taskq.ids import new_ids
from django_taskq.worker.parallel_record import ParallelRecord
from django_taskq.worker.record import Holdings
from django_taskq.worker.shared_memory import SharedMemory

TOKEN = str(uuid4())


@pytest.fixture
def record() -> ParallelRecord:
    memory = SharedMemory.create(2, places=3)
    memory.budget.create(-1)
    for each in memory.records:
        each.reset()
    record = memory.records[1]
    assert isinstance(record, ParallelRecord)
    return record


def claim(record: ParallelRecord, ids: list[str]) -> int:
    epoch = record.announce(TOKEN)
    assert record.accept(epoch, ids)
    return epoch


def test_each_place_says_what_runs_in_it(record: ParallelRecord) -> None:
    ids = new_ids(5)
    epoch = claim(record, ids)
    now = time.monotonic()
    assert record.start_in(2, epoch, ids[0], now - 3, 0.0)
    assert record.start_in(0, epoch, ids[1], now - 1, now + 9)
    assert record.running == 2
    assert record.running_for(now) == pytest.approx(3)
    assert record.deadline == now + 9
    assert record.holdings() == Holdings(ids[:2], ids[2:], (ids[1], ids[0]))
    assert record.holdings().since == (now - 1, now - 3)
    record.end_in(2)
    assert record.running == 1
    assert record.holdings() == Holdings(ids[:2], ids[2:], (ids[1],))
    record.end_all()
    assert (record.running, record.running_for(now), record.deadline) == (0, 0.0, 0.0)


def test_only_those_over_their_limit_are_overdue(record: ParallelRecord) -> None:
    ids = new_ids(2)
    epoch = claim(record, ids)
    now = time.monotonic()
    record.start_in(0, epoch, ids[0], now - 3, now - 1)
    record.start_in(1, epoch, ids[1], now - 3, now + 60)
    assert record.holdings().overdue == (ids[0],)


def test_the_child_enforces_its_limits_itself_unless_it_is_mute(record: ParallelRecord) -> None:
    (id,) = new_ids(1)
    now = time.monotonic()
    record.start_in(0, claim(record, [id]), id, now - 30, now - 20)
    record.tick()
    assert not record.must_be_killed(now)
    assert record.must_be_killed(now + 6), "nothing was heard of it for six seconds"


def test_a_task_that_runs_for_long_is_known_when_the_ring_has_forgotten_it(
    record: ParallelRecord,
) -> None:
    (long,) = new_ids(1)
    record.start_in(0, claim(record, [long]), long, time.monotonic(), 0.0)
    for _ in range(5):
        ids = new_ids(500)
        epoch = claim(record, ids)
        for id in ids:
            assert record.start_in(1, epoch, id, time.monotonic(), 0.0)
            record.end_in(1)
    held = record.holdings()
    assert held.running == (long,)
    assert long in held.started
    assert held.unstarted == []


def test_what_was_taken_away_does_not_start(record: ParallelRecord) -> None:
    ids = new_ids(3)
    epoch = claim(record, ids)
    assert record.start_in(0, epoch, ids[0], time.monotonic(), 0.0)
    assert record.take_unstarted() == Holdings(ids[:1], ids[1:], (ids[0],))
    assert not record.start_in(1, epoch, ids[1], time.monotonic(), 0.0)
    assert record.running == 1


def test_it_is_stuck_when_tasks_wait_and_none_has_started_for_a_while(
    record: ParallelRecord,
) -> None:
    ids = new_ids(2)
    epoch = claim(record, ids)
    now = time.monotonic()
    record.start_in(0, epoch, ids[0], now, 0.0)
    assert not record.is_stuck(now + 0.5, 1.0)
    assert record.is_stuck(now + 1.5, 1.0)
    record.start_in(1, epoch, ids[1], now, 0.0)
    assert not record.is_stuck(now + 1.5, 1.0), "nothing waits"


def test_a_new_child_finds_the_places_empty(record: ParallelRecord) -> None:
    (id,) = new_ids(1)
    record.start_in(0, claim(record, [id]), id, time.monotonic(), 0.0)
    record.say_retiring(is_hung=True)
    record.reset()
    assert record.holdings() == Holdings([], [], ())
    assert not record.is_retiring and not record.is_hung and not record.is_hungry
