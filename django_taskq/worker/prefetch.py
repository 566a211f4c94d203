"""How many tasks a child claims at a time: about as many as will start within the next 50 ms."""

from __future__ import annotations

from collections.abc import Callable

from django_taskq.worker.hand import Hand
from django_taskq.worker.pools import Pool, Seat

# Keep about this many seconds of work claimed, and never more tasks than that.
_PREFETCH, _MOST = 0.05, 500
# Behind a task that has run for this long, nothing is claimed to wait.
_LONG = 1.0
# While a child that is being replaced still takes places, they are counted so often.
_LENT = 0.02


class Prefetch:
    """The room that a child has for claimed tasks."""

    def __init__(
        self, seat: Seat, pool: Pool, hand: Hand, count_lent: Callable[[], int] | None
    ) -> None:
        self.record = seat.record
        self.most_per_child = seat.options.max_tasks_per_child
        self.pool = pool
        self.hand = hand
        # Says how many places a child that is being replaced by this one still takes, where there
        # are places; and what it said last.
        self._count_lent = count_lent
        self._lent = 0

    def room(self, now: float, *, may_wait: bool) -> int:
        """Return how many tasks to claim now; unless they may wait, for the free places alone."""
        if self.pool.size == 1 and self.record.running_for(now) > _LONG:
            return 0
        self._lent = self._count_lent() if self._count_lent is not None else 0
        size = self.pool.size - self._lent
        held = self.record.unstarted + self.pool.busy
        target = size + (self._ahead(size, now) if not self._lent else 0)
        room = target - held
        # A claim should be worth its trip, the more so when it needs one of its own; but nothing
        # that could run a task is left without one.
        if room * (4 if self.hand.unsent else 2) <= target and held >= size:
            return 0
        if not may_wait:
            room = min(room, size - held)
        return max(0, min(room, self._rest_of_life or room))

    def free_places(self) -> int:
        """Return how many more tasks would start at once."""
        return max(0, self.pool.size - self.pool.busy - self.record.unstarted)

    def next_at(self, now: float) -> float:
        """Return when there may be room that nobody tells of: at the end of another's task."""
        return now + _LENT if self._lent else float("inf")

    def _ahead(self, size: int, now: float) -> int:
        """Return how many tasks to have claimed beside those that run: what starts in 50 ms.

        While nobody knows how long tasks run, one is claimed at a time.
        """
        run_time = self.hand.run_time
        if run_time is None or (size > 1 and not self.record.has_moved(now)):
            return 0
        return max(0, min(_MOST, int(size * _PREFETCH / max(run_time, 1e-6))) - 1)

    @property
    def _rest_of_life(self) -> int:
        """Return how many tasks this child may still claim; 0 is no limit."""
        most = self.most_per_child
        return max(1, most - self.record.claimed) if most else 0
