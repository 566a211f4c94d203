"""What each child has claimed, started and runs, in memory that its supervisor shares.

A feeder cannot speak while C code in its child's main thread holds the GIL, and nothing can speak
for a dead child: the record can. It says which tasks were claimed (a ring of ids), how many of them
have started, what runs since when, and the token of a claim whose answer is still under way.

A child counts a task as started under the lock and only if the epoch is the one under which the
task was claimed. Whoever takes unstarted tasks away raises the epoch under the same lock, so a task
is either started here or given back, never both.

    layout.py            where each of these stands
    mutex.py             the lock, which survives its holder
    parallel_record.py   the record of a child that runs several tasks at once
    shared_memory.py     the memory of a worker: all records and its budget
"""

from __future__ import annotations

import mmap
import time
from dataclasses import dataclass, field

from django_taskq.worker.layout import (
    CLAIMED,
    CLAIMS_AT,
    DEADLINE,
    EPOCH,
    HUNGRY,
    ID_LENGTH,
    IDLE,
    MOVED_AT,
    PLACES_AT,
    READY,
    RETIRING,
    RING,
    RING_AT,
    RUNNING_SINCE,
    STARTED,
    TICKED_AT,
    TOKEN,
    slot_size,
)
from django_taskq.worker.mutex import Mutex

# Tasks flow while one was claimed or started within so many seconds.
_FLOWING = 0.25


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
    # Since when each of those that run does, by the machine's monotonic clock.
    since: tuple[float, ...] = field(default=(), compare=False)
    # The tokens of the claims that brought what has not started, and of one under way.
    claims: frozenset[str] = field(default=frozenset(), compare=False)


class Record:
    """One child's record. The child writes it; its supervisor reads it and raises the epoch."""

    def __init__(self, memory: mmap.mmap, base: int, offset: int, places: int) -> None:
        view = memoryview(memory)[offset : offset + slot_size(places)]
        self._bytes = view
        self._words = view[:TOKEN].cast("q")
        self._moments = view[:TOKEN].cast("d")
        self._lock = Mutex(base + offset)

    def reset(self) -> None:
        """Make the slot ready for a new child."""
        self._bytes[:RING_AT] = bytes(RING_AT)
        self._bytes[PLACES_AT:] = bytes(len(self._bytes) - PLACES_AT)
        self._lock.create()
        self._moments[TICKED_AT] = time.monotonic()

    # --- the child's main thread -------------------------------------------------------------

    def start(self, epoch: int, now: float, deadline: float) -> bool:
        """Count the next claimed task as started; refuse if it has been taken away meanwhile."""
        words, lock = self._words, self._lock
        lock.acquire()
        allowed = words[EPOCH] == epoch
        if allowed:
            words[STARTED] += 1
            self._moments[DEADLINE] = deadline
            self._moments[RUNNING_SINCE] = now
        lock.release()
        return allowed

    def end(self) -> None:
        """Say that the running task has ended."""
        self._moments[RUNNING_SINCE] = 0.0

    # --- the child's feeder ------------------------------------------------------------------

    def announce(self, token: str) -> int:
        """Note the token of a claim before it is sent; return the epoch it belongs to."""
        self._lock.acquire()
        self._bytes[TOKEN : TOKEN + ID_LENGTH] = token.encode()
        epoch = self._words[EPOCH]
        self._lock.release()
        return epoch

    def accept(self, epoch: int, ids: list[str]) -> bool:
        """Note claimed ids; refuse if they were given back while the answer was under way."""
        self._lock.acquire()
        token = bytes(self._bytes[TOKEN : TOKEN + ID_LENGTH])
        self._bytes[TOKEN : TOKEN + ID_LENGTH] = bytes(ID_LENGTH)
        allowed = self._words[EPOCH] == epoch
        if allowed and ids:
            self._write(RING_AT, self._words[CLAIMED], "".join(ids).encode())
            self._write(CLAIMS_AT, self._words[CLAIMED], token * len(ids))
            self._words[CLAIMED] += len(ids)
            self._moments[MOVED_AT] = time.monotonic()
        self._lock.release()
        return allowed

    def tick(self) -> None:
        """Show that the feeder is alive."""
        self._moments[TICKED_AT] = time.monotonic()

    def say_idle(self, idle: bool) -> None:
        """Say whether there is nothing claimed, running or unsent: then it is hungry, too."""
        self._words[IDLE] = self._words[HUNGRY] = idle

    def say_hungry(self) -> None:
        """Say that more could run here, and nothing is known that could be claimed."""
        self._words[HUNGRY] = 1

    def say_ready(self) -> None:
        """Say that the child has come up."""
        self._words[READY] = 1

    def say_retiring(self, *, is_hung: bool = False) -> None:
        """Say that the child claims no more, and ends by itself after what it has in hand.

        `is_hung`: that may take long or for ever, so that the next one must not wait for it.
        """
        self._words[RETIRING] = 2 if is_hung else 1

    # --- both sides --------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        return self._words[EPOCH]

    @property
    def unstarted(self) -> int:
        """Return how many claimed tasks have not started."""
        return self._words[CLAIMED] - self._words[STARTED]

    @property
    def claimed(self) -> int:
        """Return how many tasks were claimed and not taken away, ever."""
        return self._words[CLAIMED]

    @property
    def is_idle(self) -> bool:
        return bool(self._words[IDLE])

    @property
    def is_hungry(self) -> bool:
        return bool(self._words[HUNGRY])

    @property
    def is_ready(self) -> bool:
        return bool(self._words[READY])

    @property
    def is_retiring(self) -> bool:
        return bool(self._words[RETIRING])

    @property
    def is_hung(self) -> bool:
        return self._words[RETIRING] == 2

    def running_for(self, now: float) -> float:
        """Return the seconds that the running task has run; 0 when none does."""
        since = self._moments[RUNNING_SINCE]
        return now - since if since else 0.0

    @property
    def running(self) -> int:
        """Count the tasks that run."""
        return 1 if self._moments[RUNNING_SINCE] else 0

    def is_stuck(self, now: float, seconds: float) -> bool:
        """Say whether claimed tasks wait that will not start for a while, or cannot be freed."""
        if self.running_for(now) >= seconds:
            return bool(self.unstarted) or self.has_claim_under_way
        return bool(self.unstarted) and self.silent_for(now) >= seconds

    def has_moved(self, now: float) -> bool:
        """Say whether tasks were claimed or started just now: work is flowing."""
        return now - self._moments[MOVED_AT] < _FLOWING

    def silent_for(self, now: float) -> float:
        """Return the seconds since the feeder last ticked."""
        return now - self._moments[TICKED_AT]

    @property
    def deadline(self) -> float:
        """Return when the running task's hard time limit is over; 0 when there is none."""
        return self._moments[DEADLINE] if self._moments[RUNNING_SINCE] else 0.0

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
            self._words[EPOCH] += 1
            self._words[CLAIMED] = self._words[STARTED]
        finally:
            self._lock.release()
        return held

    def holdings(self) -> Holdings:
        """Read what the child holds; without the lock, for a child that has been reaped."""
        started, unstarted = self._in_ring()
        since = self._moments[RUNNING_SINCE]
        running = (started[-1],) if started and since else ()
        return Holdings(
            started,
            unstarted,
            running,
            overdue=running if self.is_overdue else (),
            since=(since,) if running else (),
            claims=self._claims(len(unstarted)),
        )

    @property
    def is_overdue(self) -> bool:
        """Say whether a hard time limit is over."""
        deadline = self.deadline
        return bool(deadline) and time.monotonic() >= deadline

    def _in_ring(self) -> tuple[list[str], list[str]]:
        """Return the ids of the tasks that have started, and of those that have not."""
        claimed, started = self._words[CLAIMED], self._words[STARTED]
        first = max(0, claimed - RING)
        ids = self._read(RING_AT, first, claimed)
        begun = max(0, started - first)
        return ids[:begun], ids[begun:]

    @property
    def has_claim_under_way(self) -> bool:
        return self._bytes[TOKEN] != 0

    def _claims(self, unstarted: int) -> frozenset[str]:
        """Return the tokens of that many of the last claimed tasks, and of a claim under way."""
        claimed = self._words[CLAIMED]
        tokens = set(self._read(CLAIMS_AT, claimed - unstarted, claimed))
        if self.has_claim_under_way:
            tokens.add(bytes(self._bytes[TOKEN : TOKEN + ID_LENGTH]).decode())
        return frozenset(tokens)

    def _write(self, ring: int, count: int, text: bytes) -> None:
        """Write ids or tokens into a ring, as its entries from this count on."""
        place = count % RING
        until_end = (RING - place) * ID_LENGTH
        at = ring + place * ID_LENGTH
        head, tail = text[:until_end], text[until_end:]
        self._bytes[at : at + len(head)] = head
        self._bytes[ring : ring + len(tail)] = tail

    def _read(self, ring: int, first: int, last: int) -> list[str]:
        texts = []
        for count in range(first, last):
            at = ring + count % RING * ID_LENGTH
            texts.append(bytes(self._bytes[at : at + ID_LENGTH]).decode())
        return texts
