"""Time limits inside a process: what ends a task without ending the process it runs in.

The main thread can be interrupted by a signal. Another thread can be told to raise an exception,
which it does between two bytecodes: not while it waits in C code. What does not listen is left
behind by the pool, with its task recorded as failed.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from django_taskq.exceptions import SoftTimeLimit


class Alarm:
    """Raise SoftTimeLimit in the main thread: the one signal handler that does more than note."""

    def __init__(self) -> None:
        self.armed = False
        self._before = signal.signal(signal.SIGALRM, self._ring)

    def arm(self, seconds: float) -> None:
        """Raise after so many seconds."""
        self.armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def disarm(self) -> None:
        """Do not raise any more."""
        self.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def restore(self) -> None:
        """Give the signal back to whoever had it."""
        signal.signal(signal.SIGALRM, self._before)

    def _ring(self, number: int, frame: Any) -> None:
        if self.armed:
            self.armed = False
            raise SoftTimeLimit


class Entry:
    """Something that a watchdog will do, unless it is called off."""

    __slots__ = ("do", "is_off")

    def __init__(self, do: Callable[[], None]) -> None:
        self.do = do
        self.is_off = False

    def call_off(self) -> None:
        """Have nothing done; what is being done now is not stopped."""
        self.is_off = True


class Watchdog:
    """Do things at their time, in a thread of its own that is started when first needed."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Entry]] = []
        self._count = itertools.count()
        # What was called off is thrown out when there are this many, or its time comes.
        self._many = 1000
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def at(self, moment: float, do: Callable[[], None]) -> Entry:
        """Have something done at a moment of the monotonic clock."""
        entry = Entry(do)
        with self._changed:
            if len(self._heap) >= self._many:
                self._heap = [item for item in self._heap if not item[2].is_off]
                heapq.heapify(self._heap)
                self._many = max(1000, 2 * len(self._heap))
            heapq.heappush(self._heap, (moment, next(self._count), entry))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="taskq-limits", daemon=True)
                self._thread.start()
            elif self._heap[0][2] is entry:
                self._changed.notify()
        return entry

    def _run(self) -> None:
        while True:
            self._next().do()

    def _next(self) -> Entry:
        """Wait for the next thing to do."""
        with self._changed:
            while True:
                while self._heap and self._heap[0][2].is_off:
                    heapq.heappop(self._heap)
                pause = self._heap[0][0] - time.monotonic() if self._heap else None
                if pause is not None and pause <= 0:
                    return heapq.heappop(self._heap)[2]
                self._changed.wait(pause)


_set_async_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exception.argtypes = [ctypes.c_ulong, ctypes.c_void_p]


class Interrupter:
    """Raise SoftTimeLimit in the thread that arms it."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._entry: Entry | None = None
        # Counts the times it was armed: what fires late must not hit the next task.
        self._turn = 0

    def arm(self, seconds: float) -> None:
        """Raise after so many seconds."""
        with self._lock:
            self._turn += 1
            fire = partial(self._fire, self._turn)
        self._entry = self._watchdog.at(time.monotonic() + seconds, fire)

    def disarm(self) -> None:
        """Do not raise any more; what was sent and has not arrived is taken back."""
        with self._lock:
            self._turn += 1
            _set_async_exception(self._thread, None)
        if self._entry is not None:
            self._entry.call_off()
            self._entry = None

    def _fire(self, turn: int) -> None:
        with self._lock:
            if turn == self._turn:
                _set_async_exception(self._thread, id(SoftTimeLimit))
