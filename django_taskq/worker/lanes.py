"""Which lanes a worker serves, in which order, and from where claims start in each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from itertools import groupby

from django_taskq.transitions.claim import Claimed, Lane

# No floor: a claim looks at all due rows of the lane.
_NO_FLOOR = "-infinity"
# A claim that took longer to find its rows has walked over dead index entries (seconds).
_SLOW, _SLOW_PER_ROW = 0.003, 0.00003
# With floors, looking without them may take this share of the time, and happens at least so often.
_FULL_SHARE, _FULL_EVERY = 0.1, 60.0
# A floor stays behind the last claimed row: a transaction may commit later than it enqueued.
_SLACK = timedelta(seconds=1)


class QueueChoice:
    """The queues that -Q and -X leave, with their order of preference."""

    def __init__(self, queues: Iterable[str], excluded: Iterable[str]) -> None:
        self.queues = tuple(queues)
        self.excluded = tuple(excluded)

    def place(self, queue_name: str) -> int | None:
        """Return the preference of a queue (0 is first), or None if it is not served."""
        if any(fnmatchcase(queue_name, pattern) for pattern in self.excluded):
            return None
        if not self.queues:
            return 0
        for place, pattern in enumerate(self.queues):
            if fnmatchcase(queue_name, pattern):
                return place
        return None

    def serves(self, queue_name: str) -> bool:
        """Say whether tasks of this queue may be claimed."""
        return self.place(queue_name) is not None

    def in_order(self, lanes: Iterable[Lane], turn: int) -> list[Lane]:
        """Return the served lanes: preferred queues first, then by priority.

        Lanes that are equal in both take turns, so that no queue starves.
        """
        ranked = sorted(
            (place, -lane.priority, lane)
            for lane in lanes
            if (place := self.place(lane.queue_name)) is not None
        )
        ordered: list[Lane] = []
        for _, equals in groupby(ranked, key=lambda entry: entry[:2]):
            group = [lane for _, _, lane in equals]
            start = turn % len(group)
            ordered += group[start:] + group[:start]
        return ordered


class Lanes:
    """The lanes that a child knows.

    While a long transaction pins old row versions, every claim walks over the dead index entries of
    tasks that have long finished. Then the child remembers a *floor* for the lane, the `run_after`
    it has come to, and claims from there on. What lies below (a late commit, a task that was given
    back) is found by full looks, which may take a tenth of the time.
    """

    def __init__(self, choice: QueueChoice) -> None:
        self.choice = choice
        # Those with due tasks when last looked at; none until somebody looks.
        self.current: list[Lane] = []
        # Where tasks came before: tried first after idling, which saves the look.
        self.last: list[Lane] = []
        self._turn = 0
        self._floors: dict[Lane, str] = {}
        self._full_at = float("-inf")
        self._full_cost = 0.0

    def in_turn(self) -> list[Lane]:
        """Return the current lanes in the order in which to claim now."""
        self._turn += 1
        return self.choice.in_order(self.current, self._turn)

    def found(self, lanes: Iterable[Lane]) -> None:
        """Take the lanes that a look has found."""
        self.current = [lane for lane in lanes if self.choice.serves(lane.queue_name)]
        if self.current:
            self.last = self.current

    def floors(self, lanes: Sequence[Lane], *, full: bool) -> list[str]:
        """Return from which `run_after` on each of these lanes is claimed."""
        return [_NO_FLOOR if full else self._floors.get(lane, _NO_FLOOR) for lane in lanes]

    def may_look_fully(self, now: float) -> bool:
        """Say whether there is time for a look below the floors."""
        return now >= self.next_full_look()

    def next_full_look(self) -> float:
        """Return when there will be time for a look below the floors; without them, at any time."""
        if not self._floors:
            return float("-inf")
        return self._full_at + min(_FULL_EVERY, self._full_cost / _FULL_SHARE)

    def looked_fully(self, seconds: float) -> None:
        """Note what a look below the floors has cost."""
        self._full_at = time.monotonic()
        self._full_cost = seconds

    def learn(self, rows: Sequence[Claimed], seconds: float) -> bool:
        """Raise floors if a claim took so long to find its rows; say whether it did."""
        if not rows or seconds < _SLOW + _SLOW_PER_ROW * len(rows):
            return False
        raised: set[Lane] = set()
        for row in reversed(rows):  # they come in order: the last of each lane counts
            lane = Lane(row.queue_name, row.priority)
            if lane not in raised:
                raised.add(lane)
                floor = datetime.fromisoformat(row.run_after) - _SLACK
                self._floors[lane] = floor.isoformat(sep=" ")
        return True

    def forget_floors(self) -> None:
        """Start anew, as after a reconnect: the database's clock may be another one."""
        self._floors.clear()
