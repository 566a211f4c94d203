"""A child without its process: a real feeder, and a pool that runs model tasks in a thread."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django_taskq.outcomes import (
    Cancelled,
    Completed,
    Failed,
    Outcome,
    Parked,
    Retrying,
    Snoozed,
    Unstored,
)
from django_taskq.transitions.claim import Claimed
from django_taskq.transitions.operate import held_for_unknown
from django_taskq.worker.feeder import Feeder
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.pools import Batch, Dropped, Seat
from django_taskq.worker.shared_memory import SharedMemory

ERROR = '{"exception_class_path": "ValueError", "message": "no", "traceback": ""}'

# What tasks of these names come to in the end, and how often they start on the way.
KINDS: dict[str, tuple[str, int]] = {
    "complete": ("SUCCESSFUL", 1),
    "progress": ("SUCCESSFUL", 1),
    "retry": ("SUCCESSFUL", 2),
    "snooze": ("SUCCESSFUL", 2),
    "fail": ("FAILED", 1),
    "cancel": ("CANCELLED", 1),
    "park": ("HELD", 1),
}


class Child:
    """One child; its tasks come to what their name says."""

    # As a pool: one task at a time.
    size = 1

    def __init__(self, worker_id: str, queues: tuple[str, ...]) -> None:
        self.memory = SharedMemory.create(1)
        self.memory.budget.create(-1)
        self.record = self.memory.records[0]
        self.record.reset()
        self.outbox: deque[Outcome | Dropped] = deque()
        # How often each task was started.
        self.starts: Counter[str] = Counter()
        self._inbox: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self.put = self._inbox.put
        self._pipes = [*os.pipe(), *os.pipe()]
        for end in self._pipes:
            os.set_blocking(end, False)
        seat = Seat(
            options=WorkerOptions(database="default", queues=queues, verbosity=0),
            worker_id=worker_id,
            record=self.record,
            outbox=self.outbox,
            memory_limit=None,
        )
        self.feeder = Feeder(
            seat,
            pool=self,
            budget=self.memory.budget,
            slot=0,
            orders=self._pipes[0],
            bell=self._pipes[3],
        )
        self._thread = threading.Thread(target=self._run, name="pool")
        # What else a task that reports progress does, before and after it does.
        self.before_report: Callable[[Claimed], object] = lambda row: None
        self.after_report: Callable[[Claimed], object] = lambda row: None

    @property
    def busy(self) -> int:
        return self.record.running

    def start(self) -> None:
        self.feeder.start()
        self._thread.start()

    def wake(self) -> None:
        """Say that there is work, as a supervisor does."""
        self.tell("w")

    def tell(self, order: str) -> None:
        """Give an order, as a supervisor does."""
        try:
            os.write(self._pipes[1], order.encode())
            os.read(self._pipes[2], 4096)
        except BlockingIOError:
            pass

    def stop(self) -> None:
        """Finish what runs, give back the rest, and end."""
        self.tell("s")
        self._thread.join()
        self.feeder.end()
        if self.feeder._connection is not None:
            self.feeder._connection.close()
        for end in self._pipes:
            os.close(end)

    def _run(self) -> None:
        while (batch := self._inbox.get()) is not None:
            for place, row in enumerate(batch.rows):
                now = time.monotonic()
                if self.feeder.stopping or not self.record.start(batch.epoch, now, 0.0):
                    self.outbox.append(Dropped(batch.rows[place:]))
                    self.feeder.nudge()
                    break
                self.starts[row.id] += 1
                outcome = self._outcome(row, now)
                self.record.end()
                self.outbox.append(outcome)
                if self.feeder.is_waiting:
                    self.feeder.nudge()

    def _outcome(self, row: Claimed, began: float) -> Unstored:
        name: Any = (row.id, row.claim)
        ended = time.monotonic()
        first = self.starts[row.id] == 1
        match row.task:
            case "fail":
                return Failed(*name, ERROR, began, ended)
            case "cancel":
                return Cancelled(*name, ERROR, began, ended)
            case "park":
                return Parked(*name, held_for_unknown("park"))
            case "retry" if first:
                return Retrying(*name, ERROR, 0.0, began, ended)
            case "snooze" if first:
                return Snoozed(*name, 0.0)
            case "progress":
                self.before_report(row)
                self.feeder.report(row, {"done": 7})
                self.after_report(row)
        return Completed(*name, "1", began, ended)


@contextmanager
def child(worker_id: str, *, queues: tuple[str, ...] = ()) -> Iterator[Child]:
    """Run a child, and stop it."""
    running = Child(worker_id, queues)
    running.start()
    try:
        yield running
    finally:
        running.stop()
