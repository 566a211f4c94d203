"""What a child has in hand: tasks from their claim until their outcome is stored.

An outcome is kept until the round trip that took it along has ended without an error.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import psycopg

from django_taskq.db import Connection, Contention, Cursor
from django_taskq.events import worker_log
from django_taskq.outcomes import (
    Committed,
    Completed,
    Ended,
    Failed,
    Lost,
    Outcome,
    Retrying,
    Unstored,
)
from django_taskq.transitions.claim import Claimed
from django_taskq.worker import store
from django_taskq.worker.console import TaskLines
from django_taskq.worker.give_back import GiveBack
from django_taskq.worker.pools import Dropped, Seat
from django_taskq.worker.progress import Progress

# Rows that somebody held are tried again after so many seconds.
_RETRY_HELD = 1.0


class Hand:
    """The claimed tasks of a child, and those of their outcomes that wait to be stored."""

    def __init__(self, seat: Seat, slot: int, lines: TaskLines) -> None:
        self.worker_id = seat.worker_id
        self.slot = slot
        self.outbox = seat.outbox
        self.lines = lines
        # Every claimed task that is not stored, given back or dropped yet, by id.
        self.rows: dict[str, Claimed] = {}
        # Those of them that somebody has asked to end.
        self.cancelled: set[str] = set()
        # Outcomes that no round trip has stored yet.
        self.unsent: list[Unstored] = []
        # Those of tasks whose rows somebody else holds, and when to try these again.
        self.held_up: list[Unstored] = []
        self.retry_at = float("inf")
        # How long tasks run, on average.
        self.run_time: float | None = None
        self.give_back = GiveBack(seat.worker_id, slot, kept=self.rows)

    def take(self, ids: Sequence[str], rows: Sequence[Claimed]) -> None:
        """Add claimed tasks."""
        self.rows.update(zip(ids, rows, strict=True))

    def cancel(self, id: str) -> None:
        """Note that somebody asks a task to end; it is ours, unless it has just ended."""
        if id in self.rows:
            self.cancelled.add(id)

    def let_go(self, ids: Sequence[str]) -> None:
        """Have tasks given back that were claimed and will not start here."""
        for id in ids:
            self.rows.pop(id, None)
            self.cancelled.discard(id)
        self.give_back.ask()

    def collect(self) -> None:
        """Take what the main thread has put into the outbox."""
        outbox = self.outbox
        ended: list[Ended] = []
        for _ in range(len(outbox)):
            outcome = outbox.popleft()
            if isinstance(outcome, Dropped):
                # Not one that was claimed anew meanwhile, under another token.
                self.let_go([r.id for r in outcome.rows if self.rows.get(r.id) is r])
            elif isinstance(outcome, Committed | Lost):
                ended.append(outcome)
            else:
                self.unsent.append(outcome)
        if ended:
            self._account_for(ended)
            store.report_lost(ended)

    def send(self, connection: Connection) -> list[Cursor]:
        """Send the outcomes; `stored` is told how many were still ours, when all went well."""
        return store.send(connection, self.unsent)

    def store_alone(self, connection: Connection, error: psycopg.Error, progress: Progress) -> None:
        """After an error: store the outcomes without a claim behind them, one by one if need be.

        What tasks last said goes before them. Somebody's lock on one row keeps nothing else from
        being stored.
        """
        if isinstance(error, Contention):
            self.store_free(connection, progress)
            return
        words = progress.take()
        try:
            matched = store.store(connection, self.unsent, self.worker_id, words)
        except psycopg.Error:
            progress.send_again()
            raise
        progress.hold(())
        self.stored(connection, matched)

    def store_free(self, connection: Connection, progress: Progress) -> None:
        """Store what needs no waiting for a lock; the rest is tried again later."""
        outcomes, before = [*self.held_up, *self.unsent], len(self.held_up)
        words = progress.take()
        try:
            matched, held = store.store_free(connection, outcomes, self.worker_id, words)
        except psycopg.Error:
            progress.send_again()
            raise
        self.held_up = [outcome for outcome in outcomes if outcome.id in held]
        if len(self.held_up) > before:
            worker_log.warning(
                "Child %d: somebody holds the rows of %d ended task(s); trying again.",
                self.slot,
                len(self.held_up),
            )
        is_held = progress.hold(held)
        waits = bool(self.held_up) or is_held
        self.retry_at = time.monotonic() + _RETRY_HELD if waits else float("inf")
        self.unsent = [outcome for outcome in outcomes if outcome.id not in held]
        self.stored(connection, matched)

    @property
    def is_empty(self) -> bool:
        """Say whether every outcome is stored."""
        return not (self.outbox or self.unsent or self.held_up)

    def stored(self, connection: Connection, matched: int) -> None:
        """Forget the outcomes that were sent; account for those that matched nothing."""
        sent, self.unsent = self.unsent, []
        if not sent:
            return
        self._account_for(sent)
        if matched < len(sent):
            store.report_late(connection, sent)

    def _account_for(self, stored: Sequence[Outcome]) -> None:
        """Let go of tasks that have ended here."""
        self._measure(stored)
        self.lines.write(stored, self.rows)
        for outcome in stored:
            self.rows.pop(outcome.id, None)
            self.cancelled.discard(outcome.id)

    def _measure(self, stored: Sequence[Outcome]) -> None:
        """Learn how long tasks run."""
        kinds = Completed | Committed | Failed | Retrying
        times = [o.ended - o.began for o in stored if isinstance(o, kinds)]
        if times:
            mean = sum(times) / len(times)
            self.run_time = mean if self.run_time is None else (self.run_time + mean) / 2
