"""Give back the tasks that the database holds for a child and the child does not have in hand.

Claimed tasks that the pool has dropped, and the rows of a claim whose answer was lost: they are
RUNNING under a living worker, and nobody would ever run them.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from django_taskq.db import Connection, Contention, roll_back
from django_taskq.events import worker_log
from django_taskq.transitions import rescue

# Claims whose answer was lost are looked for after a reconnect, every so many seconds for a minute
# (the lost statement may commit late: longer than its timeout), and once a minute with work.
_SWEEP_SOON, _SWEEP_SOON_FOR, _SWEEP = 5.0, 60.0, 60.0
# It waits until there is nothing more urgent, but not for longer than this: under a backlog of
# short tasks there always is.
_LATE = 2.0
_NEVER = float("inf")


class GiveBack:
    """When to give back, and doing so."""

    def __init__(self, worker_id: str, slot: int, *, kept: Collection[str]) -> None:
        self.worker_id = worker_id
        self.slot = slot
        # The ids of what the child has in hand; it changes all the time.
        self._kept = kept
        self._asked_for = _NEVER
        self._sweep_at = self._sweep_soon_until = 0.0

    def ask(self) -> None:
        """Have it done as soon as there is nothing more urgent."""
        self._asked_for = min(self._asked_for, time.monotonic())

    def look_soon(self, now: float) -> None:
        """Look for lost claims soon, for a while: the connection was lost."""
        self._sweep_at, self._sweep_soon_until = now, now + _SWEEP_SOON_FOR

    def is_due(self, now: float) -> bool:
        """Say whether it is to be done now."""
        return now >= self._due_at(now)

    def is_overdue(self, now: float) -> bool:
        """Say whether it has waited for long enough: nothing goes before it."""
        return now >= self._due_at(now) + _LATE

    def next_at(self, now: float) -> float:
        """Return when a child without work looks next; infinity: when it has some."""
        return min(self._asked_for, self._sweep_at if now < self._sweep_soon_until else _NEVER)

    def _due_at(self, now: float) -> float:
        return min(self._asked_for, self._sweep_at) if self._kept else self.next_at(now)

    def sweep(self, connection: Connection, now: float) -> None:
        """Give back everything that is not in hand."""
        self._sweep_at = now + (_SWEEP_SOON if now < self._sweep_soon_until else _SWEEP)
        try:
            count = rescue.give_back(connection, self.worker_id, kept=list(self._kept))
        except Contention:
            # Somebody holds one of the rows; what a child does else must not wait for him.
            roll_back(connection)
            self._asked_for = now + _SWEEP_SOON
            return
        self._asked_for = _NEVER
        if count:
            worker_log.info("Child %d gave %d task(s) back.", self.slot, count)

    def leave_nothing(self, connection: Connection) -> None:
        """Give back the last of it: the child ends, and everything that it ran is stored."""
        rescue.give_back(connection, self.worker_id, kept=[])
