"""A child's second thread: stores outcomes and claims tasks, in one round trip.

What gathers while a round trip is under way goes with the next; when idle, an outcome goes at once.
A finish and the claim behind it are one transaction: both happen or neither. So outcomes are kept
until the round trip has ended without error, and claimed tasks start only then.

    claims.py      what is claimed: when, along which lanes; prefetch.py says how many
    hand.py        tasks from their claim until their outcome is stored
    give_back.py   what the database holds for this child and it has not in hand
    orders.py      what wakes the feeder, and how it calls the supervisor
    progress.py    how far running tasks are
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

from django_taskq import db
from django_taskq.events import worker_log
from django_taskq.transitions.claim import Claimed
from django_taskq.worker import store
from django_taskq.worker.claims import Claims
from django_taskq.worker.console import TaskLines
from django_taskq.worker.hand import Hand
from django_taskq.worker.orders import Orders
from django_taskq.worker.pools import Pool, Seat
from django_taskq.worker.prefetch import Prefetch
from django_taskq.worker.progress import Progress
from django_taskq.worker.shared_memory import Budget

# The longest that a process that ends at once waits for its outcomes to be stored.
_FLUSH = 5.0
# However busy a feeder is, it reads its orders so often.
_ORDERS_EVERY = 0.1
# The supervisor watches the feeder of a busy child: it ticks so often.
_TICK = 0.5
_PAUSE_FIRST, _PAUSE_LAST = 0.1, 2.0


class Feeder(threading.Thread):
    """Feed one child."""

    def __init__(
        self,
        seat: Seat,
        *,
        slot: int,
        pool: Pool,
        budget: Budget,
        orders: int,
        bell: int,
        lent: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(name="taskq-feeder", daemon=True)
        self.options = seat.options
        self.record = seat.record
        self.outbox = seat.outbox
        self.slot = slot
        self.pool = pool
        self.budget = budget
        # The main thread looks at these: asked to stop (it starts nothing more), and whether to
        # nudge, since the feeder sleeps.
        self.stopping = False
        self.is_waiting = False
        # Why this child ends with what it has in hand, and is replaced; "": it does not.
        self.retiring_for = ""
        self.lines = TaskLines(seat.options, seat.worker_id)
        self.orders = Orders(orders, bell)
        self.hand = Hand(seat, slot, self.lines)
        self.prefetch = Prefetch(seat, pool, self.hand, lent)
        self.claims = Claims(seat, budget, pool, self.hand, self.prefetch, self.orders)
        self.progress = Progress()
        self._connection: db.Connection | None = None
        self._pause = _PAUSE_FIRST
        self._main_ended = False
        self._has_retired = False

    # --- called by the main thread ---------------------------------------------------------------

    def nudge(self) -> None:
        """Wake the feeder: there is something for it."""
        self.orders.nudge()

    def report(self, row: Claimed, progress: dict[str, Any]) -> None:
        """Pass on how far a task is; what it says within 0.2 s of its last word replaces that."""
        self.progress.note(row, progress)
        if self.is_waiting:
            self.nudge()

    def is_cancelled(self, id: str) -> bool:
        """Say whether somebody has asked a task to end. Callable in any thread."""
        return id in self.hand.cancelled

    def retire(self, why: str, *, is_hung: bool = False) -> None:
        """Claim nothing more: the child ends with what it has in hand, and is replaced.

        `why` completes "Child 3 ends …" in the log; `is_hung`: the replacement does not wait for
        that end. Callable in any thread.
        """
        if not self.retiring_for:
            self.retiring_for = why
        if is_hung:
            self.record.say_retiring(is_hung=True)
            self.orders.ring("r")
        self.nudge()

    def flush(self) -> None:
        """Wait until what is in the outbox is stored, but not for long: the process ends."""
        deadline = time.monotonic() + _FLUSH
        while not self.hand.is_empty and time.monotonic() < deadline:
            self.nudge()
            time.sleep(0.01)

    def end(self) -> None:
        """Say that no more outcomes come, and wait until all are stored."""
        self._main_ended = True
        self.nudge()
        self.join()

    # --- the thread ------------------------------------------------------------------------------

    def run(self) -> None:
        """Store and claim until the main thread has ended and everything is stored."""
        try:
            while not self._step_or_rest():
                pass
        except Exception:
            # A child without a feeder is of no use, and must not look alive: it is replaced.
            worker_log.exception("The feeder of child %d failed; the child ends.", self.slot)
            os._exit(1)

    def _step_or_rest(self) -> bool:
        try:
            done = self._step()
        except psycopg.Error as error:
            if not db.is_trouble(error, self._connection):
                raise
            self._rest(error)
            return False
        self._note_recovery()
        return done

    def _step(self) -> bool:
        """Do the next thing that is due, or wait for one; True when all is done."""
        self.record.tick()
        self.hand.collect()
        self._retire_if_due()
        now = time.monotonic()
        if now >= self.orders.read_at + _ORDERS_EVERY:
            self._sleep(0)
        wanted = 0 if self._is_leaving else self.claims.wanted(now)
        if self._is_leaving and self._put_down():
            return True
        if now >= self.hand.retry_at:
            self.hand.store_free(self._connect(), self.progress)
        elif self.hand.give_back.is_overdue(now):
            self.hand.give_back.sweep(self._connect(), now)
        elif self.hand.unsent or wanted or self.progress.is_due(now):
            self._round_trip(wanted, now)
        elif self.claims.suspect_is_due and not self._is_leaving:
            self.claims.take_suspect(self._connect())
        elif self.hand.give_back.is_due(now):
            self.hand.give_back.sweep(self._connect(), now)
        else:
            self._wait(now)
        return False

    def _round_trip(self, wanted: int, now: float) -> None:
        """Send outcomes with the next claim or a look for lanes; on trouble the outcomes alone."""
        connection = self._connect()
        wanted = self.budget.take(wanted)
        try:
            with connection.pipeline():
                self.progress.send(connection, now, self.hand.unsent)
                cursors = self.hand.send(connection)
                asked = self.claims.send(connection, wanted, now) if wanted else None
        except psycopg.Error as error:
            self.budget.put_back(wanted)
            self.progress.send_again()
            if connection.closed:
                raise
            self._store_alone(connection, error)
            return
        self.hand.stored(connection, sum(cursor.rowcount for cursor in cursors))
        if asked is not None:
            self.claims.take(connection, asked, wanted, now)

    def _store_alone(self, connection: db.Connection, error: psycopg.Error) -> None:
        """After an error: outcomes without a claim behind them; the claim's turn comes again."""
        db.roll_back(connection)
        self.claims.give_up_after_error()
        if self.hand.unsent or self.progress.is_waiting:
            self.hand.store_alone(connection, error, self.progress)
        elif isinstance(error, db.Trouble):
            raise error
        else:
            worker_log.error("A claim failed and is tried again: %s", store.brief(error))
            self._sleep(_PAUSE_LAST)

    # --- waiting and waking ----------------------------------------------------------------------

    def _wait(self, now: float) -> None:
        """Sleep until there is an outcome, an order, or something is due."""
        self.is_waiting = True
        if not self.outbox and not self._main_ended:
            if not self._is_leaving:
                self._say_how_it_is()
            self._sleep(self._seconds_to_sleep(now))
        elif self._main_ended and self._is_leaving:
            self._sleep(0.01)
        self.is_waiting = False

    def _say_how_it_is(self) -> None:
        """Say whether more could run here than is known of, and whether nothing runs at all."""
        record, pool = self.record, self.pool
        is_hungry = self.claims.is_hungry
        if is_hungry and not self.hand.rows:
            if not record.is_idle:
                record.say_idle(True)
                self.orders.ring("i")
        elif is_hungry and not record.is_hungry and record.unstarted + pool.busy < pool.size:
            record.say_hungry()
            self.orders.ring("i")

    def _seconds_to_sleep(self, now: float) -> float | None:
        """Return how long nothing is due; None: until somebody wakes us."""
        next_at = min(
            self.claims.next_at(now),
            self.prefetch.next_at(now),
            self.progress.next_at(),
            self.hand.retry_at,
            now + _TICK if self.hand.rows else self.hand.give_back.next_at(now),
        )
        return max(0.0, next_at - now) if next_at < float("inf") else None

    def _sleep(self, seconds: float | None) -> None:
        """Sleep until somebody wakes us, and obey."""
        for order in self.orders.read(seconds):
            self._obey(order)

    def _obey(self, order: str) -> None:
        match order[0]:
            case "c":  # somebody has asked a task to end
                self.hand.cancel(order[1:])
            case "w" | "h":  # there is work; or: somebody has just enqueued
                self.claims.wake(is_hint=order == "h")
            case "x":  # a suspect waits
                self.claims.note_suspect()
            case "s":  # stop
                if not self.stopping:
                    self.stopping = True
                    self.pool.put(None)

    # --- the end of this child -------------------------------------------------------------------

    @property
    def _is_leaving(self) -> bool:
        """Say whether nothing more is claimed here."""
        return self.stopping or self._has_retired

    def _retire_if_due(self) -> None:
        """Retire after so many tasks, or for what the main thread has noticed."""
        most = self.options.max_tasks_per_child
        if most and self.record.claimed >= most:
            self.retiring_for = self.retiring_for or f"after {most} task{'s' if most > 1 else ''}"
        if self.retiring_for and not self._is_leaving:
            self._has_retired = True
            self.record.say_idle(False)  # nobody is to wake it
            if not self.record.is_retiring:
                self.record.say_retiring()
            self.pool.put(None)
            self.orders.ring("r")  # the next one may be forked at once
            worker_log.info("Child %d ends %s.", self.slot, self.retiring_for)

    def _put_down(self) -> bool:
        """Stop: give back what has not started; True when nothing is left to do.

        A child that retires starts what it has claimed.
        """
        if self.stopping and self.record.unstarted:
            held = self.record.take_unstarted()
            if held is not None:
                self.budget.put_back(len(held.unstarted))
                self.hand.let_go(held.unstarted)
        if self._main_ended and self.hand.is_empty:
            self.hand.give_back.leave_nothing(self._connect())
            return True
        return False

    # --- the connection --------------------------------------------------------------------------

    def _connect(self) -> db.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = db.worker_connection(
                self.options.database, name=f"taskworker child {self.slot}"
            )
            self.claims.lanes.forget_floors()
        return self._connection

    def _note_recovery(self) -> None:
        """After trouble: what was to be done has been done, so the database answers."""
        if self._pause > _PAUSE_FIRST:
            self._pause = _PAUSE_FIRST
            worker_log.info("Child %d: the database answers again.", self.slot)

    def _rest(self, error: psycopg.Error) -> None:
        """Pause after trouble with the database; outcomes are kept, the running task runs on."""
        self.claims.give_up()
        if self._connection is not None:
            self._connection.close()
            self.hand.give_back.look_soon(time.monotonic())
        worker_log.warning("Child %d: %s; trying again.", self.slot, store.brief(error))
        self.record.tick()
        self._sleep(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(self._pause * 2, _PAUSE_LAST)
