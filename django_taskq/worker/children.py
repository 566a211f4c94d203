"""The children of one worker: fork them, watch them, order them about, notice when they die."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from uuid import uuid4

from django_taskq.db import Connection
from django_taskq.events import one_line, worker_log
from django_taskq.transitions import presence
from django_taskq.worker.aftermath import Aftermath, Death
from django_taskq.worker.fork import Nursery, NurseryDied
from django_taskq.worker.guard import Guard, wait_until_gone
from django_taskq.worker.nursery import EXIT_NOT_LOADED, kill_group, kill_rest
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.record import Record
from django_taskq.worker.shared_memory import SharedMemory
from django_taskq.worker.solo import SoloNursery

# Seconds between looks at busy children.
_WATCH = 0.25
# A task that has run for this long, or a feeder silent for this long, does not keep others waiting.
_STUCK = 1.0
# A child that died this soon after its start, without a task to blame, is replaced after a pause.
_TOO_SOON, _PAUSE = 1.0, 1.0
# A nursery that is killed before it is ready (for its memory, say) is started so often in all.
_NURSERY_STARTS = 5
# Children that may be on their way out with a task that hangs, beside the one that runs tasks.
_SPARE = 3


@dataclass
class Slot:
    """A place for a child: its record and its pipe stay, the child in it may change."""

    number: int
    record: Record
    # The pipe of its orders: the end that the child reads, and ours.
    read: int
    write: int
    # Set while a child lives here, or is being forked.
    worker_id: str = ""
    # Of the next child, once we have tried to make it known.
    next_id: str = ""
    # Known once it was forked.
    pid: int = 0
    pid_is_noted: bool = False
    forked_at: float = 0.0
    fork_not_before: float = 0.0
    # The tasks of which the child knows that somebody has asked them to end.
    asked: set[str] = field(default_factory=set)
    # "timeout" or "stop", once we have killed it.
    killed_for: str = ""
    # What ran, over its hard time limit, when we killed it for that.
    overdue: tuple[str, ...] = ()


class Children:
    """A nursery and what it brought up."""

    def __init__(
        self, options: WorkerOptions, parent_id: str, solo: SoloNursery | None = None
    ) -> None:
        self.options = options
        # Takes the place of a nursery where everything is one process.
        self.solo = solo
        self.parent_id = parent_id
        # A child whose task hangs may take long to end: its replacement needs a slot of its own.
        spare = _SPARE if options.places else 0
        memory = SharedMemory.create(options.children + spare, options.places)
        self.memory = memory
        self.budget = memory.budget
        self.budget.create(options.max_tasks or -1)
        self.slots = [
            Slot(number, record, *_pipe()) for number, record in enumerate(memory.records)
        ]
        # They ring it: "there is more work than I can take", "I am idle".
        self.bell_read, self.bell_write = _pipe()
        self.aftermath = Aftermath(options)
        self.nursery: Nursery | SoloNursery | None = None
        self._guard = Guard()
        self._guard_at = 0.0
        # Without preloading: no child has ever come up, and one has said that it cannot.
        self.cannot_load = False
        self._has_come_up = False
        self._turn = self._next_busy = 0

    # --- the nursery -----------------------------------------------------------------------------

    def start_nursery(self, stop: socket.socket, meanwhile: Callable[[], None]) -> bool:
        """Start the nursery; False if `stop` became readable first. Raise NurseryFailed.

        `meanwhile` is called about once a second: to load a project may take long.
        """
        keep = [self.memory.fd, self.bell_write, *(slot.read for slot in self.slots)]
        threads: list[str] | None = None
        for attempt in count(1):
            self.nursery = self.solo or Nursery(keep, preload=self.options.preload)
            try:
                threads = self.nursery.wait_until_ready(stop, meanwhile)
                break
            except NurseryDied as death:
                self.nursery.close()
                if attempt == _NURSERY_STARTS:
                    raise
                worker_log.error("%s; starting it anew.", death)
                select.select([stop], [], [], _PAUSE)
        if threads:
            worker_log.warning(
                "The project starts threads when it is loaded (%s); they do not run in children.",
                one_line(", ".join(threads), 500),
            )
        if self.nursery is not None and self.nursery.shared:
            worker_log.warning(
                "The project opens connections when it is loaded (to %s); children share them, and "
                "read one another's answers. Open them where they are first used.",
                one_line(", ".join(self.nursery.shared), 500),
            )
        return threads is not None

    def hear_nursery(self) -> bool:
        """Take in what the nursery says; False when it is gone."""
        assert self.nursery is not None
        for message in self.nursery.messages():
            if "started" in message:
                self.slots[message["slot"]].pid = message["started"]
            elif "died" in message:
                slot = self.slots[message["slot"]]
                if slot.worker_id:  # a solo worker's may have been given up on before
                    self._bury(slot, message["status"])
            elif "lost" in message:
                return False
        return True

    def close_nursery(self) -> None:
        """End the nursery; there are no children."""
        assert self.nursery is not None
        self.nursery.close()
        self.nursery = None

    def bury_all(self) -> None:
        """The nursery is gone, and its children with it: make sure of that, and take note."""
        assert self.nursery is not None
        for slot in self.slots:
            if slot.worker_id:
                if slot.pid:
                    kill_group(slot.pid)
                    wait_until_gone(slot.pid)
                self._bury(slot, None)
        self.close_nursery()

    # --- birth and death -------------------------------------------------------------------------

    def fill(self, connection: Connection, now: float) -> None:
        """Order a child for every empty place, and note the process ids of those forked."""
        self._make_room()
        for slot in self._vacant():
            if now >= slot.fork_not_before:
                self._fork(connection, slot, now)
        for slot in self.living():
            if not slot.pid_is_noted:
                presence.set_pid(connection, id=slot.worker_id, pid=slot.pid)
                slot.pid_is_noted = True

    def _vacant(self) -> list[Slot]:
        """Return the slots to fork into: as many as children are missing."""
        taken = [slot for slot in self.slots if slot.worker_id]
        # Where a child runs many tasks, one that retires is replaced at once: its last task may be
        # long, and the places of the others must not stand empty until then.
        missing = self.options.children - sum(
            not (slot.record.is_retiring if self.options.places else slot.record.is_hung)
            for slot in taken
        )
        return [slot for slot in self.slots if not slot.worker_id][: max(0, missing)]

    def _make_room(self) -> None:
        """Kill the child that has hung for longest if there is no slot left for another."""
        hung = [slot for slot in self.living() if slot.record.is_hung]
        if len(hung) == len(self.slots) and not any(slot.killed_for for slot in hung):
            oldest = min(hung, key=lambda slot: slot.forked_at)
            worker_log.error("Child %d hangs and its place is needed.", oldest.number)
            self._kill(oldest, "stop")

    def _fork(self, connection: Connection, slot: Slot, now: float) -> None:
        assert self.nursery is not None
        # The same after trouble with the database: its row may be there, and only that be unknown.
        worker_id = slot.next_id = slot.next_id or str(uuid4())
        presence.arrive(
            connection,
            id=worker_id,
            kind="CHILD",
            parent_id=self.parent_id,
            host=socket.gethostname(),
            pid=0,
            info={"slot": slot.number},
        )
        slot.next_id = ""
        _empty(slot.read)
        slot.record.reset()
        slot.worker_id, slot.pid, slot.pid_is_noted, slot.asked = worker_id, 0, False, set()
        slot.forked_at, slot.killed_for = now, ""
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

    def _bury(self, slot: Slot, status: int | None) -> None:
        """Take note of a reaped child; what it held is settled when the database answers."""
        now = time.monotonic()
        held = slot.record.holdings()
        death = Death(
            worker_id=slot.worker_id,
            slot=slot.number,
            pid=slot.pid,
            status=status,
            held=held,
            killed_for=slot.killed_for,
            overdue=slot.overdue,
        )
        self.budget.put_back(len(held.unstarted))
        if not death.is_clean:
            death.log()
            if self.solo is None and slot.pid:
                kill_rest(slot.pid)  # it must not go on beside the task's next run
        self.aftermath.add(death)
        self._has_come_up = self._has_come_up or any(s.record.is_ready for s in self.slots)
        self.cannot_load = status == EXIT_NOT_LOADED and not self._has_come_up
        is_planned = death.is_clean and slot.record.is_retiring
        if now - slot.forked_at < _TOO_SOON and not held.running and not is_planned:
            slot.fork_not_before = now + _PAUSE
        slot.worker_id, slot.pid, slot.killed_for, slot.overdue = "", 0, "", ()
        slot.record.reset()  # what it says of a dead child would count on

    # --- watching --------------------------------------------------------------------------------

    def watch(self, now: float) -> None:
        """Enforce hard time limits; take waiting tasks from children that cannot give them back."""
        if isinstance(self.nursery, Nursery) and now >= self._guard_at:
            self._guard_at = now + _WATCH
            if self._guard.is_mute(self.slots, now):
                worker_log.error("The nursery does not answer (is it suspended?); killing it.")
                self.nursery.process.kill()
        for slot in self.living():
            if slot.record.is_idle or slot.killed_for:
                continue
            if slot.record.must_be_killed(now):
                if self.nursery is not None and self.nursery.may_be_killed():
                    self._kill(slot, "timeout")
            elif slot.record.is_stuck(now, _STUCK):
                self._relieve(slot)

    def _relieve(self, slot: Slot) -> None:
        """Have given back what waits behind a long task."""
        held = slot.record.take_unstarted()
        if held is not None:
            self.budget.put_back(len(held.unstarted))
            self.aftermath.give_back(slot.worker_id, held)

    def wake_at(self, now: float, *, filling: bool) -> float:
        """Return when to look at the children again at the latest, or to fill empty places."""
        moments = [float("inf")]
        if filling:
            moments += [max(now, slot.fork_not_before) for slot in self._vacant()]
        for slot in self.living():
            if not slot.record.is_idle:
                moments.append(now + _WATCH)
                if slot.record.deadline > now and not slot.killed_for:
                    moments.append(slot.record.deadline)
        return min(moments)

    def living(self) -> Iterator[Slot]:
        """Yield the places in which a child lives."""
        return (slot for slot in self.slots if slot.pid)

    @property
    def listed(self) -> list[str]:
        """Return the ids of the rows that are ours to keep: of the dead, until they are settled."""
        taken = [slot.worker_id for slot in self.slots if slot.worker_id]
        return taken + self.aftermath.worker_ids

    @property
    def are_gone(self) -> bool:
        """Say whether no child lives or is being forked."""
        return not any(slot.worker_id for slot in self.slots)

    @property
    def up(self) -> int:
        """Return how many children have come up and take tasks."""
        return sum(slot.record.is_ready and not slot.record.is_retiring for slot in self.living())

    @property
    def are_idle(self) -> bool:
        """Say whether every child is up and has nothing in hand."""
        if self._vacant():
            return False
        return all(
            slot.pid and slot.record.is_ready and slot.record.is_idle
            for slot in self.slots
            if slot.worker_id
        )

    @property
    def claims(self) -> int:
        """Return how many tasks the present children have claimed."""
        return sum(slot.record.claimed for slot in self.slots)

    def running(self, now: float) -> int:
        """Count the tasks that run."""
        return sum(slot.record.running for slot in self.living())

    # --- orders ----------------------------------------------------------------------------------

    def wake_one(self, order: str) -> bool:
        """Tell one child that can take more that there is work; say whether there was one."""
        self._turn += 1  # one that cannot hear (it may be suspended) does not starve the others
        start = self._turn % len(self.slots)
        for slot in self.slots[start:] + self.slots[:start]:
            if slot.pid and slot.record.is_hungry and slot.record.is_ready:
                _order(slot, order)
                return True
        return False

    def wake_any(self, order: str) -> None:
        """Tell an idle child, or else each in turn: any of them may be in a task of hours."""
        if not self.wake_one(order):
            self._next_busy = (self._next_busy + 1) % len(self.slots)
            slot = self.slots[self._next_busy]
            if slot.pid:
                _order(slot, order)

    def ask_to_end(self, tasks: dict[str, set[str]]) -> None:
        """Pass on which running tasks were asked to end; by the ids of their processes."""
        for slot in self.living():
            asked = tasks.get(slot.worker_id, set())
            # What it cannot be told now, it is told the next time.
            told = {id for id in asked - slot.asked if _order(slot, f"c{id}")}
            slot.asked = (slot.asked & asked) | told

    def stop(self) -> None:
        """Ask all to finish what runs and to give back the rest."""
        for slot in self.living():
            _order(slot, "s")

    def kill(self) -> None:
        """Kill all: what runs, runs again elsewhere."""
        for slot in self.living():
            if not slot.killed_for:
                self._kill(slot, "stop")

    def replace_unknown(self, known: set[str]) -> None:
        """Kill children whose row is gone: they can claim nothing any more."""
        for slot in self.living():
            if slot.worker_id not in known and not slot.killed_for:
                worker_log.error("Child %d is not known any more; replacing it.", slot.number)
                self._kill(slot, "stop")

    def _kill(self, slot: Slot, why: str) -> None:
        slot.killed_for = why
        slot.overdue = slot.record.holdings().overdue if why == "timeout" else ()
        assert self.nursery is not None
        self.nursery.kill(slot.pid)


def _order(slot: Slot, order: str) -> bool:
    """Send an order, whole or not at all; False if more of them wait than the pipe can take."""
    try:
        os.write(slot.write, order.encode())
    except BlockingIOError:
        return False
    return True


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
