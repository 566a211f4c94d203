"""What each child has claimed, started and runs, in memory that its supervisor shares.

A feeder cannot speak while C code in its child's main thread holds the GIL, and nothing can speak
for a dead child: the record can. It says which tasks were claimed (a ring of ids), how many of them
have started, what runs since when, and the token of a claim whose answer is still under way.

A child counts a task as started under the lock and only if the epoch is the one under which the
task was claimed. Whoever takes unstarted tasks away raises the epoch under the same lock, so a task
is either started here or given back, never both.

The lock is a robust pthread mutex in the shared memory: its holder's death does not leave it locked
(the next one is told, and goes on), and taking it costs a third of a file lock.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

if sys.platform != "win32":  # where no worker runs; but the command must be able to say so
    _c = ctypes.PyDLL(None, use_errno=False)  # keeps the GIL: for calls that do not block
    _c_blocking = ctypes.CDLL(None)  # lets other threads run meanwhile

_ID_LENGTH = 36
# More than a feeder ever has in hand: its prefetch, what runs, and outcomes on their way.
_RING = 2048
# Offsets in 8-byte words. The mutex gets 128 bytes: the largest known pthread_mutex_t has 64.
_EPOCH, _CLAIMED, _STARTED, _IDLE, _HUNGRY, _READY, _RETIRING = 16, 17, 18, 19, 20, 21, 22
_RUNNING_SINCE, _DEADLINE, _TICKED_AT, _MOVED_AT = 24, 25, 26, 27
_TOKEN = 32 * 8  # a text of 36 bytes, or NULs
_RING_AT = 40 * 8
# Behind the ring, for pools that run several tasks at once: a place per executor, which says what
# runs there (its id), since when, and when its time is over.
_PLACES_AT = _RING_AT + _RING * _ID_LENGTH
_PLACES_AT += -_PLACES_AT % 64
_PLACE_SIZE, _PLACE_ID = 64, 16
_HEADER_SIZE = 4096
# Tasks flow while one was claimed or started within so many seconds.
_FLOWING = 0.25
# A child that enforces time limits itself is killed when it has not moved for so many seconds.
_MUTE = 5.0
_PERMITS = 16


class Mutex:
    """A lock between processes (and threads), at an address in shared memory."""

    def __init__(self, address: int) -> None:
        self._address = ctypes.c_void_p(address)
        self._trylock = _c.pthread_mutex_trylock
        self._unlock = _c.pthread_mutex_unlock

    def create(self) -> None:
        """Make the memory a mutex; once, by one process."""
        attributes = (ctypes.c_char * 128)()
        _c.pthread_mutexattr_init(attributes)
        _c.pthread_mutexattr_setpshared(attributes, 1)
        if hasattr(_c, "pthread_mutexattr_setrobust"):  # macOS has none
            _c.pthread_mutexattr_setrobust(attributes, 1)
        _c.pthread_mutex_init(self._address, attributes)

    def acquire(self) -> None:
        """Take the lock."""
        taken = self._trylock(self._address)
        if taken == errno.EBUSY:
            # Not with the GIL in hand: another thread of this process may hold the lock.
            taken = _c_blocking.pthread_mutex_lock(self._address)
        if taken:
            self._recover(taken)

    def acquire_within(self, seconds: float) -> bool:
        """Take the lock if it can be had in time; its holder may be suspended."""
        deadline = time.monotonic() + seconds
        while (taken := self._trylock(self._address)) == errno.EBUSY:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.001)
        if taken:
            self._recover(taken)
        return True

    def release(self) -> None:
        """Give the lock back."""
        self._unlock(self._address)

    def _recover(self, code: int) -> None:
        # All that is written under the lock is single words: nothing is left half done.
        if code != errno.EOWNERDEAD:
            raise OSError(code, os.strerror(code))
        _c.pthread_mutex_consistent(self._address)


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a child held at one moment."""

    # Started, some of them perhaps running; the oldest of them have ended long ago.
    started: list[str]
    unstarted: list[str]
    # The tasks that run.
    running: tuple[str, ...]
    # Those of them whose hard time limit is over.
    overdue: tuple[str, ...] = ()


class Record:
    """One child's record. The child writes it; its supervisor reads it and raises the epoch."""

    def __init__(self, memory: mmap.mmap, base: int, offset: int, places: int) -> None:
        view = memoryview(memory)[offset : offset + _slot_size(places)]
        self._bytes = view
        self._words = view[:_TOKEN].cast("q")
        self._moments = view[:_TOKEN].cast("d")
        self._lock = Mutex(base + offset)

    def reset(self) -> None:
        """Make the slot ready for a new child."""
        self._bytes[:_RING_AT] = bytes(_RING_AT)
        self._bytes[_PLACES_AT:] = bytes(len(self._bytes) - _PLACES_AT)
        self._lock.create()
        self._moments[_TICKED_AT] = time.monotonic()

    # --- the child's main thread -------------------------------------------------------------

    def start(self, epoch: int, now: float, deadline: float) -> bool:
        """Count the next claimed task as started; refuse if it has been taken away meanwhile."""
        words, lock = self._words, self._lock
        lock.acquire()
        allowed = words[_EPOCH] == epoch
        if allowed:
            words[_STARTED] += 1
            self._moments[_DEADLINE] = deadline
            self._moments[_RUNNING_SINCE] = now
        lock.release()
        return allowed

    def end(self) -> None:
        """Say that the running task has ended."""
        self._moments[_RUNNING_SINCE] = 0.0

    # --- the child's feeder ------------------------------------------------------------------

    def announce(self, token: str) -> int:
        """Note the token of a claim before it is sent; return the epoch it belongs to."""
        self._lock.acquire()
        self._bytes[_TOKEN : _TOKEN + _ID_LENGTH] = token.encode()
        epoch = self._words[_EPOCH]
        self._lock.release()
        return epoch

    def accept(self, epoch: int, ids: list[str]) -> bool:
        """Note claimed ids; refuse if they were given back while the answer was under way."""
        self._lock.acquire()
        self._bytes[_TOKEN : _TOKEN + _ID_LENGTH] = bytes(_ID_LENGTH)
        allowed = self._words[_EPOCH] == epoch
        if allowed and ids:
            self._write_ids(self._words[_CLAIMED], ids)
            self._words[_CLAIMED] += len(ids)
            self._moments[_MOVED_AT] = time.monotonic()
        self._lock.release()
        return allowed

    def tick(self) -> None:
        """Show that the feeder is alive."""
        self._moments[_TICKED_AT] = time.monotonic()

    def say_idle(self, idle: bool) -> None:
        """Say whether there is nothing claimed, running or unsent: then it is hungry, too."""
        self._words[_IDLE] = self._words[_HUNGRY] = idle

    def say_hungry(self) -> None:
        """Say that more could run here, and nothing is known that could be claimed."""
        self._words[_HUNGRY] = 1

    def say_ready(self) -> None:
        """Say that the child has come up."""
        self._words[_READY] = 1

    def say_retiring(self, *, is_hung: bool = False) -> None:
        """Say that the child claims no more, and ends by itself after what it has in hand.

        `is_hung`: that may take long or for ever, so that the next one must not wait for it.
        """
        self._words[_RETIRING] = 2 if is_hung else 1

    # --- both sides --------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        return self._words[_EPOCH]

    @property
    def unstarted(self) -> int:
        """Return how many claimed tasks have not started."""
        return self._words[_CLAIMED] - self._words[_STARTED]

    @property
    def claimed(self) -> int:
        """Return how many tasks were claimed and not taken away, ever."""
        return self._words[_CLAIMED]

    @property
    def is_idle(self) -> bool:
        return bool(self._words[_IDLE])

    @property
    def is_hungry(self) -> bool:
        return bool(self._words[_HUNGRY])

    @property
    def is_ready(self) -> bool:
        return bool(self._words[_READY])

    @property
    def is_retiring(self) -> bool:
        return bool(self._words[_RETIRING])

    @property
    def is_hung(self) -> bool:
        return self._words[_RETIRING] == 2

    def running_for(self, now: float) -> float:
        """Return the seconds that the running task has run; 0 when none does."""
        since = self._moments[_RUNNING_SINCE]
        return now - since if since else 0.0

    @property
    def running(self) -> int:
        """Count the tasks that run."""
        return 1 if self._moments[_RUNNING_SINCE] else 0

    def is_stuck(self, now: float, seconds: float) -> bool:
        """Say whether claimed tasks wait that will not start for a while, or cannot be freed."""
        if self.running_for(now) >= seconds:
            return bool(self.unstarted) or self.has_claim_under_way
        return bool(self.unstarted) and self.silent_for(now) >= seconds

    def has_moved(self, now: float) -> bool:
        """Say whether tasks were claimed or started just now: work is flowing."""
        return now - self._moments[_MOVED_AT] < _FLOWING

    def silent_for(self, now: float) -> float:
        """Return the seconds since the feeder last ticked."""
        return now - self._moments[_TICKED_AT]

    @property
    def deadline(self) -> float:
        """Return when the running task's hard time limit is over; 0 when there is none."""
        return self._moments[_DEADLINE] if self._moments[_RUNNING_SINCE] else 0.0

    def must_be_killed(self, now: float) -> bool:
        """Say whether a hard time limit is over that only the process's death can enforce."""
        return bool(self.deadline) and now >= self.deadline

    def take_unstarted(self) -> Holdings | None:
        """Take away what has not started; None if the lock cannot be had within 100 ms.

        A claim under way is taken too: its rows will be refused by `accept`.
        """
        if not self._lock.acquire_within(0.1):
            return None
        try:
            held = self.holdings()
            self._words[_EPOCH] += 1
            self._words[_CLAIMED] = self._words[_STARTED]
        finally:
            self._lock.release()
        return held

    def holdings(self) -> Holdings:
        """Read what the child holds; without the lock, for a child that has been reaped."""
        started, unstarted = self._in_ring()
        running = (started[-1],) if started and self._moments[_RUNNING_SINCE] else ()
        return Holdings(started, unstarted, running, running if self.is_overdue else ())

    @property
    def is_overdue(self) -> bool:
        """Say whether a hard time limit is over."""
        deadline = self.deadline
        return bool(deadline) and time.monotonic() >= deadline

    def _in_ring(self) -> tuple[list[str], list[str]]:
        """Return the ids of the tasks that have started, and of those that have not."""
        claimed, started = self._words[_CLAIMED], self._words[_STARTED]
        first = max(0, claimed - _RING)
        ids = self._read_ids(first, claimed)
        begun = max(0, started - first)
        return ids[:begun], ids[begun:]

    @property
    def has_claim_under_way(self) -> bool:
        return self._bytes[_TOKEN] != 0

    def _write_ids(self, count: int, ids: list[str]) -> None:
        text = "".join(ids).encode()
        place = count % _RING
        until_end = (_RING - place) * _ID_LENGTH
        at = _RING_AT + place * _ID_LENGTH
        head, tail = text[:until_end], text[until_end:]
        self._bytes[at : at + len(head)] = head
        self._bytes[_RING_AT : _RING_AT + len(tail)] = tail

    def _read_ids(self, first: int, last: int) -> list[str]:
        ids = []
        for count in range(first, last):
            at = _RING_AT + count % _RING * _ID_LENGTH
            ids.append(bytes(self._bytes[at : at + _ID_LENGTH]).decode())
        return ids


class ParallelRecord(Record):
    """The record of a child that runs several tasks at once, each in a place of its own.

    Tasks start in the order in which they were claimed here too. Where each runs stands in a table,
    with its id: one that runs for long outlives its entry in the ring.
    """

    def __init__(self, memory: mmap.mmap, base: int, offset: int, places: int) -> None:
        super().__init__(memory, base, offset, places)
        self.places = places
        self._table = self._bytes[_PLACES_AT:].cast("d")

    def start_in(self, place: int, epoch: int, id: str, now: float, deadline: float) -> bool:
        """Count the next claimed task as started; refuse if it has been taken away meanwhile.

        Only one thread at a time may call it: the one that has taken the next task.
        """
        words, lock, at = self._words, self._lock, _PLACES_AT + place * _PLACE_SIZE + _PLACE_ID
        lock.acquire()
        allowed = words[_EPOCH] == epoch
        if allowed:
            words[_STARTED] += 1
            self._moments[_MOVED_AT] = now
            self._bytes[at : at + _ID_LENGTH] = id.encode()
            self._table[place * 8 + 1] = deadline
            self._table[place * 8] = now
        lock.release()
        return allowed

    def end_in(self, place: int) -> None:
        """Say that the task of a place has ended."""
        self._table[place * 8] = 0.0

    def end_all(self) -> None:
        """Say so of all: the process is about to end, and none of them is to blame."""
        for place in range(self.places):
            self.end_in(place)

    def running_for(self, now: float) -> float:
        """Return the seconds that the oldest running task has run; 0 when none does."""
        since = [at for at in self._table[::8] if at]
        return now - min(since) if since else 0.0

    @property
    def running(self) -> int:
        """Count the tasks that run."""
        return sum(1 for at in self._table[::8] if at)

    def is_stuck(self, now: float, seconds: float) -> bool:
        """Say whether claimed tasks wait and none has started for a while."""
        if now - self._moments[_MOVED_AT] < seconds:
            return False
        return bool(self.unstarted) or (
            self.has_claim_under_way and self.silent_for(now) >= seconds
        )

    def must_be_killed(self, now: float) -> bool:
        """Say whether a hard time limit is over, and the child itself cannot act on it."""
        deadline = self.deadline
        return bool(deadline) and now >= deadline + _MUTE and self.silent_for(now) >= _MUTE

    @property
    def deadline(self) -> float:
        """Return when the first hard time limit is over; 0 when there is none."""
        ends = [end for since, end in self._limits() if since and end]
        return min(ends, default=0.0)

    def holdings(self) -> Holdings:
        """Read what the child holds; without the lock, for a child that has been reaped."""
        started, unstarted = self._in_ring()
        now = time.monotonic()
        running, overdue = [], []
        for place, (since, end) in enumerate(self._limits()):
            if since:
                at = _PLACES_AT + place * _PLACE_SIZE + _PLACE_ID
                id = bytes(self._bytes[at : at + _ID_LENGTH]).decode()
                running.append(id)
                if end and now >= end:
                    overdue.append(id)
        seen = set(started)
        started += [id for id in running if id not in seen]
        return Holdings(started, unstarted, tuple(running), tuple(overdue))

    def _limits(self) -> Iterator[tuple[float, float]]:
        table = self._table
        return zip(table[0 : self.places * 8 : 8], table[1 : self.places * 8 : 8], strict=True)


class Budget:
    """How many tasks a worker may still start in all (--max-tasks), shared by its children."""

    def __init__(self, memory: mmap.mmap, base: int) -> None:
        self._words = memoryview(memory)[:_HEADER_SIZE].cast("q")
        self._lock = Mutex(base)

    def create(self, permits: int) -> None:
        """Set the number of tasks; -1 is no limit."""
        self._lock.create()
        self._words[_PERMITS] = permits

    @property
    def left(self) -> int:
        """Return how many tasks may still be claimed; -1 is no limit."""
        return self._words[_PERMITS]

    def take(self, wanted: int) -> int:
        """Take permits for a claim; return how many there were."""
        if self._words[_PERMITS] < 0:
            return wanted
        self._lock.acquire()
        taken = min(wanted, self._words[_PERMITS])
        self._words[_PERMITS] -= taken
        self._lock.release()
        return taken

    def put_back(self, unused: int) -> None:
        """Return permits of tasks that were not started after all."""
        if unused and self._words[_PERMITS] >= 0:
            self._lock.acquire()
            self._words[_PERMITS] += unused
            self._lock.release()


class SharedMemory:
    """The memory of one worker: its budget and a record per child."""

    def __init__(self, fd: int, children: int, places: int = 0) -> None:
        self.fd = fd
        size = _slot_size(places)
        self._memory = mmap.mmap(fd, _HEADER_SIZE + children * size)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.budget = Budget(self._memory, base)
        kind = ParallelRecord if places else Record
        self.records = [
            kind(self._memory, base, _HEADER_SIZE + slot * size, places) for slot in range(children)
        ]

    def lent_to_others(self, mine: Record) -> int:
        """Count the tasks that retiring children have yet to end, but for those that hang."""
        return sum(
            record.running + record.unstarted
            for record in self.records
            if record.is_retiring and record is not mine and not record.is_hung
        )

    @classmethod
    def create(cls, children: int, places: int = 0) -> SharedMemory:
        """Make the memory: a file without a name, that its processes inherit.

        `places` is how many tasks a child runs at once; 0 makes records of one task at a time.
        """
        with tempfile.TemporaryFile(prefix="django_taskq-") as file:
            fd = os.dup(file.fileno())
        os.ftruncate(fd, _HEADER_SIZE + children * _slot_size(places))
        return cls(fd, children, places)


def _slot_size(places: int) -> int:
    size = _PLACES_AT + places * _PLACE_SIZE
    return size + -size % 4096
