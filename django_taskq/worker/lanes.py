"""Which lanes a worker serves, in which order, and from where claims start in each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from fnmatch import fnmatchcase
from itertools import groupby

from django_taskq.transitions.claim import Claimed, Lane

# No floor: a claim looks at all due rows of the lane.
_NO_FLOOR = "-infinity"
# A claim that took longer to find its rows has walked over dead index entries (seconds).
_SLOW, _SLOW_PER_ROW = 0.002, 0.00001
# How much later than it enqueued a transaction may commit to be found by a loose look.
_SLACK = timedelta(seconds=1)
# Whoever enqueues by SQL may choose any time; a floor has to leave room for the slack.
_FIRST_FLOOR = datetime(1970, 1, 1, tzinfo=UTC)


class QueueChoice:
    """The queues that -Q and -X leave, with their order of preference."""

    def __init__(self, queues: Iterable[str], excluded: Iterable[str]) -> None:
        self.queues = tuple(queues)
        self.excluded = tuple(excluded)

    @property
    def is_open(self) -> bool:
        """Say whether all queues are served, and none is preferred."""
        return not self.queues and not self.excluded

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


class Look(Enum):
    """From where a claim starts in its lanes."""

    # At the beginning of each.
    FULL = "full"
    # A second before the last task that was claimed there.
    LOOSE = "loose"
    # At the last task that was claimed there.
    TIGHT = "tight"


class Lanes:
    """The lanes that a child knows.

    While a long transaction pins old row versions, every claim walks over the dead index entries of
    tasks that have long finished. Then the child remembers a *floor* for the lane, the `run_after`
    it has come to, and claims from there on. What lies below is found later: a transaction that
    commits up to a second after it enqueued by a loose look, for which a twentieth of the time may
    be spent; everything else (a task that was given back or rescued) by a full look, with a tenth.
    """

    def __init__(self, choice: QueueChoice) -> None:
        self.choice = choice
        # Those with due tasks when last looked at; none until somebody looks.
        self.current: list[Lane] = []
        self._turn = 0
        self._floors: dict[Lane, datetime] = {}
        self._full = _Share(0.1, at_least_every=60.0)
        self._loose = _Share(0.05, at_least_every=1.0)

    def in_turn(self) -> list[Lane]:
        """Return the current lanes in the order in which to claim now."""
        self._turn += 1
        return self.choice.in_order(self.current, self._turn)

    def found(self, lanes: Iterable[Lane], seconds: float) -> None:
        """Take the lanes that a look has found, which took so long."""
        self.current = [lane for lane in lanes if self.choice.serves(lane.queue_name)]
        if self._floors:
            self._full.spend(seconds)

    def look_now(self, now: float, *, after_look: bool) -> Look:
        """Return from where the next claim should start.

        `after_look`: a claim came back short, and then lanes with due tasks were found all the
        same. They lie below the floors.
        """
        if not self._floors or after_look or self._full.is_overdue(now):
            return Look.FULL
        return Look.LOOSE if self._loose.is_affordable(now) else Look.TIGHT

    def next_full_look(self) -> float:
        """Return when a look below the floors is affordable; without floors, at any time."""
        return self._full.affordable_at if self._floors else float("-inf")

    def floors(self, lanes: Sequence[Lane], look: Look) -> list[str]:
        """Return from which `run_after` on each of these lanes is claimed."""
        if look is Look.FULL or not self._floors:
            return [_NO_FLOOR] * len(lanes)
        slack = _SLACK if look is Look.LOOSE else timedelta()
        return [
            (floor - slack).isoformat(sep=" ") if (floor := self._floors.get(lane)) else _NO_FLOOR
            for lane in lanes
        ]

    def learn(self, rows: Sequence[Claimed], seconds: float, look: Look) -> None:
        """Take in what a claim found, and how long it took to find it."""
        is_slow = seconds > _SLOW + _SLOW_PER_ROW * len(rows)
        if look is Look.FULL:
            self._full.spend(seconds)
            if rows and not is_slow:
                self._floors.clear()
                return
        elif look is Look.LOOSE:
            self._loose.spend(seconds)
        if self._floors or is_slow:
            self._raise_floors(rows)

    def _raise_floors(self, rows: Sequence[Claimed]) -> None:
        seen: set[Lane] = set()
        for row in reversed(rows):  # they come in order: the last of each lane counts
            lane = Lane(row.queue_name, row.priority)
            if lane not in seen:
                seen.add(lane)
                try:
                    come_to = max(datetime.fromisoformat(row.run_after), _FIRST_FLOOR)
                except ValueError:  # made by SQL: "-infinity", or a year of five digits
                    continue
                # A loose or full look may have brought something from below.
                self._floors[lane] = max(come_to, self._floors.get(lane, come_to))

    @property
    def has_floors(self) -> bool:
        """Say whether claims start above the beginning of some lane."""
        return bool(self._floors)

    def forget_floors(self) -> None:
        """Start anew, as after a reconnect: the database's clock may be another one."""
        self._floors.clear()


class _Share:
    """A share of the time that something may take."""

    def __init__(self, share: float, *, at_least_every: float) -> None:
        self.share = share
        self.at_least_every = at_least_every
        self.done_at = float("-inf")
        self.affordable_at = float("-inf")

    def spend(self, seconds: float) -> None:
        """Note that it was done and what it cost."""
        now = self.done_at = time.monotonic()
        pause = min(self.at_least_every, seconds / self.share)
        self.affordable_at = max(now, self.affordable_at) + pause

    def is_affordable(self, now: float) -> bool:
        return now >= self.affordable_at

    def is_overdue(self, now: float) -> bool:
        return now >= self.done_at + self.at_least_every
