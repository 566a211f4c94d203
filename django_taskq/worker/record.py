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
import tempfile
import time
from dataclasses import dataclass

_c = ctypes.PyDLL(None, use_errno=False)  # keeps the GIL: for calls that do not block
_c_blocking = ctypes.CDLL(None)  # lets other threads run meanwhile

_ID_LENGTH = 36
# More than a feeder ever has in hand: its prefetch, what runs, and outcomes on their way.
_RING = 2048
# Offsets in 8-byte words. The mutex gets 128 bytes: the largest known pthread_mutex_t has 64.
_EPOCH, _CLAIMED, _STARTED, _IDLE, _TICKS, _READY, _RETIRING = 16, 17, 18, 19, 20, 21, 22
_RUNNING_SINCE, _DEADLINE, _TICKED_AT = 24, 25, 26
_TOKEN = 32 * 8  # a text of 36 bytes, or NULs
_RING_AT = 40 * 8
_SLOT_SIZE = _RING_AT + _RING * _ID_LENGTH
_SLOT_SIZE += -_SLOT_SIZE % 4096
_HEADER_SIZE = 4096
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

    # Started, the last one perhaps running; the oldest of them have ended long ago.
    started: list[str]
    unstarted: list[str]
    # The task that runs, if one does.
    running: str | None


class Record:
    """One child's record. The child writes it; its supervisor reads it and raises the epoch."""

    def __init__(self, memory: mmap.mmap, base: int, offset: int) -> None:
        view = memoryview(memory)[offset : offset + _SLOT_SIZE]
        self._bytes = view
        self._words = view[:_TOKEN].cast("q")
        self._moments = view[:_TOKEN].cast("d")
        self._lock = Mutex(base + offset)

    def reset(self) -> None:
        """Make the slot ready for a new child."""
        self._bytes[:_RING_AT] = bytes(_RING_AT)
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
        self._lock.release()
        return allowed

    def tick(self) -> None:
        """Show that the feeder is alive."""
        self._moments[_TICKED_AT] = time.monotonic()

    def say_idle(self, idle: bool) -> None:
        """Say whether there is nothing claimed, running or unsent."""
        self._words[_IDLE] = idle

    def say_ready(self) -> None:
        """Say that the child has come up."""
        self._words[_READY] = 1

    def say_retiring(self) -> None:
        """Say that the child claims no more, and ends by itself after what it has in hand."""
        self._words[_RETIRING] = 1

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
    def is_ready(self) -> bool:
        return bool(self._words[_READY])

    @property
    def is_retiring(self) -> bool:
        return bool(self._words[_RETIRING])

    def running_for(self, now: float) -> float:
        """Return the seconds that the running task has run; 0 when none does."""
        since = self._moments[_RUNNING_SINCE]
        return now - since if since else 0.0

    def silent_for(self, now: float) -> float:
        """Return the seconds since the feeder last ticked."""
        return now - self._moments[_TICKED_AT]

    @property
    def deadline(self) -> float:
        """Return when the running task's hard time limit is over; 0 when there is none."""
        return self._moments[_DEADLINE] if self._moments[_RUNNING_SINCE] else 0.0

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
        claimed, started = self._words[_CLAIMED], self._words[_STARTED]
        first = max(0, claimed - _RING)
        ids = self._read_ids(first, claimed)
        begun = ids[: max(0, started - first)]
        running = begun[-1] if begun and self._moments[_RUNNING_SINCE] else None
        return Holdings(begun, ids[len(begun) :], running)

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

    def __init__(self, fd: int, children: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, _HEADER_SIZE + children * _SLOT_SIZE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.budget = Budget(self._memory, base)
        self.records = [
            Record(self._memory, base, _HEADER_SIZE + slot * _SLOT_SIZE) for slot in range(children)
        ]

    @classmethod
    def create(cls, children: int) -> SharedMemory:
        """Make the memory: a file without a name, that its processes inherit."""
        with tempfile.TemporaryFile(prefix="django_taskq-") as file:
            fd = os.dup(file.fileno())
        os.ftruncate(fd, _HEADER_SIZE + children * _SLOT_SIZE)
        return cls(fd, children)
