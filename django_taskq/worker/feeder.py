"""A child's second thread: stores outcomes and claims tasks, in one round trip.

What gathers while a round trip is under way goes with the next; when idle, an outcome goes at once.
A finish and the claim behind it are one transaction: both happen or neither. So outcomes are kept
until the round trip has ended without error, and claimed tasks start only then.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg

from django_taskq import db
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
from django_taskq.task import at_most_once_names
from django_taskq.transitions import claim, finish, rescue
from django_taskq.transitions.claim import Claimed, Lane
from django_taskq.worker import store
from django_taskq.worker.console import TaskLines
from django_taskq.worker.lanes import Lanes, Look, QueueChoice
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.pools import Batch, Dropped, Pool
from django_taskq.worker.record import Record
from django_taskq.worker.shared_memory import Budget

# Keep about this many seconds of work claimed, and never more tasks than that.
_PREFETCH, _MOST = 0.05, 500
# Behind a task that has run for this long, nothing is claimed to wait.
_LONG = 1.0
# Lanes are found anew after so many seconds with work …
_LOOK_EVERY = 1.0
# … and once more after a hint: hints that come within 5 ms of another are dropped.
_LOOK_ONCE_MORE = 0.01
# When others have locked all that a look has found.
_LOOK_BEHIND_OTHERS = 0.05
# Claims whose answer was lost are looked for after a reconnect, every so many seconds for a minute
# (the lost statement may commit late: longer than its timeout), and once a minute with work.
_SWEEP_SOON, _SWEEP_SOON_FOR, _SWEEP = 5.0, 60.0, 60.0
# While a child that is being replaced still takes places, they are counted so often.
_LENT = 0.02
# Progress is stored at most so often.
_REPORT_EVERY = 0.2
# The longest that a process that ends at once waits for its outcomes to be stored.
_FLUSH = 5.0
# "c" and the id of a task; other orders are a letter.
_CANCEL_SIZE = 37
# However busy a feeder is, it reads its orders so often.
_ORDERS_EVERY = 0.1
_PAUSE_FIRST, _PAUSE_LAST = 0.1, 2.0


class Feeder(threading.Thread):
    """Feed one child."""

    def __init__(
        self,
        options: WorkerOptions,
        *,
        record: Record,
        budget: Budget,
        pool: Pool,
        outbox: deque[Outcome | Dropped],
        worker_id: str,
        slot: int,
        orders: int,
        bell: int,
        lent: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(name="taskq-feeder", daemon=True)
        self.options = options
        self.record = record
        self.budget = budget
        self.pool = pool
        self.outbox = outbox
        self.worker_id = worker_id
        self.slot = slot
        # Pipes: orders from the supervisor, and the bell that wakes it.
        self.orders = orders
        self.bell = bell
        self.lines = TaskLines(options, worker_id)
        self.lanes = Lanes(QueueChoice(options.queues, options.excluded))
        # Asked to stop: claims nothing, and the main thread starts nothing.
        self.stopping = False
        # Says how many places a child that is being replaced by this one still takes, where there
        # are places; and what it said last.
        self._count_lent = lent
        self._lent = 0
        # Why this child ends with what it has in hand, and is replaced; "": it does not.
        self.retiring_for = ""
        # The main thread looks at this before it nudges.
        self.is_waiting = False
        self._nudge_read, self._nudge_write = os.pipe()
        for end in (self._nudge_read, self._nudge_write, orders):
            os.set_blocking(end, False)
        self._connection: db.Connection | None = None
        self._pause = _PAUSE_FIRST
        # Outcomes that no round trip has stored yet.
        self._unsent: list[Unstored] = []
        # Every claimed task that is not stored, given back or dropped yet, by id.
        self._in_hand: dict[str, Claimed] = {}
        # Those of them that somebody has asked to end.
        self._cancelled: set[str] = set()
        # The beginning of an order whose rest was not read yet, and when orders were last read.
        self._begun_order = b""
        self._orders_read_at = 0.0
        # How long tasks run, on average; one is claimed at a time while that is unknown.
        self._run_time: float | None = None
        # When to look for lanes; None: when somebody wakes us.
        self._look_at: float | None = 0.0
        self._was_hinted = False
        # Idle until just now, and free to claim wherever there is work.
        self._is_woken = False
        # Nothing was claimed since the last look.
        self._has_looked = False
        # The last claim brought less than was asked for.
        self._was_short = False
        self._suspect_waits = False
        # Names of tasks that are never started twice; the last claim has brought some of them.
        self._once = at_most_once_names()
        self._has_met_once = False
        # The suspect that runs alone.
        self._alone: str | None = None
        self._give_back_asked = False
        self._sweep_at = self._sweep_soon_until = 0.0
        self._reports: dict[str, tuple[str, str, str]] = {}
        self._reported_at = 0.0
        self._main_ended = False
        self._has_retired = False

    # --- called by the main thread ---------------------------------------------------------------

    def nudge(self) -> None:
        """Wake the feeder: there is something for it."""
        with contextlib.suppress(BlockingIOError):  # it is being woken already
            os.write(self._nudge_write, b"o")

    def report(self, row: Claimed, progress: dict[str, Any]) -> None:
        """Pass on how far a task is; what it says within 0.2 s of its last word replaces that."""
        self._reports[row.id] = (row.id, row.claim, json.dumps(progress))
        if self.is_waiting:
            self.nudge()

    def is_cancelled(self, id: str) -> bool:
        """Say whether somebody has asked a task to end. Callable in any thread."""
        return id in self._cancelled

    def retire(self, why: str, *, is_hung: bool = False) -> None:
        """Claim nothing more: the child ends with what it has in hand, and is replaced.

        `why` completes "Child 3 ends …" in the log; `is_hung`: the replacement does not wait for
        that end. Callable in any thread.
        """
        if not self.retiring_for:
            self.retiring_for = why
        if is_hung:
            self.record.say_retiring(is_hung=True)
            self._ring("r")
        self.nudge()

    def flush(self) -> None:
        """Wait until what is in the outbox is stored, but not for long: the process ends."""
        deadline = time.monotonic() + _FLUSH
        while (self.outbox or self._unsent) and time.monotonic() < deadline:
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
        self._collect()
        self._retire_if_due()
        now = time.monotonic()
        if now >= self._orders_read_at + _ORDERS_EVERY:
            self._read_orders(0)
        wanted = 0 if self._is_leaving else self._wanted(now)
        if self._is_leaving and self._put_down():
            return True
        if self._unsent or wanted or self._reports_are_due(now):
            self._round_trip(wanted, now)
        elif self._suspect_waits and not self._in_hand and not self._is_leaving:
            self._take_suspect()
        elif self._sweep_is_due(now):
            self._sweep(now)
        else:
            self._wait(now)
        return False

    def _collect(self) -> None:
        """Take what the main thread has put into the outbox."""
        outbox = self.outbox
        ended: list[Ended] = []
        for _ in range(len(outbox)):
            outcome = outbox.popleft()
            if isinstance(outcome, Dropped):
                # Not one that was claimed anew meanwhile, under another token.
                self._let_go([r.id for r in outcome.rows if self._in_hand.get(r.id) is r])
            elif isinstance(outcome, Committed | Lost):
                ended.append(outcome)
            else:
                self._unsent.append(outcome)
        if ended:
            self._account_for(ended)
            store.report_lost(ended)

    def _let_go(self, ids: Sequence[str]) -> None:
        """Have tasks given back that were claimed and will not start here."""
        for id in ids:
            self._in_hand.pop(id, None)
            self._cancelled.discard(id)
        self._give_back_asked = True

    def _wanted(self, now: float) -> int:
        """Return how many tasks to claim now."""
        if self.budget.left == 0:
            self.lanes.current, self._look_at = [], None
            return 0
        if not self.lanes.current and not self._look_is_due(now):
            return 0
        if self._suspect_waits or self._alone:
            return 0
        if self.pool.size == 1 and self.record.running_for(now) > _LONG:
            return 0
        self._lent = self._count_lent() if self._count_lent is not None else 0
        size = self.pool.size - self._lent
        held = self.record.unstarted + self.pool.busy
        target = size + (self._ahead(size, now) if not self._lent else 0)
        room = target - held
        # A claim should be worth its trip, the more so when it needs one of its own; but nothing
        # that could run a task is left without one.
        if room * (4 if self._unsent else 2) <= target and held >= size:
            return 0
        if self._has_met_once:
            room = min(room, size - held)
        return max(0, min(room, self._rest_of_life or room))

    def _ahead(self, size: int, now: float) -> int:
        """Return how many tasks to have claimed beside those that run: what starts in 50 ms."""
        if self._run_time is None or (size > 1 and not self.record.has_moved(now)):
            return 0
        return max(0, min(_MOST, int(size * _PREFETCH / max(self._run_time, 1e-6))) - 1)

    @property
    def _rest_of_life(self) -> int:
        """Return how many tasks this child may still claim; 0 is no limit."""
        most = self.options.max_tasks_per_child
        return max(1, most - self.record.claimed) if most else 0

    def _look_is_due(self, now: float) -> bool:
        return now >= self._next_look()

    def _next_look(self) -> float:
        """Return when to look for lanes next; with floors, looks have a budget."""
        if self._look_at is None:
            return float("inf")
        return max(self._look_at, self.lanes.next_full_look())

    def _round_trip(self, wanted: int, now: float) -> None:
        """Send outcomes with the next claim or a look for lanes; on trouble the outcomes alone."""
        connection = self._connect()
        wanted = self.budget.take(wanted)
        claiming = looking = None
        sent = self._unsent
        try:
            with connection.pipeline():
                self._send_reports(connection, now)
                cursors = store.send(connection, sent)
                if wanted and self._is_woken:
                    claiming = self._send_woken_claim(connection, wanted)
                elif wanted and self._look_is_due(now):
                    # The claim follows when the lanes are known: one may have come that is ahead.
                    if self._in_hand:
                        db.forget_plans(connection)
                    looking = claim.find_lanes(connection)
                elif wanted and self.lanes.current:
                    claiming = self._send_claim(connection, wanted, now)
        except psycopg.Error as error:
            self.budget.put_back(wanted)
            if connection.closed:
                raise
            self._store_alone(connection, error)
            return
        self._stored(connection, sum(cursor.rowcount for cursor in cursors))
        if looking is not None:
            self.budget.put_back(wanted)
            self._take_in_lanes(looking, now)
        elif claiming is not None:
            self._take(claiming, wanted, now)

    # --- outcomes --------------------------------------------------------------------------------

    def _store_alone(self, connection: db.Connection, error: psycopg.Error) -> None:
        """After an error: outcomes without a claim behind them; the claim's turn comes again."""
        db.roll_back(connection)
        self._is_woken = False
        self._forget_claim()
        if self._unsent:
            self._stored(connection, store.store(connection, self._unsent, self.worker_id))
        elif isinstance(error, db.Trouble):
            raise error
        else:
            worker_log.error("A claim failed and is tried again: %s", store.brief(error))
            self._read_orders(_PAUSE_LAST)

    def _stored(self, connection: db.Connection, matched: int) -> None:
        """Forget the outcomes that were sent; account for those that matched nothing."""
        sent, self._unsent = self._unsent, []
        if not sent:
            return
        self._account_for(sent)
        if matched < len(sent):
            store.report_late(connection, sent)

    def _account_for(self, stored: Sequence[Outcome]) -> None:
        """Let go of tasks that have ended here."""
        self._measure(stored)
        self.lines.write(stored, self._in_hand)
        for outcome in stored:
            self._in_hand.pop(outcome.id, None)
            self._cancelled.discard(outcome.id)
        if self._alone is not None and self._alone not in self._in_hand:
            self._alone, self._look_at = None, 0.0

    def _measure(self, stored: Sequence[Outcome]) -> None:
        """Learn how long tasks run."""
        kinds = Completed | Committed | Failed | Retrying
        times = [o.ended - o.began for o in stored if isinstance(o, kinds)]
        if times:
            mean = sum(times) / len(times)
            self._run_time = mean if self._run_time is None else (self._run_time + mean) / 2

    # --- claims ----------------------------------------------------------------------------------

    def _send_claim(self, connection: db.Connection, wanted: int, now: float) -> _Claiming:
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
        return _Claiming(token, epoch, lanes, look, cursor)

    def _send_woken_claim(self, connection: db.Connection, wanted: int) -> _Claiming:
        """Find lanes and claim along them at once: a trip less between enqueue and start."""
        self.record.say_idle(False)
        token = str(uuid4())
        epoch = self.record.announce(token)
        cursor = claim.claim_woken(connection, worker_id=self.worker_id, token=token, limit=wanted)
        return _Claiming(token, epoch, [], Look.FULL, cursor)

    def _take(self, claiming: _Claiming, wanted: int, now: float) -> None:
        """Hand claimed tasks to the main thread, and decide when to look for lanes."""
        count = self._hand_over(claiming)
        self.budget.put_back(wanted - count)
        if self._is_woken:
            self._is_woken = False
            self._after_woken_claim(count == wanted)
        elif count == wanted:
            if self._has_looked:
                self._ring("m")  # there may be more than one child can take
        else:
            # Nothing is left in these lanes, but below the floors perhaps; others may have come.
            # Where a look has found something and a claim nothing, others have just locked it.
            self.lanes.current, self._was_short = [], True
            self._look_at = 0.0 if count else now + _LOOK_BEHIND_OTHERS
        self._has_looked = False

    def _hand_over(self, claiming: _Claiming) -> int:
        """Pass claimed rows to the main thread; return how many there were."""
        rows, seconds = claim.claimed_rows(claiming.cursor, claiming.token, claiming.lanes)
        self.lanes.learn(rows, seconds, claiming.look)
        count = len(rows)
        if self._once:
            rows = self._without_waiting_once(rows)
        ids = [row.id for row in rows]
        if not self.record.accept(claiming.epoch, ids):
            self._let_go([])  # they were taken from us while the answer was under way
            return 0
        if rows:
            self._in_hand.update(zip(ids, rows, strict=True))
            self.pool.put(Batch(claiming.epoch, rows))
        if len(rows) < count:
            self.budget.put_back(count - len(rows))
            self._sweep(time.monotonic())
        return count

    def _without_waiting_once(self, rows: list[Claimed]) -> list[Claimed]:
        """Leave out `at_most_once` tasks that would wait here: they are given back at once.

        Of a host that is lost nobody knows what had started, and all of these that it held end.
        """
        free = max(0, self.pool.size - self.pool.busy - self.record.unstarted)
        places = [place for place, row in enumerate(rows) if row.task in self._once]
        self._has_met_once = bool(places)
        waiting = set(places[free:])
        return [row for place, row in enumerate(rows) if place not in waiting]

    def _after_woken_claim(self, was_full: bool) -> None:
        """Go on: with a look if there may be more, or else as after a look that found nothing."""
        if was_full:
            self._ring("m")
            self._look_at = 0.0
        else:
            self._rest_after_look(time.monotonic())

    def _take_in_lanes(self, looking: db.Cursor, asked_at: float) -> None:
        """Learn which lanes have due tasks, and decide when to look again."""
        now = time.monotonic()
        self.lanes.found(claim.found_lanes(looking), now - asked_at)
        self._has_looked = True
        if self.lanes.current:
            self._look_at = now + _LOOK_EVERY
        else:
            self._rest_after_look(now)

    def _rest_after_look(self, now: float) -> None:
        """Nothing is due. Look once more after a hint, for those that were dropped behind it."""
        if self._was_hinted:
            self._was_hinted = False
            self._look_at = now + _LOOK_ONCE_MORE
        else:
            self._look_at = None

    def _take_suspect(self) -> None:
        """Claim one task that has crashed twice; nothing else is claimed until it has ended."""
        self._suspect_waits = False
        self._look_at = 0.0
        connection = self._connect()
        queues = [q for q in claim.suspect_queues(connection) if self.lanes.choice.serves(q)]
        if not queues or not self.budget.take(1):
            return
        self.record.say_idle(False)
        token = str(uuid4())
        epoch = self.record.announce(token)
        rows = claim.claim_suspect(connection, worker_id=self.worker_id, token=token, queues=queues)
        if rows and self.record.accept(epoch, [rows[0].id]):
            self._alone = rows[0].id
            self._in_hand[rows[0].id] = rows[0]
            self.pool.put(Batch(epoch, rows))
        else:
            self.budget.put_back(1)
            self._forget_claim()

    def _ring(self, news: str) -> None:
        """Wake the supervisor: there is more work than one child can take, or this one is idle."""
        with contextlib.suppress(BlockingIOError):
            os.write(self.bell, news.encode())

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
            self._ring("r")  # the next one may be forked at once
            worker_log.info("Child %d ends %s.", self.slot, self.retiring_for)

    # --- giving back -----------------------------------------------------------------------------

    def _sweep_is_due(self, now: float) -> bool:
        if self._give_back_asked:
            return True
        return now >= self._sweep_at and (bool(self._in_hand) or now < self._sweep_soon_until)

    def _sweep(self, now: float) -> None:
        """Give back what the database holds for us and we do not have: a lost answer, a drop."""
        count = rescue.give_back(self._connect(), self.worker_id, kept=list(self._in_hand))
        self._give_back_asked = False
        self._sweep_at = now + (_SWEEP_SOON if now < self._sweep_soon_until else _SWEEP)
        if count:
            worker_log.info("Child %d gave %d task(s) back.", self.slot, count)

    def _put_down(self) -> bool:
        """Stop: give back what has not started; True when nothing is left to do.

        A child that retires starts what it has claimed.
        """
        if self.stopping and self.record.unstarted:
            held = self.record.take_unstarted()
            if held is not None:
                self.budget.put_back(len(held.unstarted))
                self._let_go(held.unstarted)
        if self._main_ended and not self.outbox and not self._unsent:
            rescue.give_back(self._connect(), self.worker_id, kept=[])
            return True
        return False

    def _forget_claim(self) -> None:
        """Give up on a claim under way; if it succeeds all the same, the sweep finds its rows."""
        if self.record.has_claim_under_way:
            self.record.accept(self.record.epoch, [])
            self._give_back_asked = True
        self._look_at = 0.0

    # --- reports ---------------------------------------------------------------------------------

    def _reports_are_due(self, now: float) -> bool:
        return bool(self._reports) and now >= self._reported_at + _REPORT_EVERY

    def _send_reports(self, connection: db.Connection, now: float) -> None:
        """Send progress ahead of the outcomes, which take the last of it along."""
        if self._reports:
            reports, self._reports = self._reports, {}
            self._reported_at = now
            finish.report_progress(connection, list(reports.values()))

    # --- waiting and waking ----------------------------------------------------------------------

    def _wait(self, now: float) -> None:
        """Sleep until there is an outcome, an order, or something is due."""
        self.is_waiting = True
        if not self.outbox and not self._main_ended:
            if not self._is_leaving:
                self._say_how_it_is()
            self._read_orders(self._sleep_for(now))
        elif self._main_ended and self._is_leaving:
            self._read_orders(0.01)
        self.is_waiting = False

    def _say_how_it_is(self) -> None:
        """Say whether more could run here than is known of, and whether nothing runs at all."""
        record, pool = self.record, self.pool
        is_hungry = not self.lanes.current and self._look_at is None
        if is_hungry and not self._in_hand:
            if not record.is_idle:
                record.say_idle(True)
                self._ring("i")
        elif is_hungry and not record.is_hungry and record.unstarted + pool.busy < pool.size:
            record.say_hungry()
            self._ring("i")

    def _sleep_for(self, now: float) -> float | None:
        moments = []
        if self._look_at is not None:
            # One that is due waits for room, and so for an outcome, which wakes us …
            look_at = self._next_look()
            moments.append(look_at if look_at > now else now + 0.5)
        if self._lent:
            moments.append(now + _LENT)  # … or for the end of another child's task
        if self._reports:
            moments.append(self._reported_at + _REPORT_EVERY)
        if self._in_hand:
            moments.append(now + 0.5)  # tick: the supervisor watches the feeder of a busy child
        elif now < self._sweep_soon_until:
            moments.append(self._sweep_at)
        return max(0.0, min(moments) - now) if moments else None

    def _read_orders(self, seconds: float | None) -> None:
        """Sleep until somebody wakes us, and obey."""
        readable, _, _ = select.select([self._nudge_read, self.orders], [], [], seconds)
        self._orders_read_at = time.monotonic()
        if self._nudge_read in readable:
            os.read(self._nudge_read, 4096)
        if self.orders in readable:
            unread = self._begun_order + os.read(self.orders, 4096)
            while len(unread) >= (size := _CANCEL_SIZE if unread[:1] == b"c" else 1) and unread:
                self._obey(unread[:size].decode())
                unread = unread[size:]
            self._begun_order = unread

    def _obey(self, order: str) -> None:
        match order[0]:
            case "c":  # somebody has asked a task to end; it is ours, unless it has just ended
                if order[1:] in self._in_hand:
                    self._cancelled.add(order[1:])
            case "w" | "h":  # there is work; or: somebody has just enqueued
                self.record.say_idle(False)
                self._was_hinted = self._was_hinted or order == "h"
                self._look_at = 0.0
                choice, lanes = self.lanes.choice, self.lanes
                self._is_woken = choice.is_open and not lanes.current and not lanes.has_floors
            case "x":  # a suspect waits
                self._suspect_waits = True
            case "s":  # stop
                if not self.stopping:
                    self.stopping = True
                    self.pool.put(None)

    # --- the connection --------------------------------------------------------------------------

    def _connect(self) -> db.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = db.worker_connection(
                self.options.database, name=f"taskworker child {self.slot}"
            )
            self.lanes.forget_floors()
        return self._connection

    def _note_recovery(self) -> None:
        """After trouble: what was to be done has been done, so the database answers."""
        if self._pause > _PAUSE_FIRST:
            self._pause = _PAUSE_FIRST
            worker_log.info("Child %d: the database answers again.", self.slot)

    def _rest(self, error: psycopg.Error) -> None:
        """Pause after trouble with the database; outcomes are kept, the running task runs on."""
        self._forget_claim()
        if self._connection is not None:
            self._connection.close()
            now = time.monotonic()
            self._sweep_at, self._sweep_soon_until = now, now + _SWEEP_SOON_FOR
        worker_log.warning("Child %d: %s; trying again.", self.slot, store.brief(error))
        self.record.tick()
        self._read_orders(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(self._pause * 2, _PAUSE_LAST)


class _Claiming(NamedTuple):
    """A claim under way."""

    token: str
    epoch: int
    lanes: list[Lane]
    look: Look
    cursor: db.Cursor
