"""The pipes of a feeder: orders and nudges come in, news for its supervisor goes out."""

from __future__ import annotations

import contextlib
import os
import select
import time

# "c" and the id of a task; other orders are a letter.
_CANCEL_SIZE = 37


class Orders:
    """Whatever wakes a feeder: its supervisor's orders, and nudges from its own process."""

    def __init__(self, orders: int, bell: int) -> None:
        # Pipes: orders from the supervisor, and the bell that wakes it.
        self._orders = orders
        self._bell = bell
        self._nudge_read, self._nudge_write = os.pipe()
        for end in (self._nudge_read, self._nudge_write, orders):
            os.set_blocking(end, False)
        # The beginning of an order whose rest was not read yet, and when orders were last read.
        self._begun = b""
        self.read_at = 0.0

    def nudge(self) -> None:
        """Wake the feeder: there is something for it. Callable in any thread."""
        with contextlib.suppress(BlockingIOError):  # it is being woken already
            os.write(self._nudge_write, b"o")

    def ring(self, news: str) -> None:
        """Wake the supervisor: "m" more work than one child can take, "i" idle, "r" retiring."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._bell, news.encode())

    def read(self, seconds: float | None) -> list[str]:
        """Sleep until somebody wakes the feeder, at most so long; return the orders that came."""
        readable, _, _ = select.select([self._nudge_read, self._orders], [], [], seconds)
        self.read_at = time.monotonic()
        if self._nudge_read in readable:
            os.read(self._nudge_read, 4096)
        if self._orders not in readable:
            return []
        unread = self._begun + os.read(self._orders, 4096)
        orders = []
        while len(unread) >= (size := _CANCEL_SIZE if unread[:1] == b"c" else 1) and unread:
            orders.append(unread[:size].decode())
            unread = unread[size:]
        self._begun = unread
        return orders
