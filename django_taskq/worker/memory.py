"""How much memory this process holds, and whether that is more than it may."""

from __future__ import annotations

import os
import sys
import time

from django_taskq.events import worker_log

_MEGABYTE = 1024 * 1024
# Between short tasks it is not measured more often than so many seconds apart: that takes 10 µs.
_EVERY = 0.01


class MemoryLimit:
    """The megabytes of resident memory that a process may hold, as `ps` shows them."""

    def __init__(self, megabytes: int) -> None:
        self.megabytes = megabytes
        # What was seen last, in words.
        self.why = ""
        self._measured_at = 0.0

    def is_exceeded(self) -> bool:
        """Say whether this process holds more; called between tasks."""
        now = time.monotonic()
        if now - self._measured_at < _EVERY:
            return False
        self._measured_at = now
        held = resident_memory() // _MEGABYTE
        if held <= self.megabytes:
            return False
        self.why = f"with {held} MB (its limit is {self.megabytes} MB)"
        return True

    def warn_if_too_low(self) -> None:
        """Log a warning if the project alone takes more: each process would run one task."""
        held = resident_memory() // _MEGABYTE
        if held > self.megabytes:
            worker_log.warning(
                "The project takes %d MB before the first task: with --max-memory-per-child %d "
                "each process is replaced after a task. Allow more.",
                held,
                self.megabytes,
            )


def resident_memory() -> int:
    """Return the bytes of memory that this process holds; where /proc is missing, the most ever."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        import resource  # not at the top: Windows has none, and must be able to say so

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
