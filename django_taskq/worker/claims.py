"""What a child claims: along which lanes, when, and the way of claimed tasks into its hand.

A claim is sent and read in two steps, since outcomes travel in the same round trip. Its token is
noted in the record before it is sent. When its answer has come, the record accepts the rows, unless
the supervisor has taken them from us meanwhile; then the main thread gets them.
"""

from __future__ import annotations

import time
from typing import NamedTuple
from uuid import uuid4

import psycopg

from django_taskq import db
from django_taskq.task import at_most_once_names
from django_taskq.transitions import claim
from django_taskq.transitions.claim import Claimed, Lane
from django_taskq.worker.draining import Draining
from django_taskq.worker.hand import Hand
from django_taskq.worker.lanes import Lanes, Look, QueueChoice
from django_taskq.worker.orders import Orders
from django_taskq.worker.pools import Batch, Pool, Seat
from django_taskq.worker.prefetch import Prefetch
from django_taskq.worker.shared_memory import Budget

# Lanes are found anew after so many seconds with work …
_LOOK_EVERY = 1.0
# … and once more after a hint: hints that come within 5 ms of another are dropped.
_LOOK_ONCE_MORE = 0.01
# When others have locked all that a look has found.
_LOOK_BEHIND_OTHERS = 0.05


class Claiming(NamedTuple):
    """A claim under way."""

    token: str
    epoch: int
    lanes: list[Lane]
    look: Look
    cursor: db.Cursor


class Looking(NamedTuple):
    """A look for lanes under way."""

    cursor: db.Cursor


class Claims:
    """Decide when to look for lanes and when to claim along them; take in what comes of it."""

    def __init__(
        self,
        seat: Seat,
        budget: Budget,
        pool: Pool,
        hand: Hand,
        prefetch: Prefetch,
        orders: Orders,
    ) -> None:
        self.worker_id = seat.worker_id
        self.record = seat.record
        self.budget = budget
        self.pool = pool
        self.hand = hand
        self.prefetch = prefetch
        self.orders = orders
        self.lanes = Lanes(QueueChoice(seat.options.queues, seat.options.excluded))
        # When to look for lanes; None: when somebody wakes us.
        self._look_at: float | None = 0.0
        self._was_hinted = False
        # Idle until just now, and free to claim wherever there is work.
        self._is_woken = False
        # Nothing was claimed since the last look.
        self._has_looked = False
        # The last claim brought less than was asked for.
        self._was_short = False
        # Names of tasks that are never started twice; the last claim has brought some of them.
        self._once = at_most_once_names()
        self._has_met_once = False
        # A suspect waits.
        self.draining = Draining(places=pool.size)
        # The suspect that runs alone.
        self._alone: str | None = None

    # --- when and how many -----------------------------------------------------------------------

    def wake(self, *, is_hint: bool) -> None:
        """Look for work: there is some; or, `is_hint`, somebody has just enqueued."""
        self.record.say_idle(False)
        self._was_hinted = self._was_hinted or is_hint
        self._look_at = 0.0
        lanes = self.lanes
        self._is_woken = lanes.choice.is_open and not lanes.current and not lanes.has_floors

    def wanted(self, now: float) -> int:
        """Return how many tasks to claim now."""
        if self._alone is not None and self._alone not in self.hand.rows:
            self._alone, self._look_at = None, 0.0
        if self.hand.rows and self.draining.give_up_if_in_vain(now):
            self._look_at = 0.0
        if self.budget.left == 0:
            self.lanes.current, self._look_at = [], None
            return 0
        if not self.lanes.current and not self._look_is_due(now):
            return 0
        if self.draining.is_under_way or self._alone:
            return 0
        return self.prefetch.room(now, may_wait=not self._has_met_once)

    @property
    def is_hungry(self) -> bool:
        """Say whether nothing is known that could be claimed, and nobody looks for it."""
        return not self.lanes.current and self._look_at is None

    def next_at(self, now: float) -> float:
        """Return when to look for lanes; infinity: when somebody wakes us."""
        if self.draining.is_under_way:
            return self.draining.ends_at
        if self._look_at is None:
            return float("inf")
        # One that is due waits for room, and so for an outcome, which wakes us.
        look_at = self._next_look()
        return look_at if look_at > now else now + 0.5

    def _look_is_due(self, now: float) -> bool:
        return now >= self._next_look()

    def _next_look(self) -> float:
        """Return when to look for lanes next; with floors, looks have a budget."""
        if self._look_at is None:
            return float("inf")
        return max(self._look_at, self.lanes.next_full_look())

    # --- asking ----------------------------------------------------------------------------------

    def send(self, connection: db.Connection, wanted: int, now: float) -> Claiming | Looking:
        """Send a claim, or a look for lanes; `take` reads the answer."""
        if self._is_woken:
            return self._send_woken_claim(connection, wanted)
        if self._look_is_due(now):
            # The claim follows when the lanes are known: one may have come that is ahead.
            if self.hand.rows:
                db.forget_plans(connection)
            return Looking(claim.find_lanes(connection))
        return self._send_claim(connection, wanted, now)

    def _send_claim(self, connection: db.Connection, wanted: int, now: float) -> Claiming:
        self.record.say_idle(False)
        lanes = self.lanes.in_turn()
        look = self.lanes.look_now(now, after_look=self._was_short)
        self._was_short = False
        token = str(uuid4())
        epoch = self.record.announce(token)
        cursor = claim.claim(
            connection,
            worker_id=self.worker_id,
            token=token,
            lanes=lanes,
            floors=self.lanes.floors(lanes, look),
            limit=wanted,
        )
        return Claiming(token, epoch, lanes, look, cursor)

    def _send_woken_claim(self, connection: db.Connection, wanted: int) -> Claiming:
        """Find lanes and claim along them at once: a trip less between enqueue and start."""
        self.record.say_idle(False)
        token = str(uuid4())
        epoch = self.record.announce(token)
        cursor = claim.claim_woken(connection, worker_id=self.worker_id, token=token, limit=wanted)
        return Claiming(token, epoch, [], Look.FULL, cursor)

    # --- the answer ------------------------------------------------------------------------------

    def take(
        self, connection: db.Connection, asked: Claiming | Looking, wanted: int, now: float
    ) -> None:
        """Take in the answer to what was sent at `now`."""
        if isinstance(asked, Looking):
            self.budget.put_back(wanted)
            self._take_lanes(asked, now)
        else:
            self._take_tasks(connection, asked, wanted, now)

    def _take_lanes(self, looking: Looking, asked_at: float) -> None:
        """Learn which lanes have due tasks, and decide when to look again."""
        now = time.monotonic()
        self.lanes.found(claim.found_lanes(looking.cursor), now - asked_at)
        self._has_looked = True
        if self.lanes.current:
            self._look_at = now + _LOOK_EVERY
        else:
            self._rest_after_look(now)

    def _take_tasks(
        self, connection: db.Connection, claiming: Claiming, wanted: int, now: float
    ) -> None:
        """Hand claimed tasks to the main thread, and decide when to look for lanes."""
        count = self._hand_over(connection, claiming)
        self.budget.put_back(wanted - count)
        if self._is_woken:
            self._is_woken = False
            self._after_woken_claim(count == wanted)
        elif count == wanted:
            if self._has_looked:
                self.orders.ring("m")  # there may be more than one child can take
        else:
            # Nothing is left in these lanes, but below the floors perhaps; others may have come.
            # Where a look has found something and a claim nothing, others have just locked it.
            self.lanes.current, self._was_short = [], True
            self._look_at = 0.0 if count else now + _LOOK_BEHIND_OTHERS
        self._has_looked = False

    def _hand_over(self, connection: db.Connection, claiming: Claiming) -> int:
        """Pass claimed rows to the main thread; return how many there were."""
        rows, seconds = claim.claimed_rows(claiming.cursor, claiming.token, claiming.lanes)
        self.lanes.learn(rows, seconds, claiming.look)
        count = len(rows)
        if self._once:
            rows = self._without_waiting_once(rows)
        ids = [row.id for row in rows]
        if not self.record.accept(claiming.epoch, ids):
            self.hand.let_go([])  # they were taken from us while the answer was under way
            return 0
        if rows:
            self.hand.take(ids, rows)
            self.pool.put(Batch(claiming.epoch, rows))
        if len(rows) < count:
            self.budget.put_back(count - len(rows))
            self.hand.give_back.sweep(connection, time.monotonic())
        return count

    def _without_waiting_once(self, rows: list[Claimed]) -> list[Claimed]:
        """Leave out `at_most_once` tasks that would wait here: they are given back at once.

        Of a host that is lost nobody knows what had started, and all of these that it held end.
        """
        places = [place for place, row in enumerate(rows) if row.task in self._once]
        self._has_met_once = bool(places)
        waiting = set(places[self.prefetch.free_places() :])
        return [row for place, row in enumerate(rows) if place not in waiting]

    def _after_woken_claim(self, was_full: bool) -> None:
        """Go on: with a look if there may be more, or else as after a look that found nothing."""
        if was_full:
            self.orders.ring("m")
            self._look_at = 0.0
        else:
            self._rest_after_look(time.monotonic())

    def _rest_after_look(self, now: float) -> None:
        """Nothing is due. Look once more after a hint, for those that were dropped behind it."""
        if self._was_hinted:
            self._was_hinted = False
            self._look_at = now + _LOOK_ONCE_MORE
        else:
            self._look_at = None

    def give_up(self) -> None:
        """Give up on a claim under way; if it succeeds all the same, the sweep finds its rows."""
        if self.record.has_claim_under_way:
            self.record.accept(self.record.epoch, [])
            self.hand.give_back.ask()
        self._look_at = 0.0

    def give_up_after_error(self) -> None:
        """Give up on it, and do not find lanes and claim along them at once the next time."""
        self._is_woken = False
        self.give_up()

    # --- suspects --------------------------------------------------------------------------------

    def note_suspect(self) -> None:
        """Claim a suspect when nothing is in hand any more: one waits."""
        self.draining.begin(time.monotonic())

    @property
    def suspect_is_due(self) -> bool:
        """Say whether a suspect waits that can have this child for itself now."""
        return self.draining.is_under_way and not self.hand.rows

    def take_suspect(self, connection: db.Connection) -> None:
        """Claim one task that has crashed twice; nothing else is claimed until it has ended."""
        self.draining.end()
        self._look_at = 0.0
        queues = [q for q in claim.suspect_queues(connection) if self.lanes.choice.serves(q)]
        if not queues or not self.budget.take(1):
            return
        self.record.say_idle(False)
        token = str(uuid4())
        epoch = self.record.announce(token)
        try:
            rows = claim.claim_suspect(
                connection, worker_id=self.worker_id, token=token, queues=queues
            )
        except psycopg.Error:
            self.budget.put_back(1)
            raise
        if rows and self.record.accept(epoch, [rows[0].id]):
            self._alone = rows[0].id
            self.hand.take([rows[0].id], rows[:1])
            self.pool.put(Batch(epoch, rows))
        else:
            self.budget.put_back(1)
            self.give_up()
