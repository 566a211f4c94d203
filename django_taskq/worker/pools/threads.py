"""Many tasks at once in one process, a thread each: for tasks that wait for others.

Threads take tasks from one queue, in the order of their claim. A thread that takes one wakes the
next thread if more wait: short tasks are run by few threads, without handing work from one to the
next, and tasks that wait are run by as many as there are.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from queue import Empty, SimpleQueue

from django_taskq.outcomes import Completed, Outcome
from django_taskq.worker.executor import Executor
from django_taskq.worker.pools import CONNECTION_AGE, IDLE_CLOSE, Batch, Feeding, Seat
from django_taskq.worker.pools.limits import Entry, Interrupter
from django_taskq.worker.pools.parallel import OVERDUE, ParallelPool, Taken
from django_taskq.worker.pools.serial import return_memory
from django_taskq.worker.user_connections import UserConnections


class ThreadsPool(ParallelPool):
    """Run up to `size` tasks at once."""

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat)
        self.busy = 0
        # Threads that wait, less the wake-ups that are on their way to them.
        self._asleep = 0
        self._wake: SimpleQueue[None] = SimpleQueue()
        # Threads that have not ended and were not given up on.
        self._left = self.size
        self._all_gone = threading.Event()

    # --- called by the feeder --------------------------------------------------------------------

    def put(self, batch: Batch | None) -> None:
        """Take claimed tasks, or None: there will be no more."""
        with self._lock:
            if batch is not None:
                self._rows.extend([(row, batch.epoch) for row in batch.rows])
                self._wake_one()
                return
            self._is_over = True
            for _ in range(self.size):
                self._wake.put(None)

    # --- the main thread -------------------------------------------------------------------------

    def run(self, feeder: Feeding) -> None:
        """Start the threads and wait until they have ended, but for those that were given up on."""
        self.feeder = feeder
        for place in range(self.size):
            name = f"taskq-{place}"
            threading.Thread(target=self._work, args=[place], name=name, daemon=True).start()
        feeder.start()
        self.record.say_ready()
        self._all_gone.wait()

    # --- the threads -----------------------------------------------------------------------------

    def _work(self, place: int) -> None:
        try:
            self._run_tasks(place)
        except BaseException:
            self._fail()

    def _run_tasks(self, place: int) -> None:
        """Run tasks in one thread until there will be no more, or this thread was given up on."""
        connections = UserConnections(max_age=CONNECTION_AGE)
        interrupter = Interrupter(self.watchdog)
        executor = self.seat.executor(self.feeder, arm=interrupter.arm, disarm=interrupter.disarm)
        while (taken := self._take(place, executor, connections)) is not None:
            limit = self._limit(place, taken)
            outcome = executor.outcome_without_run(taken.row, taken.run)
            if outcome is None:
                assert taken.run is not None
                if self.seat.tells_starts:
                    self.feeder.lines.write_start(taken.row)
                outcome = executor.execute(taken.row, taken.run, taken.began)
            connections.clean(look=type(outcome) is not Completed)
            if limit is not None:
                limit.call_off()
            if not self._end(place, taken, outcome):
                connections.close()
                return
        connections.close()
        self._leave()

    def _take(self, place: int, executor: Executor, connections: UserConnections) -> Taken | None:
        """Start the next task, when there is one; None when there will be no more."""
        while True:
            with self._lock:
                if self._rows:
                    taken = self._start_next(place, executor)
                    if taken is not None:
                        return taken
                    continue
                if self._is_over:
                    return None
                self._asleep += 1
            try:
                self._wake.get(timeout=IDLE_CLOSE)
            except Empty:
                connections.close()
                if place == 0:
                    return_memory()
                self._wake.get()
            connections.drop_dead()
            executor.notice_listeners()

    def _start_next(self, place: int, executor: Executor) -> Taken | None:
        """Start the next task in a place, under the lock; None if it is not ours any more."""
        if self.feeder.stopping:
            self._drop([row for row, _ in self._rows])
            self._rows.clear()
            return None
        row, epoch = self._rows.popleft()
        run = executor.run_of(row)
        began = time.monotonic()
        deadline = began + run.timeout if run is not None and run.timeout else 0.0
        if not self.record.start_in(place, epoch, row.id, began, deadline):
            self._drop([row])
            return None
        self.busy += 1
        taken = self._running[place] = Taken(row, run, began)
        if self._rows:
            self._wake_one()
        return taken

    def _end(self, place: int, taken: Taken, outcome: Outcome) -> bool:
        """Hand an outcome over; False if the task had been given up on, and this thread with it."""
        with self._lock:
            if self._running[place] is not taken:
                return False
            self._running[place] = None
            self.busy -= 1
        self.record.end_in(place)
        self._hand_over(outcome)
        return True

    def _leave(self) -> None:
        with self._lock:
            self._left -= 1
            if not self._left:
                self._all_gone.set()

    def _wake_one(self) -> None:
        """Wake a thread that waits, if there is one; under the lock."""
        if self._asleep > 0:
            self._asleep -= 1
            self._wake.put(None)

    # --- hard time limits ------------------------------------------------------------------------

    def _limit(self, place: int, taken: Taken) -> Entry | None:
        if taken.run is None or not taken.run.timeout:
            return None
        moment = taken.began + taken.run.timeout
        return self.watchdog.at(moment, partial(self._give_up, place, taken))

    def _give_up(self, place: int, taken: Taken) -> None:
        """Record a task as failed whose time is over; its thread cannot be ended, the process can.

        The other tasks run to their end first. Called by the watchdog.
        """
        assert taken.run is not None
        with self._lock:
            if self._running[place] is not taken:
                return
            self._running[place] = None
            self.busy -= 1
        self.record.end_in(place)
        executor = self.seat.executor(self.feeder, arm=lambda _: None, disarm=lambda: None)
        self._hand_over(executor.overdue(taken.row, taken.run, taken.began))
        self.feeder.retire(OVERDUE, is_hung=True)
        self._leave()
