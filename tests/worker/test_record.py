"""The record that a child shares with its supervisor, across real processes."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from django_taskq.ids import new_ids
from django_taskq.worker.record import Holdings, Record
from django_taskq.worker.shared_memory import SharedMemory

TOKEN = str(uuid4())


@pytest.fixture
def memory() -> SharedMemory:
    memory = SharedMemory.create(2)
    memory.budget.create(-1)
    for record in memory.records:
        record.reset()
    return memory


@pytest.fixture
def record(memory: SharedMemory) -> Record:
    return memory.records[1]


class Child:
    """A forked process that does one thing, and can tell its parent bytes and be told to go on."""

    def __init__(self, work: Callable[[Child], None]) -> None:
        self._told, self._tell = os.pipe()
        self._may_go_on, self._go_on = os.pipe()
        with warnings.catch_warnings():
            # Other tests may have left threads; the child does nothing that needs them.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            try:
                work(self)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)

    def tell(self, text: str) -> None:
        """Called in the child."""
        os.write(self._tell, text.encode() + b"\n")

    def wait(self) -> None:
        """Called in the child: wait until the parent says go on."""
        os.read(self._may_go_on, 1)

    def listen(self) -> str:
        """Return the next line that the child tells."""
        line = b""
        while not line.endswith(b"\n"):
            byte = os.read(self._told, 1)
            assert byte, "the child has gone"
            line += byte
        return line.decode().strip()

    def go_on(self) -> None:
        os.write(self._go_on, b"g")

    def reap(self) -> int:
        """Wait for the child's end; return its exit code, minus the signal if one killed it."""
        _, status = os.waitpid(self.pid, 0)
        for end in (self._told, self._tell, self._may_go_on, self._go_on):
            os.close(end)
        return os.waitstatus_to_exitcode(status)


def claim(record: Record, ids: list[str]) -> int:
    """Do what a feeder does: note a claim and its answer; return the epoch."""
    epoch = record.announce(TOKEN)
    assert record.accept(epoch, ids)
    return epoch


def start(record: Record, epoch: int, *, deadline: float = 0.0) -> bool:
    return record.start(epoch, time.monotonic(), deadline)


def test_a_new_record_is_empty_and_idle_only_once_its_child_says_so(record: Record) -> None:
    assert not record.is_idle
    assert not record.is_ready
    assert (record.claimed, record.unstarted, record.epoch) == (0, 0, 0)
    assert record.holdings() == Holdings([], [], ())
    assert not record.has_claim_under_way


def test_what_a_child_notes_its_supervisor_reads(record: Record) -> None:
    ids = new_ids(5)

    def work(child: Child) -> None:
        record.say_ready()
        record.say_idle(False)
        epoch = claim(record, ids)
        start(record, epoch)
        record.end()
        start(record, epoch, deadline=123.0)

    assert Child(work).reap() == 0
    assert record.is_ready
    assert not record.is_idle
    assert record.holdings() == Holdings(ids[:2], ids[2:], (ids[1],), (ids[1],))
    assert (record.claimed, record.unstarted) == (5, 3)
    assert record.deadline == 123.0
    assert record.running_for(time.monotonic() + 10) > 10


def test_between_two_tasks_nothing_runs(record: Record) -> None:
    ids = new_ids(2)
    start(record, claim(record, ids), deadline=5.0)

    record.end()

    assert record.holdings() == Holdings(ids[:1], ids[1:], ())
    assert record.holdings().since == ()
    assert record.running_for(time.monotonic()) == 0.0
    assert record.deadline == 0.0


def test_a_silent_feeder_is_noticed(record: Record) -> None:
    record.tick()

    assert record.silent_for(time.monotonic()) < 10
    assert record.silent_for(time.monotonic() + 100) >= 100


def test_what_was_taken_away_is_not_started(record: Record) -> None:
    ids = new_ids(3)
    epoch = claim(record, ids)
    assert start(record, epoch)

    assert record.take_unstarted() == Holdings(ids[:1], ids[1:], (ids[0],))

    assert not start(record, epoch)
    assert record.unstarted == 0
    assert record.holdings().unstarted == []


def test_after_something_was_taken_away_new_claims_start_again(record: Record) -> None:
    claim(record, new_ids(3))
    record.take_unstarted()
    ids = new_ids(2)

    epoch = claim(record, ids)

    assert start(record, epoch)
    assert record.holdings() == Holdings(ids[:1], ids[1:], (ids[0],))


def test_a_claim_under_way_that_was_taken_away_is_not_accepted(record: Record) -> None:
    epoch = record.announce(TOKEN)
    assert record.has_claim_under_way
    record.take_unstarted()

    assert not record.accept(epoch, new_ids(3))

    assert not record.has_claim_under_way
    assert record.unstarted == 0


@pytest.mark.parametrize("turn", range(10))
def test_a_task_is_started_or_taken_away_but_never_both(record: Record, turn: int) -> None:
    ids = new_ids(400)

    def work(child: Child) -> None:
        epoch = claim(record, ids)
        started = 0
        child.tell("claimed")
        while start(record, epoch):
            record.end()
            started += 1
            if started == len(ids):
                break
        child.tell(str(started))

    child = Child(work)
    child.listen()
    while record.unstarted > 40 * turn:
        pass
    held = record.take_unstarted()
    started = int(child.listen())
    assert child.reap() == 0

    assert held is not None
    assert held.started == ids[:started]
    assert held.unstarted == ids[started:]


def test_the_ring_of_ids_goes_round(record: Record) -> None:
    everything: list[str] = []
    epoch = 0
    for _ in range(9):
        ids = new_ids(500)
        everything += ids
        epoch = claim(record, ids)
        for _ in ids:
            start(record, epoch)
    last = new_ids(300)
    epoch = claim(record, last)
    everything += last
    start(record, epoch)

    held = record.holdings()

    assert held.unstarted == last[1:]
    assert held.running == (last[0],)
    # The oldest of them have ended long ago, and are not known any more.
    assert held.started == everything[:4501][-len(held.started) :]
    assert len(held.started) + len(held.unstarted) == 2048


def test_a_child_that_died_with_the_lock_does_not_take_it_along(record: Record) -> None:
    ids = new_ids(3)

    def work(child: Child) -> None:
        start(record, claim(record, ids))
        record._lock.acquire()
        child.tell("locked")
        child.wait()

    child = Child(work)
    child.listen()
    os.kill(child.pid, signal.SIGKILL)
    assert child.reap() == -signal.SIGKILL

    assert record.take_unstarted() == Holdings(ids[:1], ids[1:], (ids[0],))
    assert record.take_unstarted() == Holdings(ids[:1], [], (ids[0],))
    assert start(record, record.announce(TOKEN))


def test_while_a_living_child_has_the_lock_nothing_is_taken_away(record: Record) -> None:
    ids = new_ids(2)

    def work(child: Child) -> None:
        claim(record, ids)
        record._lock.acquire()
        child.tell("locked")
        child.wait()
        record._lock.release()
        child.tell("released")

    child = Child(work)
    child.listen()

    assert record.take_unstarted() is None
    assert record.epoch == 0

    child.go_on()
    child.listen()
    assert record.take_unstarted() == Holdings([], ids, ())
    assert child.reap() == 0


def test_a_thread_that_waits_for_the_lock_lets_its_holder_run(record: Record) -> None:
    locked, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        record._lock.acquire()
        locked.set()
        assert go_on.wait(20)
        record._lock.release()

    with ThreadPoolExecutor(2) as pool:
        holder = pool.submit(hold)
        assert locked.wait(20)
        waiter = pool.submit(record.announce, TOKEN)
        go_on.set()
        holder.result(20)
        assert waiter.result(20) == 0


def test_a_new_child_finds_a_clean_slot(record: Record) -> None:
    start(record, claim(record, new_ids(3)), deadline=9.0)
    record.take_unstarted()
    record.say_ready()

    record.reset()

    assert record.holdings() == Holdings([], [], ())
    assert (record.epoch, record.is_ready, record.is_idle) == (0, False, False)


def test_children_have_records_of_their_own(memory: SharedMemory) -> None:
    ids = new_ids(2)
    claim(memory.records[0], ids)

    assert memory.records[1].claimed == 0
    memory.records[1].take_unstarted()
    assert memory.records[0].holdings().unstarted == ids


# --- the budget of --max-tasks ----------------------------------------------------------------


def test_without_a_limit_every_claim_gets_what_it_wants(memory: SharedMemory) -> None:
    assert memory.budget.left == -1
    assert memory.budget.take(500) == 500
    memory.budget.put_back(500)
    assert memory.budget.left == -1


def test_a_budget_gives_no_more_than_it_has(memory: SharedMemory) -> None:
    memory.budget.create(5)

    assert [memory.budget.take(3), memory.budget.take(3), memory.budget.take(3)] == [3, 2, 0]

    memory.budget.put_back(2)
    assert memory.budget.left == 2


def test_children_together_never_start_more_than_the_budget(memory: SharedMemory) -> None:
    memory.budget.create(1000)

    def work(child: Child) -> None:
        child.wait()
        taken = 0
        while count := memory.budget.take(3):
            if count > 1:
                memory.budget.put_back(1)
                count -= 1
            taken += count
        child.tell(str(taken))

    children = [Child(work) for _ in range(3)]
    for child in children:
        child.go_on()
    taken = [int(child.listen()) for child in children]

    assert [child.reap() for child in children] == [0, 0, 0]
    assert sum(taken) == 1000
    assert memory.budget.left == 0
