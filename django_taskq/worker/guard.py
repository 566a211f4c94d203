"""Whether processes have ended that somebody else has to reap, and whether he does.

The nursery reports the deaths of its children. One that is suspended (by a debugger, say) reports
none and forks nobody: its supervisor would wait for ever.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django_taskq.worker.children import Slot

# Seconds in which a death is reported; at the end of a stop; in which a fork is.
_REPORT, _REPORT_AT_STOP, _FORK = 5.0, 0.5, 30.0


class Guard:
    """Watches over one nursery."""

    def __init__(self) -> None:
        # Since when a process has been seen to have ended, by process id.
        self._ended: dict[int, float] = {}

    def is_mute(self, slots: Iterable[Slot], now: float) -> bool:
        """Say whether the nursery has not reported a death or a fork for too long."""
        ended = {slot.pid: slot for slot in slots if slot.pid and has_ended(slot.pid)}
        self._ended = {pid: self._ended.get(pid, now) for pid in ended}
        return any(
            now - self._ended[pid] > (_REPORT_AT_STOP if slot.killed_for == "stop" else _REPORT)
            for pid, slot in ended.items()
        ) or any(slot.worker_id and not slot.pid and now - slot.forked_at > _FORK for slot in slots)


def has_ended(pid: int) -> bool:
    """Say whether a process has ended, reaped or not; only Linux tells of the latter."""
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], 0)[0])
    finally:
        os.close(fd)


def wait_until_gone(pid: int) -> None:
    """Wait until a process that was killed is gone, even if nobody reaps it."""
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            select.select([fd], [], [], 5.0)
            os.close(fd)
        return
    deadline = time.monotonic() + 5.0
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.01)
