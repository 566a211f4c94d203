"""Many `async def` tasks at once on one event loop; synchronous tasks in threads beside it.

Synchronous code that a coroutine calls by way of `sync_to_async` (all of Django's async ORM) runs
in a thread that this task has for itself until it ends, and so on connections of its own. Threads
and their connections are kept for the next task that needs one.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import Callable
from functools import partial

from asgiref.sync import SyncToAsync, ThreadSensitiveContext

from django_taskq.events import worker_log
from django_taskq.outcomes import Outcome
from django_taskq.transitions.claim import Claimed
from django_taskq.worker.pools import Batch, Feeding, Seat
from django_taskq.worker.pools.homes import CleanThreads, Home, Homes
from django_taskq.worker.pools.limits import Entry
from django_taskq.worker.pools.parallel import OVERDUE, ParallelPool, Taken
from django_taskq.worker.run import Run

# A coroutine that was cancelled for its hard time limit has so long to end before it is given up.
_LAST_WORDS = 1.0
# A loop that is blocked for so long once a task was given up on is not waited for any longer.
_BLOCKED = 5.0


class CoroutinesPool(ParallelPool):
    """Run up to `size` tasks at once, coroutines on the loop of the main thread."""

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat)
        self._free = list(range(self.size))
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._given_up = 0

    @property
    def busy(self) -> int:
        """Return how many tasks run, those that were given up on left out."""
        return self.size - len(self._free) - self._given_up

    def put(self, batch: Batch | None) -> None:
        """Take claimed tasks, or None: there will be no more. Called by the feeder's thread."""
        self._loop.call_soon_threadsafe(self._take_in, batch)

    def run(self, feeder: Feeding) -> None:
        """Run the loop until there will be no more tasks, and all have ended."""
        self.feeder = feeder
        with asyncio.Runner() as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._all_ended = asyncio.Event()
        threads = CleanThreads(self.size)
        self._loop.set_default_executor(threads)
        self._homes = Homes(self.seat, self.feeder, self.watchdog)
        self.executor = self.seat.executor(self.feeder, arm=lambda _: None, disarm=lambda: None)
        self.feeder.start()
        self.record.say_ready()
        await self._all_ended.wait()
        self._homes.close()
        if self._given_up:
            # Neither loop nor interpreter would end while a thread or a coroutine goes on.
            self._exit()

    # --- on the loop -----------------------------------------------------------------------------

    def _take_in(self, batch: Batch | None) -> None:
        if batch is None:
            self._is_over = True
        else:
            self.executor.notice_listeners()
            epoch = batch.epoch
            self._rows.extend([(row, epoch) for row in batch.rows])
        try:
            self._fill()
        except BaseException:
            self._fail()

    def _fill(self) -> None:
        """Start waiting tasks where there is room; say so when everything has ended."""
        while self._rows and self._free:
            if self.feeder.stopping:
                self._drop([row for row, _ in self._rows])
                self._rows.clear()
                break
            self._start(*self._rows.popleft())
        if self._is_over and not self._rows and not self.busy:
            self._all_ended.set()

    def _start(self, row: Claimed, epoch: int) -> None:
        run = self.executor.run_of(row)
        began = time.monotonic()
        deadline = began + run.timeout if run is not None and run.timeout else 0.0
        place = self._free[-1]
        if not self.record.start_in(place, epoch, row.id, began, deadline):
            self._drop([row])
            return
        self._free.pop()
        taken = self._running[place] = Taken(row, run, began)
        # In a context of its own: what a task sets, the next does not see.
        task = self._loop.create_task(self._run(place, taken), context=contextvars.Context())
        self._tasks[place] = task  # the loop itself holds tasks weakly

    async def _run(self, place: int, taken: Taken) -> None:
        try:
            await self._run_one(place, taken)
        except BaseException:
            self._fail()

    async def _run_one(self, place: int, taken: Taken) -> None:
        row, run, began = taken
        limit = self._limit(place, taken) if run is not None and run.timeout else None
        home = self._homes.home()
        outcome = self.executor.outcome_without_run(row, run)
        if outcome is None:
            assert run is not None
            if self.seat.tells_starts:
                self.feeder.lines.write_start(row)
            if limit is not None and run.is_async:
                limit.task = asyncio.current_task()
            outcome = await self._outcome(home, row, run, began)
            if limit is not None:
                limit.task = None  # from here on it must not be cancelled
                if limit.is_over:
                    # It was told to end for this, whatever it has made of it.
                    outcome = self.executor.overdue(row, run, began)
        if home.is_used:
            await home.leave()
        if limit is not None:
            limit.call_off()
        self._end(place, taken, outcome)

    async def _outcome(self, home: Home, row: Claimed, run: Run, began: float) -> Outcome:
        if not run.is_async:
            return await self._loop.run_in_executor(home, home.execute, row, run, began)
        # What asgiref's own ThreadSensitiveContext does, with a thread that is kept.
        key = ThreadSensitiveContext()
        SyncToAsync.thread_sensitive_context.set(key)
        SyncToAsync.context_to_thread_executor[key] = home
        try:
            return await self.executor.execute_async(row, run, began)
        finally:
            SyncToAsync.context_to_thread_executor.pop(key, None)

    def _end(self, place: int, taken: Taken, outcome: Outcome) -> None:
        """Hand an outcome over, unless the task had been given up on, and start the next."""
        with self._lock:
            is_mine = self._running[place] is taken
            self._running[place] = None
            if is_mine:
                self._free.append(place)
        self._tasks.pop(place, None)
        if is_mine:
            self.record.end_in(place)
            self._hand_over(outcome)
        self._fill()

    # --- hard time limits, in the watchdog's thread ----------------------------------------------

    def _limit(self, place: int, taken: Taken) -> _Limit:
        assert taken.run is not None and taken.run.timeout
        limit = _Limit()
        end = taken.began + taken.run.timeout
        last = end + _LAST_WORDS if taken.run.is_async else end
        limit.entries = [
            self.watchdog.at(end, partial(self._on_loop, limit.cancel)),
            self.watchdog.at(last, partial(self._give_up, place, taken)),
        ]
        return limit

    def _on_loop(self, do: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(do)

    def _give_up(self, place: int, taken: Taken) -> None:
        """Record a task as failed that does not end, and have the process replaced."""
        assert taken.run is not None
        with self._lock:
            if self._running[place] is not taken:
                return
            self._running[place] = None
            self._given_up += 1
        self.record.end_in(place)
        self._hand_over(self.executor.overdue(taken.row, taken.run, taken.began))
        self.feeder.retire(OVERDUE, is_hung=True)
        self._loop.call_soon_threadsafe(self._fill)
        answered = threading.Event()
        self._loop.call_soon_threadsafe(answered.set)
        self.watchdog.at(time.monotonic() + _BLOCKED, partial(self._leave_blocked, answered))

    def _leave_blocked(self, answered: threading.Event) -> None:
        """End the process if its loop is blocked: nothing on it will ever go on."""
        if not answered.is_set():
            worker_log.error("The event loop is blocked by a task; its process ends.")
            self._exit()

    def _exit(self) -> None:
        """End this process at once, with what was handed over stored; nobody is to blame."""
        self.feeder.flush()
        self.record.end_all()
        os._exit(0)


class _Limit:
    """The hard time limit of a running task."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        # Set while a coroutine of the project's runs, which can be cancelled.
        self.task: asyncio.Task[None] | None = None
        self.is_over = False

    def cancel(self) -> None:
        """Have the coroutine end; called on the loop, while it waits for something."""
        if self.task is not None:
            self.is_over = True
            self.task.cancel()

    def call_off(self) -> None:
        """Leave the task alone."""
        for entry in self.entries:
            entry.call_off()
