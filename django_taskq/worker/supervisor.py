"""`manage.py taskworker`: a worker's first process. Starts the others, watches them, stops them.

Runs no task. One thread, one loop, one database connection: a tick a second (where is work?), a
beat every five for itself and all children. Signals from outside arrive here only.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg

from django_taskq import clocks, conf, db, registry
from django_taskq.events import worker_log
from django_taskq.transitions import claim, operate
from django_taskq.transitions import presence as rows
from django_taskq.worker import opening
from django_taskq.worker.children import Children
from django_taskq.worker.expiry import Expiry
from django_taskq.worker.lanes import QueueChoice
from django_taskq.worker.listener import Listener
from django_taskq.worker.opening import EXIT_ERROR, EXIT_NO_DATABASE, EXIT_OK
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.presence import Presence
from django_taskq.worker.pruner import Pruner
from django_taskq.worker.reload import Reload, hold_signals, start_anew
from django_taskq.worker.signals import StopSignals
from django_taskq.worker.solo import SoloNursery
from django_taskq.worker.store import brief
from django_taskq.worker.vitals import Vitals

# The least time between looks for work, however many tasks become due; when to look after a hint.
_TICK_AGAIN, _TICK_AFTER_HINT = 0.02, 0.1
# Hints are heard at most so often, as processes that enqueue send them: anybody may NOTIFY.
_HEAR_AGAIN = 0.005
# Between tries to reach a database that is away.
_PAUSE_FIRST, _PAUSE_LAST = 0.1, 2.0
# After the grace time of a stop: to settle what killed children held, if the database answers.
_SETTLE = 2.0


class Supervisor:
    """One worker."""

    def __init__(
        self, options: WorkerOptions, say: Callable[[str], None], solo: SoloNursery | None = None
    ) -> None:
        self.options = options
        # Writes a line to the terminal.
        self.say = say
        self.id = str(uuid4())
        self.choice = QueueChoice(options.queues, options.excluded)
        self.signals = StopSignals()
        self.solo = solo
        self.children = Children(options, self.id, solo)
        self.presence = Presence(self.id)
        self.pruner = Pruner(conf.get().retention)
        self.expiry = Expiry()
        self.vitals = Vitals(options, self.children)
        self.reload = Reload(say) if options.reload else None
        self.listener = Listener(options, self.id)
        self.exit_code = EXIT_OK
        # Set once a stop was asked for: when children that still live are killed.
        self._stop_until: float | None = None
        self._starts_anew = False
        self._connection: db.Connection | None = None
        self._connect_at = 0.0
        self._pause = _PAUSE_FIRST
        self._has_arrived = False
        self._tick_at = self._beat_at = 0.0
        # There was work, and nobody to do it: the next who can take more is told at once.
        self._has_missed_work = False
        # Until when hints wait.
        self._deaf_until = 0.0

    # --- start and end ---------------------------------------------------------------------------

    def run(self) -> int:
        """Run until asked to stop, or until there is nothing to do; return an exit code.

        After a change of code (--reload) it does not return: the process starts anew. Raise
        NurseryFailed if the project cannot be loaded.
        """
        if self.solo is None:
            self.signals.install()
        try:
            code = opening.wait_for_database(self._connect, self.options, self.signals)
            if code is not None:
                self.exit_code = code
            elif self._start_nursery():
                while not self._is_over():
                    self._loop()
        finally:
            if self._starts_anew:
                hold_signals()
                self.signals.drain()
            self._leave()
            if self.solo is None:
                self.signals.restore()
        if self._starts_anew and not self.signals.count:
            start_anew()
        return self.exit_code

    def _arrive(self, connection: db.Connection) -> None:
        """Make this worker known, and say so."""
        text = opening.banner_of(connection, self.options)
        opening.arrive(connection, self.id, self.options)
        self._has_arrived = True
        self.say(text)

    def _is_over(self) -> bool:
        """Say whether a stop is complete: no child, and nothing left to settle (or no way to)."""
        if self._starts_anew:
            return True
        if self._stop_until is None or not self.children.are_gone:
            return False
        late = time.monotonic() > self._stop_until + _SETTLE
        aftermath = self.children.aftermath
        cannot_settle = self._connection is None or aftermath.is_held_up
        return not aftermath.waits or (cannot_settle and late)

    def _leave(self) -> None:
        """End the nursery; take our row off the list if the database answers."""
        self.vitals.close()
        if self.reload is not None:
            self.reload.close()
        if self.children.nursery is not None:
            self.children.nursery.close()
        if self._connection is not None and not self._connection.closed:
            with contextlib.suppress(psycopg.Error):
                rows.leave(self._connection, [self.id])
            self._connection.close()
        self.listener.forget()

    # --- the loop --------------------------------------------------------------------------------

    def _loop(self) -> None:
        """Do what is due, then sleep until somebody or something wakes us."""
        now = time.monotonic()
        self.vitals.loop(now)
        self._obey_signals(now)
        self.children.watch(now)
        if self.children.cannot_load and not self._is_stopping:
            self.exit_code = EXIT_ERROR
            self._stop(grace=0.0)
        if self.reload is not None and not self._is_stopping:
            self._reload_if_changed(self.reload, now)
        try:
            self._talk_to_database(now)
        except psycopg.Error as error:
            if self._connection is not None and isinstance(error, db.Contention):
                # Others were in the way; the connection is none the worse.
                db.roll_back(self._connection)
                worker_log.warning("%s; trying again.", brief(error))
            elif db.is_trouble(error, self._connection):
                self._lose_connection(error)
            else:
                raise
        self._sleep(now)

    def _talk_to_database(self, now: float) -> None:
        """Do what is due on our connection; any of it may find the database gone."""
        if self._connection is None and now < self._connect_at:
            return
        connection = self._connect()
        if not self._has_arrived:
            self._arrive(connection)
        if now >= self._beat_at:
            self._beat(connection, now)  # first: whatever goes wrong below, we are there
        if not self._is_leaving:
            self.listener.tend(now)
        if not self._is_leaving:
            self.children.fill(connection, now)
        if self.children.aftermath.settle(connection):
            self._tick_at = 0.0  # for others to take what was put back
        if now >= self.presence.sweep_at and self.presence.sweep(connection):
            self._tick_at = 0.0
        if now >= self._tick_at:
            self._tick_at = now + clocks.TICK  # an error in it must not be repeated at once
            self._tick(connection)
        if now >= self.pruner.next_at and not self._is_leaving:
            self.pruner.prune(connection)
        if now >= self.expiry.next_at and not self._is_leaving:
            self.expiry.end_expired(connection)
        if self._pause > _PAUSE_FIRST:
            self._pause = _PAUSE_FIRST
            worker_log.info("The database answers again.")
        # What arrived together with an answer is in psycopg's hands, and no socket tells of it.
        if self.listener.connection is not None:
            self._hear_hints(self.listener.connection)

    def _sleep(self, now: float) -> None:
        """Wait for signals, news of children, hints, or the next thing that is due."""
        children, nursery, reload = self.children, self.children.nursery, self.reload
        sources: list[Any] = [self.signals.wake, children.bell_read]
        # Most often one and the same.
        connections = {c for c in (self._connection, self.listener.connection) if c is not None}
        deaf = max(0.0, self._deaf_until - time.monotonic())
        if deaf:
            connections.discard(self.listener.connection)
        sources += connections
        if nursery is not None:
            sources.append(nursery.socket)
        if reload is not None:
            sources.append(reload.watch.wake)
        pause = max(0.0, self._wake_at(now) - time.monotonic())
        readable, _, _ = select.select(sources, [], [], min(pause, deaf) if deaf else pause)
        if self.signals.wake in readable:
            self.signals.drain()
        if reload is not None and reload.watch.wake in readable:
            reload.watch.drain()
        if nursery is not None and nursery.socket in readable and not children.hear_nursery():
            self._replace_nursery()
        if self.solo is not None and self.solo.is_abandoned and not self._is_stopping:
            worker_log.error("This worker ends, because its only process is in that task.")
            self.exit_code = EXIT_ERROR
            self._stop(grace=0.0)
        if children.bell_read in readable:
            self._answer_bell(os.read(children.bell_read, 4096).decode())
        for connection in connections.intersection(readable):
            # Reading takes a moment, and most often it is a hint.
            is_hint = connection is self.listener.connection and not self._is_leaving
            if is_hint:
                self._has_missed_work = not self.children.wake_one("h")
                self._deaf_until = time.monotonic() + _HEAR_AGAIN
            self._hear_hints(connection, is_told=is_hint)

    def _wake_at(self, now: float) -> float:
        filling = self._connection is not None and not self._is_leaving
        moments = [self.children.wake_at(now, filling=filling), self.vitals.next_at]
        if self.reload is not None and self.reload.is_under_way:
            moments.append(self.reload.wake_at(now))
        if self._connection is None:
            moments.append(self._connect_at)
        else:
            moments += [self._tick_at, self._beat_at, self.presence.sweep_at]
            if not self._is_leaving:
                moments += [self.pruner.next_at, self.expiry.next_at]
                if (listener_at := self.listener.wake_at()) is not None:
                    moments.append(listener_at)
        if self._stop_until is not None:
            if self.children.are_gone:
                moments.append(now + 0.05)
            elif self._stop_until > now:
                moments.append(self._stop_until)
        if self.children.aftermath.waits and self._connection is not None:
            moments.append(self.children.aftermath.settle_at)
        return min(moments)

    # --- the database ----------------------------------------------------------------------------

    def _connect(self) -> db.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = db.worker_connection(
                self.options.database, name="taskworker", answer_within=clocks.ANSWER
            )
            self.listener.use(self._connection)
        return self._connection

    def _lose_connection(self, error: psycopg.Error) -> None:
        if self._connection is not None:
            if self.listener.connection is self._connection:
                self.listener.forget()
            self._connection.close()
            self._connection = None
        self._beat_at = 0.0  # first of all when it answers again
        self.vitals.lost_database()
        worker_log.warning("%s; trying again.", brief(error))
        self._connect_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, _PAUSE_LAST)

    def _beat(self, connection: db.Connection, now: float) -> None:
        """Show that this worker lives, and put back what waited for names that it knows."""
        self._beat_at = now + clocks.TICK  # an error in it must not be repeated at once
        if self.presence.is_declared_dead:
            return
        db.forget_plans(connection)
        known = self.presence.beat(connection, self.children.listed)
        self._beat_at = now + clocks.BEAT
        self.vitals.answered(time.monotonic())
        if self.presence.is_declared_dead:
            worker_log.error("This worker was declared dead by another one; stopping.")
            self.exit_code = EXIT_NO_DATABASE
            self._stop(grace=self.options.shutdown_timeout)
            return
        self.children.replace_unknown(known)
        if not self._is_leaving:
            resumed = operate.resume_known(connection, registry.known_names())
            if resumed:
                worker_log.info("Put %d held task(s) back: their name is known now.", resumed)

    def _start_nursery(self) -> bool:
        return self.children.start_nursery(self.signals.wake, self._keep_beating)

    def _keep_beating(self) -> None:
        """Beat while the loop waits for a nursery that loads the project anew."""
        now = time.monotonic()
        if not self._has_arrived or now < max(self._beat_at, self._connect_at):
            return
        try:
            self._beat(self._connect(), now)
        except db.Trouble as error:
            self._lose_connection(error)

    def _tick(self, connection: db.Connection) -> None:
        """Ask where work is, and wake one idle child to do it; pass on what is to end."""
        claims = self.children.claims if self.children.are_idle else -1
        children = [slot.worker_id for slot in self.children.living()]
        lanes, suspects, cancelled = claim.tick(connection, children)
        self.children.ask_to_end(cancelled)
        if self._is_leaving:
            return
        if self.children.budget.left == 0:
            self._end_burst(claims)
            return
        suspect_waits = any(self.choice.serves(queue_name) for queue_name in suspects)
        served = [tick for tick in lanes if self.choice.serves(tick.lane.queue_name)]
        is_due = any(tick.is_due for tick in served)
        # A task that becomes due before the next second begins is not kept waiting for that.
        soon = min((tick.due_in for tick in served if tick.due_in is not None), default=clocks.TICK)
        self._tick_at = time.monotonic() + min(clocks.TICK, max(soon, _TICK_AGAIN))
        if is_due:
            self._has_missed_work = not self.children.wake_one("w")
        if suspect_waits:
            self.children.wake_any("x")
        if not is_due and not suspect_waits:
            self._end_burst(claims)

    def _hear_hints(self, connection: db.Connection, *, is_told: bool = False) -> None:
        """Read notifications; one is as good as many. Data on another connection is its end.

        `is_told`: a child was woken already.
        """
        try:
            if connection is self.listener.connection:
                heard = self.listener.hear()
            else:
                heard = bool(list(connection.notifies(timeout=0)))
        except db.Trouble as error:
            self._lose_connection(error)
            return
        if heard:
            self._deaf_until = time.monotonic() + _HEAR_AGAIN
        if heard and not self._is_leaving:
            if not is_told:
                self._has_missed_work = not self.children.wake_one("h")
            # What was enqueued for later than now is for the tick to know.
            self._tick_at = min(self._tick_at, time.monotonic() + _TICK_AFTER_HINT)

    # --- children --------------------------------------------------------------------------------

    def _answer_bell(self, news: str) -> None:
        """A child has found more than it can take, or has become idle."""
        if ("m" in news or self._has_missed_work) and not self._is_leaving:
            self._has_missed_work = not self.children.wake_one("w")
        elif (self.options.burst or self.options.max_tasks) and self.children.are_idle:
            self._tick_at = 0.0  # is that all?

    def _end_burst(self, claims_before: int) -> None:
        """Stop if nothing is left to do, and that was asked for.

        `claims_before` is the count of claims before the tick that found nothing, or -1 if some
        child was busy then: it might have enqueued more.
        """
        spent = self.children.budget.left == 0
        if not (self.options.burst or spent) or claims_before < 0:
            return
        children = self.children
        if children.are_idle and children.claims == claims_before and not children.aftermath.waits:
            self._stop(grace=self.options.shutdown_timeout)

    def _replace_nursery(self) -> None:
        if not self._is_leaving:
            worker_log.error("The nursery died; its children die with it, and it is started anew.")
        self.children.bury_all()
        if not self._is_leaving and not self._start_nursery():
            self._stop(grace=0.0)

    # --- stop and start anew ---------------------------------------------------------------------

    @property
    def _is_leaving(self) -> bool:
        """Say whether this process, or its code, is on its way out: nothing more begins."""
        return self._is_stopping or (self.reload is not None and self.reload.is_under_way)

    def _reload_if_changed(self, reload: Reload, now: float) -> None:
        if reload.begins(now, self.children):
            self.vitals.reload()
        elif reload.is_under_way:
            settled = not self.children.aftermath.waits
            self._starts_anew = reload.is_done(now, self.children, settled=settled)

    @property
    def _is_stopping(self) -> bool:
        return self._stop_until is not None

    def _obey_signals(self, now: float) -> None:
        count = self.signals.count
        if count >= 2:
            self._stop(grace=0.0)
        elif count == 1 and not self._is_stopping:
            self._stop(grace=self.options.shutdown_timeout)
        if self._stop_until is not None:
            # A child that was being forked when the stop began is told here.
            self.children.stop()
            if now >= self._stop_until:
                self.children.kill()

    def _stop(self, *, grace: float) -> None:
        """Let children finish what runs; after the grace time they are killed."""
        now = time.monotonic()
        if self._stop_until is None:
            running = self.children.running(now)
            if running and grace:
                worker_log.info(
                    "Stopping: %d running task(s) get %g s; once more to stop now.", running, grace
                )
            self._stop_until = now + grace
            self.vitals.stop()
            self.children.stop()
        self._stop_until = min(self._stop_until, now + grace)
