"""The record of a child that runs several tasks at once: see record.py."""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator

from django_taskq.worker.layout import (
    EPOCH,
    ID_LENGTH,
    MOVED_AT,
    PLACE_ID,
    PLACE_SIZE,
    PLACES_AT,
    STARTED,
)
from django_taskq.worker.record import Holdings, Record

# A child that enforces time limits itself is killed when it has not moved for so many seconds.
_MUTE = 5.0


class ParallelRecord(Record):
    """The record of a child that runs several tasks at once, each in a place of its own.

    Tasks start in the order in which they were claimed here too. Where each runs stands in a table,
    with its id: one that runs for long outlives its entry in the ring.
    """

    def __init__(self, memory: mmap.mmap, base: int, offset: int, places: int) -> None:
        super().__init__(memory, base, offset, places)
        self.places = places
        self._table = self._bytes[PLACES_AT:].cast("d")

    def start_in(self, place: int, epoch: int, id: str, now: float, deadline: float) -> bool:
        """Count the next claimed task as started; refuse if it has been taken away meanwhile.

        Only one thread at a time may call it: the one that has taken the next task.
        """
        words, lock, at = self._words, self._lock, PLACES_AT + place * PLACE_SIZE + PLACE_ID
        lock.acquire()
        allowed = words[EPOCH] == epoch
        if allowed:
            words[STARTED] += 1
            self._moments[MOVED_AT] = now
            self._bytes[at : at + ID_LENGTH] = id.encode()
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
        if now - self._moments[MOVED_AT] < seconds:
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
        running, overdue, started_at = [], [], []
        for place, (since, end) in enumerate(self._limits()):
            if since:
                at = PLACES_AT + place * PLACE_SIZE + PLACE_ID
                id = bytes(self._bytes[at : at + ID_LENGTH]).decode()
                running.append(id)
                started_at.append(since)
                if end and now >= end:
                    overdue.append(id)
        seen = set(started)
        started += [id for id in running if id not in seen]
        return Holdings(
            started,
            unstarted,
            tuple(running),
            overdue=tuple(overdue),
            since=tuple(started_at),
            claims=self._claims(len(unstarted)),
        )

    def _limits(self) -> Iterator[tuple[float, float]]:
        table = self._table
        return zip(table[0 : self.places * 8 : 8], table[1 : self.places * 8 : 8], strict=True)
