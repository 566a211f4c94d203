"""What the pools share that run many tasks at once in one process."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import NamedTuple, cast

from django_taskq.events import worker_log
from django_taskq.outcomes import Outcome
from django_taskq.transitions.claim import Claimed
from django_taskq.worker.parallel_record import ParallelRecord
from django_taskq.worker.pools import Dropped, Feeding, Seat
from django_taskq.worker.pools.limits import Watchdog
from django_taskq.worker.run import Run

OVERDUE = "because a task ran over its hard time limit"


class Taken(NamedTuple):
    """A task that was started."""

    row: Claimed
    run: Run | None
    began: float


class ParallelPool:
    """A queue of claimed tasks, and a place for each that runs."""

    feeder: Feeding

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.size = seat.options.concurrency
        self.record = cast(ParallelRecord, seat.record)
        self.outbox = seat.outbox
        self.watchdog = Watchdog()
        # Held for moments only, by whoever changes what follows.
        self._lock = threading.Lock()
        self._rows: deque[tuple[Claimed, int]] = deque()
        self._is_over = False
        # What runs in each place; a task that was given up on is taken out.
        self._running: list[Taken | None] = [None] * self.size

    def _drop(self, rows: list[Claimed]) -> None:
        """Have tasks given back that are not started here."""
        self.outbox.append(Dropped(rows))
        self.feeder.nudge()

    def _hand_over(self, outcome: Outcome) -> None:
        """Have an outcome stored; between two tasks is the time to look at the memory."""
        self.outbox.append(outcome)
        memory = self.seat.memory_limit
        if memory is not None and memory.is_exceeded():
            self.feeder.retire(memory.why)
        if self.feeder.is_waiting:
            self.feeder.nudge()

    def _fail(self) -> None:
        """End the process after an error of the pool's own: its place would be lost for ever."""
        worker_log.exception("A pool failed; its process ends.")
        os._exit(1)
