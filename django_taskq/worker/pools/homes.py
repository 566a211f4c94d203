"""Threads for the synchronous code of an event loop's tasks, with connections that are kept clean.

A *home* is what one task has: nothing at first, and from its first synchronous call on a thread
that is its own until it ends. So its connections, and whatever else is bound to a thread, are its
own too.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor as BaseExecutor
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from django_taskq.outcomes import Outcome
from django_taskq.transitions.claim import Claimed
from django_taskq.worker.executor import Executor
from django_taskq.worker.pools import CONNECTION_AGE, IDLE_CLOSE, Feeding, Seat
from django_taskq.worker.pools.limits import Interrupter, Watchdog
from django_taskq.worker.run import Run
from django_taskq.worker.user_connections import UserConnections


class _Thread:
    """A thread with its connections, and with an executor for synchronous tasks."""

    def __init__(self, seat: Seat, feeder: Feeding, watchdog: Watchdog, number: int) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix=f"taskq-home-{number}")
        self.connections: UserConnections
        self.executor: Executor
        self.pool.submit(self._settle_in, seat, feeder, watchdog).result()

    def _settle_in(self, seat: Seat, feeder: Feeding, watchdog: Watchdog) -> None:
        interrupter = Interrupter(watchdog)
        self.connections = UserConnections(max_age=CONNECTION_AGE)
        self.executor = seat.executor(feeder, arm=interrupter.arm, disarm=interrupter.disarm)


class Homes:
    """The threads of one loop: borrowed by tasks, used by the last one first."""

    def __init__(self, seat: Seat, feeder: Feeding, watchdog: Watchdog) -> None:
        self._seat, self._feeder, self._watchdog = seat, feeder, watchdog
        self._free: list[_Thread] = []
        self._made = 0
        self._loop = asyncio.get_running_loop()
        self._closing: asyncio.TimerHandle | None = None

    def home(self) -> Home:
        """Return a home for one task; it has no thread yet."""
        return Home(self)

    def borrow(self) -> _Thread:
        """Return a thread that nobody uses, a new one if need be."""
        try:
            return self._free.pop()
        except IndexError:
            self._made += 1
            return _Thread(self._seat, self._feeder, self._watchdog, self._made)

    def bring_back(self, thread: _Thread) -> None:
        """Take a thread back; its connections are closed when nobody uses it for a second."""
        self._free.append(thread)
        if self._closing is None:
            self._closing = self._loop.call_later(IDLE_CLOSE, self._close_idle)

    def _close_idle(self) -> None:
        self._closing = None
        for thread in self._free:
            thread.pool.submit(thread.connections.close)

    def close(self) -> None:
        """End the threads that nobody uses."""
        if self._closing is not None:
            self._closing.cancel()
        for thread in self._free:
            thread.pool.submit(thread.connections.close)
            thread.pool.shutdown()


class Home(BaseExecutor):
    """Where one task's synchronous code runs."""

    def __init__(self, homes: Homes) -> None:
        self._homes = homes
        self._thread: _Thread | None = None

    @property
    def is_used(self) -> bool:
        """Say whether the task has run any synchronous code."""
        return self._thread is not None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function in the task's thread; called on the loop."""
        if self._thread is None:
            self._thread = self._homes.borrow()
        return self._thread.pool.submit(fn, *args, **kwargs)

    def execute(self, row: Claimed, run: Run, began: float) -> Outcome:
        """Run a synchronous task; called in the thread."""
        assert self._thread is not None
        self._thread.executor.notice_listeners()
        return self._thread.executor.execute(row, run, began)

    async def leave(self) -> None:
        """Clean the thread's connections and give it back."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.wrap_future(thread.pool.submit(thread.connections.clean, look=True))
            self._homes.bring_back(thread)


class CleanThreads(ThreadPoolExecutor):
    """The loop's own threads (`asyncio.to_thread`): no call leaves a transaction to the next."""

    def __init__(self, size: int) -> None:
        super().__init__(min(32, size + 4), thread_name_prefix="taskq-loop")
        self._connections = threading.local()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function in one of the threads."""
        return super().submit(self._call, fn, *args, **kwargs)

    def _call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            connections = self._connections.mine
        except AttributeError:
            connections = self._connections.mine = UserConnections(max_age=CONNECTION_AGE)
        try:
            return fn(*args, **kwargs)
        finally:
            connections.clean(look=True)
