"""A child: its main thread runs claimed tasks, one after the other; its feeder brings them."""

from __future__ import annotations

import ctypes
import gc
import queue
import signal
import time
from collections import deque
from typing import Any

from django_taskq import current, db
from django_taskq.exceptions import SoftTimeLimit
from django_taskq.outcomes import Outcome
from django_taskq.transitions.claim import Claimed
from django_taskq.worker.console import set_up_logging
from django_taskq.worker.executor import Executor
from django_taskq.worker.feeder import Batch, Dropped, Feeder
from django_taskq.worker.memory import MemoryLimit
from django_taskq.worker.nursery import leave_stopping_to_the_supervisor
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.record import SharedMemory

# A user connection is closed after so many seconds without a task, and when it is this old.
_IDLE_CLOSE = 1.0
_CONNECTION_AGE = 60.0


def run_child(order: dict[str, Any]) -> int:
    """Run one child in a freshly forked process; return its exit code."""
    current.in_worker = True
    options = WorkerOptions.from_json(order["options"])
    set_up_logging(options)
    memory = SharedMemory(order["memory"], order["children"])
    child = Child(
        options,
        memory,
        slot=order["slot"],
        worker_id=order["worker_id"],
        orders=order["orders"],
        bell=order["bell"],
    )
    child.run()
    return 0


class Child:
    """The main thread: takes batches from the feeder, runs them, hands outcomes back."""

    def __init__(
        self,
        options: WorkerOptions,
        memory: SharedMemory,
        *,
        slot: int,
        worker_id: str,
        orders: int,
        bell: int,
    ) -> None:
        self.record = memory.records[slot]
        self.inbox: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self.outbox: deque[Outcome | Dropped] = deque()
        self.alarm = _Alarm()
        self.tells_starts = options.verbosity >= 2
        limit = options.max_memory_per_child
        self.memory_limit = MemoryLimit(limit) if limit else None
        self.connections = db.UserConnections(max_age=_CONNECTION_AGE)
        self.feeder = Feeder(
            options,
            record=self.record,
            budget=memory.budget,
            inbox=self.inbox,
            outbox=self.outbox,
            worker_id=worker_id,
            orders=orders,
            bell=bell,
            slot=slot,
        )
        self.executor = Executor(
            worker_id,
            arm=self.alarm.arm,
            disarm=self.alarm.disarm,
            report=self.feeder.report,
            is_stopping=lambda: self.feeder.stopping,
        )

    def run(self) -> None:
        """Run tasks until the feeder says that there will be no more."""
        leave_stopping_to_the_supervisor()
        if self.memory_limit is not None:
            self.memory_limit.warn_if_too_low()
        self.feeder.start()
        self.record.say_ready()
        while (batch := self._next_batch()) is not None:
            self.executor.notice_listeners()
            self.connections.drop_dead()
            self._run_batch(batch)
        self.connections.close()
        self.feeder.end()

    def _next_batch(self) -> Batch | None:
        try:
            return self.inbox.get(timeout=_IDLE_CLOSE)
        except queue.Empty:
            self.connections.close()
            _return_memory()
        return self.inbox.get()

    def _run_batch(self, batch: Batch) -> None:
        """Run the tasks of a batch until it ends, is taken away, or the worker stops."""
        outbox, feeder = self.outbox, self.feeder
        for place, row in enumerate(batch.rows):
            outcome = None if feeder.stopping else self._run(row, batch.epoch)
            if outcome is None:
                # The feeder gives back, or the supervisor has done so already.
                outbox.append(Dropped(batch.rows[place:]))
                feeder.nudge()
                return
            outbox.append(outcome)
            if self.memory_limit is not None and self.memory_limit.is_exceeded():
                feeder.retire(self.memory_limit.why)
            if feeder.is_waiting:
                feeder.nudge()

    def _run(self, row: Claimed, epoch: int) -> Outcome | None:
        """Run one task; None if it is not ours to start any more."""
        run = self.executor.run_of(row)
        began = time.monotonic()
        deadline = began + run.timeout if run is not None and run.timeout else 0.0
        if not self.record.start(epoch, began, deadline):
            return None
        if row.is_cancelled:
            outcome: Outcome = self.executor.cancel_unstarted(row)
        elif run is None:
            outcome = self.executor.park_unknown(row)
        elif row.is_expired:
            outcome = self.executor.expire(row)
        else:
            if self.tells_starts:
                self.feeder.lines.write_start(row)
            outcome = self.executor.execute(row, run, began)
        self.record.end()
        self.connections.clean()
        return outcome


def _return_memory() -> None:
    """Give what tasks have freed back to the system; the C library (glibc) would keep it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class _Alarm:
    """Raise SoftTimeLimit in the main thread: the one signal handler that does more than note."""

    def __init__(self) -> None:
        self.armed = False
        signal.signal(signal.SIGALRM, self._ring)

    def arm(self, seconds: float) -> None:
        """Raise after so many seconds."""
        self.armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def disarm(self) -> None:
        """Do not raise any more."""
        self.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, number: int, frame: Any) -> None:
        if self.armed:
            self.armed = False
            raise SoftTimeLimit("The task has run for its soft_timeout.")
