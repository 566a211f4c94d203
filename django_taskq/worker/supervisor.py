"""`manage.py taskworker`: starts the nursery and its children, watches them, and stops them.

Runs no task. One thread, one loop, one database connection: a tick a second (where is work?), a
beat every five for itself and all children. Signals from outside arrive here only.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import uuid4

import psycopg

from django_taskq import __version__, db, registry
from django_taskq.events import worker_log
from django_taskq.transitions import claim, operate, presence
from django_taskq.transitions.enqueue import CHANNEL
from django_taskq.worker.aftermath import Aftermath, Death
from django_taskq.worker.console import banner
from django_taskq.worker.fork import Nursery, NurseryDied
from django_taskq.worker.lanes import QueueChoice
from django_taskq.worker.nursery import kill_group
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.record import Record, SharedMemory
from django_taskq.worker.signals import StopSignals
from django_taskq.worker.store import brief

# Seconds between looks for work, between beats, and between looks at busy children.
_TICK, _BEAT, _WATCH = 1.0, 5.0, 0.25
# The least time between looks, however many tasks become due.
_TICK_AGAIN, _TICK_AFTER_HINT = 0.02, 0.1
# A task that has run for this long, or a feeder silent for this long, does not keep others waiting.
_STUCK = 1.0
_PAUSE_FIRST, _PAUSE_LAST = 0.1, 2.0
# A child that died this soon after its start is replaced after a pause.
_TOO_SOON, _FORK_PAUSE = 1.0, 1.0
# A nursery that is killed before it is ready (for its memory, say) is started so often in all.
_NURSERY_STARTS = 5

EXIT_OK, EXIT_ERROR, EXIT_NO_DATABASE = 0, 1, 75


@dataclass
class Slot:
    """A place for a child: its record and its pipe stay, the child in it may change."""

    number: int
    record: Record
    # Orders to the child: the end that it reads, and ours.
    read: int
    write: int
    worker_id: str = ""
    pid: int = 0
    forked_at: float = 0.0
    fork_not_before: float = 0.0
    # Killed by us: for its time limit, or because the grace time of a stop is over.
    killed_for: str = ""

    @property
    def is_taken(self) -> bool:
        """Say whether a child lives here, or is being forked."""
        return bool(self.worker_id)


class Supervisor:
    """One worker."""

    def __init__(self, options: WorkerOptions, say: Callable[[str], None]) -> None:
        self.options = options
        # Writes a line to the terminal.
        self.say = say
        self.id = str(uuid4())
        self.choice = QueueChoice(options.queues, options.excluded)
        self.signals = StopSignals()
        self.memory = SharedMemory.create(options.concurrency)
        self.memory.budget.create(options.max_tasks or -1)
        self.slots = [
            Slot(number, record, *_pipe()) for number, record in enumerate(self.memory.records)
        ]
        # Children ring it: "wake another one too", "I am idle".
        self.bell_read, self.bell_write = _pipe()
        self.nursery: Nursery | None = None
        self.aftermath = Aftermath(options)
        self.stop_until: float | None = None
        self.exit_code = EXIT_OK
        self._connection: db.Connection | None = None
        self._connect_at = 0.0
        self._pause = _PAUSE_FIRST
        self._tick_at = self._beat_at = 0.0
        self._has_arrived = False

    # --- start -----------------------------------------------------------------------------------

    def run(self) -> int:
        """Run until asked to stop, or until there is nothing to do; return an exit code."""
        self.signals.install()
        try:
            if not self._wait_for_database() or not self._start_nursery():
                return self.exit_code
            while not self._is_over():
                self._loop()
            return self.exit_code
        finally:
            self._leave()
            self.signals.restore()

    def _wait_for_database(self) -> bool:
        """Connect; a database that is down is waited for, but not for ever."""
        deadline = time.monotonic() + self.options.database_wait
        told = False
        while not self.signals.count:
            try:
                if not presence.tables_exist(self._connect()):
                    worker_log.error(
                        "The database %r has no tables of django_taskq: run manage.py migrate.",
                        self.options.database,
                    )
                    self.exit_code = EXIT_ERROR
                    return False
                return True
            except psycopg.OperationalError as error:
                if time.monotonic() >= deadline:
                    worker_log.error(
                        "No database after %g s: %s", self.options.database_wait, brief(error)
                    )
                    self.exit_code = EXIT_NO_DATABASE
                    return False
                if not told:
                    worker_log.warning(
                        "The database %r cannot be reached (%s); waiting up to %g s for it.",
                        self.options.database,
                        brief(error),
                        self.options.database_wait,
                    )
                    told = True
            select.select([self.signals.wake], [], [], 0.5)
            self.signals.drain()
        return False

    def _start_nursery(self) -> bool:
        """Start the nursery; False if a stop was asked for first. Raise NurseryFailed."""
        keep = [self.memory.fd, self.bell_write, *(slot.read for slot in self.slots)]
        for attempt in count(1):
            self.nursery = Nursery(keep)
            try:
                threads = self.nursery.wait_until_ready(self.signals.wake)
                break
            except NurseryDied as death:
                self.nursery.close()
                if attempt == _NURSERY_STARTS:
                    raise
                worker_log.error("%s; starting it anew.", death)
                select.select([self.signals.wake], [], [], _FORK_PAUSE)
        if threads is None:
            return False
        if threads:
            worker_log.warning(
                "The project starts threads when it is loaded (%s); they do not run in children.",
                ", ".join(threads),
            )
        return True

    def _facts(self, connection: db.Connection) -> dict[str, object]:
        major, minor = divmod(connection.info.server_version, 10_000)
        waiting = claim.count_waiting(connection)
        known = len(registry.names())
        return {
            "version": __version__,
            "database": connection.info.dbname,
            "postgresql": f"{major}.{minor}",
            "host": socket.gethostname(),
            "tasks": f"{known} task{'s' if known != 1 else ''}",
            "waiting": f"{waiting:,}" + ("+" if waiting >= claim.COUNT_LIMIT else ""),
        }

    def _arrive(self, connection: db.Connection) -> None:
        """Make this worker known, and say so."""
        text = banner(self.options, self._facts(connection))
        presence.arrive(
            connection,
            id=self.id,
            kind="SUPERVISOR",
            parent_id=None,
            host=socket.gethostname(),
            pid=os.getpid(),
            info={
                "queues": list(self.options.queues),
                "excluded": list(self.options.excluded),
                "concurrency": self.options.concurrency,
                "pool": "processes",
            },
        )
        self._has_arrived = True
        self.say(text)

    # --- the loop --------------------------------------------------------------------------------

    def _loop(self) -> None:
        """Do what is due, then sleep until somebody or something wakes us."""
        now = time.monotonic()
        self._obey_signals(now)
        self._watch_children(now)
        try:
            self._talk_to_database(now)
        except psycopg.OperationalError as error:
            self._lose_connection(error)
        self._fill_slots(now)
        self._sleep(now)

    def _sleep(self, now: float) -> None:
        assert self.nursery is not None
        until = self._wake_at(now)
        sources: list[Any] = [self.signals.wake, self.nursery.socket, self.bell_read]
        if self._connection is not None and not self._connection.closed:
            sources.append(self._connection)
        readable, _, _ = select.select(sources, [], [], max(0.0, until - time.monotonic()))
        if self.signals.wake in readable:
            self.signals.drain()
        if self.nursery.socket in readable:
            self._hear_nursery()
        if self.bell_read in readable:
            self._answer_bell(os.read(self.bell_read, 4096).decode())
        if self._connection is not None and self._connection in readable:
            self._hear_hints()

    def _wake_at(self, now: float) -> float:
        moments = [self._tick_at, self._beat_at]
        if self._connection is None:
            moments = [self._connect_at]
        if self.aftermath.waits and self._connection is not None:
            moments.append(now + 0.05)
        if self.stop_until is not None:
            moments.append(min(self.stop_until, now + _WATCH))
        for slot in self.slots:
            if slot.fork_not_before > now and not slot.is_taken:
                moments.append(slot.fork_not_before)
            if slot.pid and not slot.record.is_idle:
                moments.append(now + _WATCH)
                if slot.record.deadline:
                    moments.append(slot.record.deadline)
        return min(moments)

    # --- the database ----------------------------------------------------------------------------

    def _talk_to_database(self, now: float) -> None:
        if self._connection is None and now < self._connect_at:
            return
        connection = self._connect()
        if not self._has_arrived:
            self._arrive(connection)
        self.aftermath.settle(connection)
        if now >= self._beat_at:
            self._beat_at = now + _BEAT
            self._beat(connection)
        if now >= self._tick_at:
            self._tick_at = now + _TICK  # an error in it must not be repeated at once
            self._tick(connection)
        if self._pause > _PAUSE_FIRST:
            worker_log.info("The database answers again.")
            self._pause = _PAUSE_FIRST

    def _connect(self) -> db.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = db.worker_connection(self.options.database, name="taskworker")
            if self.options.listen:
                self._connection.execute(f"LISTEN {CHANNEL}")
        return self._connection

    def _lose_connection(self, error: psycopg.OperationalError) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        worker_log.warning("%s; trying again.", brief(error))
        self._connect_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, _PAUSE_LAST)

    def _beat(self, connection: db.Connection) -> None:
        """Show that this worker lives, and put back what waited for names that it knows."""
        ids = [self.id, *(slot.worker_id for slot in self.slots if slot.pid)]
        known = presence.beat(connection, ids)
        if self.id not in known:
            worker_log.error("This worker was declared dead by another one; stopping.")
            self.exit_code = EXIT_NO_DATABASE
            self._stop(time.monotonic(), grace=self.options.shutdown_timeout)
            return
        for slot in self.slots:
            if slot.pid and slot.worker_id not in known:
                worker_log.error("Child %d is not known any more; replacing it.", slot.number)
                kill_group(slot.pid)
        if not self._is_stopping:
            resumed = operate.resume_known(connection, registry.names())
            if resumed:
                worker_log.info("Put %d held task(s) back: their name is known now.", resumed)

    def _tick(self, connection: db.Connection) -> None:
        """Ask where work is, and wake one idle child to do it."""
        if self._is_stopping:
            return
        claims_before = self._claims() if self._all_idle() else -1
        lanes, suspect_waits = claim.tick(connection)
        served = [tick for tick in lanes if self.choice.serves(tick.lane.queue_name)]
        due = any(tick.is_due for tick in served)
        # A task that becomes due before the next second begins is not kept waiting for that.
        soon = min((tick.due_in for tick in served if tick.due_in is not None), default=_TICK)
        self._tick_at = time.monotonic() + min(_TICK, max(soon, _TICK_AGAIN))
        if due:
            self._order_idle("w")
        if suspect_waits:
            self._order_any("x")
        if not due and not suspect_waits:
            self._end_burst(claims_before)

    def _hear_hints(self) -> None:
        """Read notifications; one is as good as many."""
        assert self._connection is not None
        try:
            hints = list(self._connection.notifies(timeout=0))
        except psycopg.OperationalError as error:
            self._lose_connection(error)
            return
        if hints and not self._is_stopping:
            self._order_idle("h")
            # What was enqueued for later than now is for the tick to know.
            self._tick_at = min(self._tick_at, time.monotonic() + _TICK_AFTER_HINT)

    # --- children --------------------------------------------------------------------------------

    def _fill_slots(self, now: float) -> None:
        """Order a child for every empty place."""
        if self._is_stopping or self._connection is None or not self._has_arrived:
            return
        for slot in self.slots:
            if not slot.is_taken and now >= slot.fork_not_before:
                self._fork(slot, now)

    def _fork(self, slot: Slot, now: float) -> None:
        assert self.nursery is not None
        worker_id = str(uuid4())
        try:
            presence.arrive(
                self._connect(),
                id=worker_id,
                kind="CHILD",
                parent_id=self.id,
                host=socket.gethostname(),
                pid=0,
                info={"slot": slot.number},
            )
        except psycopg.OperationalError as error:
            self._lose_connection(error)
            return
        _empty(slot.read)
        slot.record.reset()
        slot.worker_id, slot.pid, slot.killed_for = worker_id, 0, ""
        slot.forked_at = now
        self.nursery.fork(
            {
                "options": self.options.to_json(),
                "memory": self.memory.fd,
                "children": len(self.slots),
                "slot": slot.number,
                "worker_id": worker_id,
                "orders": slot.read,
                "bell": self.bell_write,
            }
        )

    def _hear_nursery(self) -> None:
        assert self.nursery is not None
        for message in self.nursery.messages():
            if "started" in message:
                self._note_started(self.slots[message["slot"]], message["started"])
            elif "died" in message:
                self._note_death(self.slots[message["slot"]], message["status"])
            elif "lost" in message:
                self._replace_nursery()

    def _note_started(self, slot: Slot, pid: int) -> None:
        slot.pid = pid
        try:
            presence.set_pid(self._connect(), id=slot.worker_id, pid=pid)
        except psycopg.OperationalError as error:
            self._lose_connection(error)  # the pid is for people only
        if self._is_stopping:
            self._order(slot, "s")

    def _note_death(self, slot: Slot, status: int | None) -> None:
        """Take note of a reaped child; what it held is settled as soon as the database answers."""
        now = time.monotonic()
        held = slot.record.holdings()
        death = Death(
            worker_id=slot.worker_id,
            slot=slot.number,
            pid=slot.pid,
            status=status,
            held=held,
            killed_for=slot.killed_for,
        )
        self.memory.budget.put_back(len(held.unstarted))
        if not death.is_clean or not self._is_stopping:
            death.log()
        self.aftermath.add(death)
        if now - slot.forked_at < _TOO_SOON and held.running is None:
            slot.fork_not_before = now + _FORK_PAUSE
        slot.worker_id, slot.pid, slot.killed_for = "", 0, ""

    def _replace_nursery(self) -> None:
        """The nursery died: its children are gone before anything else is done."""
        assert self.nursery is not None
        worker_log.error("The nursery died; its children die with it, and it is started anew.")
        for slot in self.slots:
            if slot.is_taken:
                if slot.pid:
                    kill_group(slot.pid)
                    _wait_until_gone(slot.pid)
                self._note_death(slot, None)
        self.nursery.close()
        if self._is_stopping:
            return
        if not self._start_nursery():
            self._stop(time.monotonic(), grace=0.0)

    def _watch_children(self, now: float) -> None:
        """Enforce hard time limits; take waiting tasks from children that cannot give them back."""
        for slot in self.slots:
            if not slot.pid or slot.record.is_idle or slot.killed_for:
                continue
            deadline = slot.record.deadline
            if deadline and now >= deadline:
                slot.killed_for = "timeout"
                kill_group(slot.pid)
            elif self._is_stuck(slot, now):
                self._relieve(slot)

    def _is_stuck(self, slot: Slot, now: float) -> bool:
        record = slot.record
        if not record.unstarted and not record.has_claim_under_way:
            return False
        return record.running_for(now) >= _STUCK or (
            bool(record.unstarted) and record.silent_for(now) >= _STUCK
        )

    def _relieve(self, slot: Slot) -> None:
        """Give back what waits behind a long task."""
        held = slot.record.take_unstarted()
        if held is not None:
            self.memory.budget.put_back(len(held.unstarted))
            self.aftermath.give_back(slot.worker_id, held)

    # --- orders ----------------------------------------------------------------------------------

    def _order(self, slot: Slot, order: str) -> None:
        with contextlib.suppress(BlockingIOError):  # it has more orders waiting than it can read
            os.write(slot.write, order.encode())

    def _order_idle(self, order: str) -> bool:
        """Tell one idle child; say whether there was one."""
        for slot in self.slots:
            if slot.pid and slot.record.is_idle and slot.record.is_ready:
                self._order(slot, order)
                return True
        return False

    def _order_any(self, order: str) -> None:
        """Tell an idle child, or else the first."""
        if not self._order_idle(order):
            for slot in self.slots[:1]:
                self._order(slot, order)

    def _answer_bell(self, news: str) -> None:
        """A child has found more than it can take, or has become idle."""
        if self._is_stopping:
            return
        if "m" in news:
            self._order_idle("w")
        elif (self.options.burst or self.options.max_tasks) and self._all_idle():
            self._tick_at = 0.0  # is that all?

    # --- stop ------------------------------------------------------------------------------------

    @property
    def _is_stopping(self) -> bool:
        return self.stop_until is not None

    def _obey_signals(self, now: float) -> None:
        count = self.signals.count
        if count >= 2:
            self._stop(now, grace=0.0)
        elif count == 1 and not self._is_stopping:
            self._stop(now, grace=self.options.shutdown_timeout)
        if self.stop_until is not None and now >= self.stop_until:
            self._kill_all()

    def _stop(self, now: float, *, grace: float) -> None:
        """Ask children to finish what runs; after the grace time they are killed."""
        until = now + grace
        if self.stop_until is None:
            running = sum(1 for slot in self.slots if slot.record.running_for(now))
            if running and grace:
                worker_log.info(
                    "Stopping: %d running task(s) get %g s; once more to stop now.", running, grace
                )
            for slot in self.slots:
                if slot.pid:
                    self._order(slot, "s")
            self.stop_until = until
        self.stop_until = min(self.stop_until, until)

    def _kill_all(self) -> None:
        for slot in self.slots:
            if slot.pid and not slot.killed_for:
                slot.killed_for = "stop"
                kill_group(slot.pid)

    def _end_burst(self, claims_before: int) -> None:
        """Stop if there is nothing to do any more, and that was asked for."""
        spent = self.memory.budget.left == 0
        if not (self.options.burst or spent) or claims_before < 0 or self.aftermath.waits:
            return
        if self._all_idle() and self._claims() == claims_before:
            self._stop(time.monotonic(), grace=self.options.shutdown_timeout)

    def _all_idle(self) -> bool:
        """Say whether every child is up and has nothing in hand."""
        return all(slot.pid and slot.record.is_ready and slot.record.is_idle for slot in self.slots)

    def _claims(self) -> int:
        return sum(slot.record.claimed for slot in self.slots)

    def _is_over(self) -> bool:
        """Say whether a stop is complete: no child, and nothing left to settle (or no way to)."""
        if not self._is_stopping or any(slot.is_taken for slot in self.slots):
            return False
        assert self.stop_until is not None
        late = time.monotonic() > self.stop_until + 2.0
        return not self.aftermath.waits or (self._connection is None and late)

    def _leave(self) -> None:
        """Close what is open; take our rows off the list if the database answers."""
        if self.nursery is not None:
            self.nursery.close()
        if self._connection is not None and not self._connection.closed:
            with contextlib.suppress(psycopg.Error):
                presence.leave(self._connection, [self.id])
            self._connection.close()


def _pipe() -> tuple[int, int]:
    """Make a pipe whose ends never block."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write


def _empty(read: int) -> None:
    """Drop orders that the last child did not live to read."""
    with contextlib.suppress(BlockingIOError):
        while os.read(read, 4096):
            pass


def _wait_until_gone(pid: int) -> None:
    """Wait until a process that was killed is gone, even if nobody reaps it."""
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            select.select([fd], [], [], 5.0)
            os.close(fd)
        return
    deadline = time.monotonic() + 5.0
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.01)
