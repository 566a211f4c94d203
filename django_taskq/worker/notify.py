"""Tell systemd how the worker is, as `Type=notify` asks for: datagrams to the NOTIFY_SOCKET."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

# What systemd passes to the process that it has started, and to no process behind that.
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """A line to systemd; without one, every call does nothing."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        # An abstract name is written with @, and begins with NUL.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        # Seconds between the beats of the watchdog: half of what it waits for.
        self._beat = _watchdog_seconds(environment) / 2 if path else 0.0
        # When the watchdog wants to hear of us.
        self.next_at = time.monotonic() if self._beat else float("inf")
        self._is_ready = False
        self._status = ""

    def ready(self) -> None:
        """Say once that the worker is up."""
        if not self._is_ready:
            self._is_ready = True
            self._send("READY=1")

    def stopping(self) -> None:
        """Say that it ends."""
        self._send("STOPPING=1", "STATUS=Stopping.")

    def reloading(self) -> None:
        """Say that it starts anew, under the same process id; `ready` is said again then."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}", "STATUS=Reloading.")

    def status(self, text: str) -> None:
        """Say what `systemctl status` shows."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def beat(self, now: float) -> None:
        """Keep the watchdog calm."""
        if now >= self.next_at:
            self.next_at = now + self._beat
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.setblocking(False)
            with contextlib.suppress(OSError):  # it listens no more, or is too busy to
                end.sendto("\n".join(lines).encode(), self._address)


def _watchdog_seconds(environment: Mapping[str, str]) -> float:
    """Return how long the watchdog waits; 0 if there is none for this process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() else 0.0
