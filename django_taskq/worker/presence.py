"""Who lives: we by our beats, others by theirs; and what becomes of the tasks of those who do not.

Nobody leads. Every supervisor reads the counters of all processes with each of its own beats, takes
those off the list that stand still, and moves the tasks of whoever is not on the list. All of it
can be done by several at once, broken off anywhere, and done again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import psycopg

from django_taskq import clocks, registry
from django_taskq.db import Connection
from django_taskq.events import one_line, worker_log
from django_taskq.task import at_most_once_names
from django_taskq.transitions import presence, rescue
from django_taskq.transitions.presence import Seen
from django_taskq.worker.aftermath import crash_record
from django_taskq.worker.store import brief

# A loop pass sweeps for so long at most, then beats and ticks have their turn.
_PORTION = 0.2
# Looks for lost tasks take at most this part of the time (dead rows make them slow). When somebody
# has gone there are some for this many intervals, for a claim may have been under way; else one in
# as many.
_SHARE, _FEW = 0.05, 12
# How many processes that have gone are remembered beside those that are there, and how many tasks a
# line of the log names.
_REMEMBERED, _NAMED = 1000, 20


class Observer:
    """Judges others by their counters and our own monotonic clock, and by nothing else.

    A counter counts as standing still while each of our own beats reads the same. What we do not
    see does not count: after a gap between our beats (the database was away, we were suspended)
    everybody has a full TTL again. Nobody's clock but ours is asked.
    """

    def __init__(self) -> None:
        # What a counter read when we first saw it so, and when that was.
        self._since: dict[str, tuple[int, float]] = {}
        # When we asked for the last reading; None before the first.
        self._asked_at: float | None = None

    def take_in(self, others: Sequence[Seen], *, asked_at: float, answered_at: float) -> list[Seen]:
        """Take in what a beat of ours has read; return who has been silent for a full TTL.

        The times are readings of the monotonic clock around that beat. Of each the one counts that
        makes the silence shorter, or the gap longer.
        """
        if self._asked_at is None or answered_at - self._asked_at > 2 * clocks.BEAT:
            self._since.clear()
        self._asked_at = asked_at
        since: dict[str, tuple[int, float]] = {}
        for row in others:
            beat, moment = self._since.get(row.id, (row.beat, answered_at))
            # Another count, be it a lower one: after a failover it may have gone back.
            since[row.id] = (row.beat, moment if beat == row.beat else answered_at)
        self._since = since
        return [row for row in others if asked_at - since[row.id][1] >= clocks.TTL]


class Presence:
    """A supervisor's part in it."""

    def __init__(self, worker_id: str) -> None:
        self.id = worker_id
        # Others have taken us off the list.
        self.is_declared_dead = False
        # When to look for lost tasks, and until when to do so often.
        self.sweep_at = self._sweep_often_until = 0.0
        self.observer = Observer()
        # Everybody who is there, by our last beat; None before the first. And who was, too.
        self._others: set[str] | None = None
        self._seen: dict[str, Seen] = {}
        # Processes whose tasks are to be taken back.
        self._orphaned: deque[str] = deque()

    # --- beats -----------------------------------------------------------------------------------

    def beat(self, connection: Connection, children: Sequence[str]) -> set[str]:
        """Beat for ourselves and our children, and declare dead whoever has been silent too long.

        Return which of us are still listed.
        """
        asked_at = time.monotonic()
        beat = presence.beat(connection, [self.id, *children])
        silent = self.observer.take_in(beat.others, asked_at=asked_at, answered_at=time.monotonic())
        self._remember(beat.others, asked_at)
        if self.id not in beat.known:
            # Who is dead judges nobody.
            self.is_declared_dead, self.sweep_at = True, float("inf")
        elif silent:
            self._declare_dead(connection, silent)
        return beat.known

    def _declare_dead(self, connection: Connection, silent: Sequence[Seen]) -> None:
        dead = presence.declare_dead(connection, silent)
        self.sweep_at = 0.0  # it may be that they were declared dead by another, just now
        for row in silent:
            if row.id in dead:
                worker_log.error(
                    "%s is dead: not a sign of life for %g s. What it held is taken back.",
                    self.describe(row.id),
                    clocks.TTL,
                )

    def _remember(self, others: Sequence[Seen], now: float) -> None:
        """Note who is there; when somebody has gone, what they held may be lost."""
        ids = {row.id for row in others}
        if self._others is None or self._others - ids:
            self.sweep_at, self._sweep_often_until = 0.0, now + _FEW * clocks.SWEEP
        self._others = ids
        if len(self._seen) > len(others) + _REMEMBERED:
            self._seen.clear()
        self._seen.update((row.id, row) for row in others)

    def describe(self, worker_id: str) -> str:
        """Say which process this is or was, for people."""
        row = self._seen.get(worker_id)
        if row is None:
            return f"The worker process {worker_id}"
        if row.kind == "SUPERVISOR":
            return f"The worker {row.pid} on {one_line(row.host)}"
        parent = self._seen.get(row.parent_id or "")
        of = f" of the worker {parent.pid}" if parent is not None else ""
        return f"The process {row.pid}{of} on {one_line(row.host)}"

    # --- sweeps ----------------------------------------------------------------------------------

    def sweep(self, connection: Connection) -> bool:
        """Take tasks back whose process is not listed; say whether some may be claimed now."""
        began = time.monotonic()
        self.sweep_at = began + clocks.SWEEP  # an error in it must not be repeated at once
        if not self._orphaned:
            self._orphaned.extend(rescue.find_orphaned(connection))
            took = time.monotonic() - began
            often = began < self._sweep_often_until
            pause = clocks.SWEEP if often else _FEW * clocks.SWEEP
            self.sweep_at = began + max(pause, took / _SHARE)
        has_rescued = False
        while self._orphaned and time.monotonic() < began + _PORTION:
            swept = self._take_back(connection, self._orphaned[0])
            has_rescued = has_rescued or bool(swept and swept.rescued)
            if swept is None or not swept.may_be_more:
                self._orphaned.popleft()
        if self._orphaned:
            self.sweep_at = 0.0
        return has_rescued

    def _take_back(self, connection: Connection, worker_id: str) -> rescue.Swept | None:
        """Take back what a process holds; None if the database refuses what is in its rows."""
        who = self.describe(worker_id)
        lost = f"{who} was lost while it held the task: killed with its worker, or cut off."
        once = (
            f"{lost} Nobody knows whether the task had started. at_most_once=True: it is not "
            "started again."
        )
        try:
            swept = rescue.sweep(
                connection,
                worker_id,
                known=registry.known_names(),
                once=sorted(at_most_once_names()),
                error=crash_record(worker_id, lost),
                once_error=crash_record(worker_id, once),
            )
        except (psycopg.IntegrityError, psycopg.DataError) as error:
            # Rows that somebody has made by hand must not end one supervisor after the other.
            worker_log.error("%s: its tasks cannot be taken back: %s", who, brief(error))
            return None
        for ids, what in ((swept.rescued, "run again"), (swept.failed, "have failed")):
            if ids:
                worker_log.error("%s held %d task(s) that %s: %s.", who, len(ids), what, _list(ids))
        return swept


def _list(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more
