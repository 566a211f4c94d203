"""One task at a time, in the main thread: of a child of its own, or of the worker itself."""

from __future__ import annotations

import ctypes
import gc
import queue
import time

from django_taskq.outcomes import Completed, Outcome
from django_taskq.transitions.claim import Claimed
from django_taskq.worker.pools import CONNECTION_AGE, IDLE_CLOSE, Batch, Dropped, Feeding, Seat
from django_taskq.worker.pools.limits import Alarm
from django_taskq.worker.user_connections import UserConnections


class SerialPool:
    """Take batches from the feeder, run their tasks in order, hand outcomes back."""

    size = 1

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.record = seat.record
        self.outbox = seat.outbox
        self._inbox: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self.put = self._inbox.put

    @property
    def busy(self) -> int:
        """Return 1 while a task runs."""
        return self.record.running

    def run(self, feeder: Feeding) -> None:
        """Run tasks until the feeder says that there will be no more."""
        alarm = Alarm()
        self.connections = UserConnections(max_age=CONNECTION_AGE)
        self.executor = self.seat.executor(feeder, arm=alarm.arm, disarm=alarm.disarm)
        self.feeder = feeder
        feeder.start()
        self.record.say_ready()
        while (batch := self._next_batch()) is not None:
            self.executor.notice_listeners()
            self.connections.drop_dead()
            self._run_batch(batch)
        self.connections.close()
        alarm.restore()

    def _next_batch(self) -> Batch | None:
        try:
            return self._inbox.get(timeout=IDLE_CLOSE)
        except queue.Empty:
            self.connections.close()
            return_memory()
        return self._inbox.get()

    def _run_batch(self, batch: Batch) -> None:
        """Run the tasks of a batch until it ends, is taken away, or the worker stops."""
        outbox, feeder, memory = self.outbox, self.feeder, self.seat.memory_limit
        for place, row in enumerate(batch.rows):
            outcome = None if feeder.stopping else self._run(row, batch.epoch)
            if outcome is None:
                # The feeder gives back, or the supervisor has done so already.
                outbox.append(Dropped(batch.rows[place:]))
                feeder.nudge()
                return
            outbox.append(outcome)
            if memory is not None and memory.is_exceeded():
                feeder.retire(memory.why)
            if feeder.is_waiting:
                feeder.nudge()

    def _run(self, row: Claimed, epoch: int) -> Outcome | None:
        """Run one task; None if it is not ours to start any more."""
        run = self.executor.run_of(row)
        began = time.monotonic()
        deadline = began + run.timeout if run is not None and run.timeout else 0.0
        if not self.record.start(epoch, began, deadline):
            return None
        outcome = self.executor.outcome_without_run(row, run)
        if outcome is None:
            assert run is not None
            if self.seat.tells_starts:
                self.feeder.lines.write_start(row)
            outcome = self.executor.execute(row, run, began)
        self.record.end()
        self.connections.clean(look=type(outcome) is not Completed)
        return outcome


def return_memory() -> None:
    """Give what tasks have freed back to the system; the C library (glibc) would keep it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
