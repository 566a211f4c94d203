"""Turn signals into flags that a loop reads: handlers do nothing else."""

from __future__ import annotations

import signal
import socket
import sys

# Stop gracefully; asked twice, or by the last one, stop now.
GRACEFUL = (signal.SIGTERM, signal.SIGINT)
# (No worker runs on Windows, which has none; but the command must be able to say so.)
NOW = (signal.SIGQUIT,) if sys.platform != "win32" else ()


class StopSignals:
    """Count requests to stop and wake whoever selects on `wake`."""

    def __init__(self) -> None:
        self.count = 0
        self.wake, self._write = socket.socketpair()
        self.wake.setblocking(False)
        self._write.setblocking(False)
        self._before: dict[signal.Signals, object] = {}

    def install(self) -> None:
        """Take over the signals of this process; only its main thread may."""
        for number in (*GRACEFUL, *NOW):
            self._before[number] = signal.signal(number, self._note)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        # They wait since a worker that started anew as this process (--reload) has ended.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*GRACEFUL, *NOW))

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self.wake.close()
        self._write.close()

    def drain(self) -> None:
        """Read what woke us: the numbers of the signals that arrived, a byte each.

        They are counted here and not by the handler, which runs in the main thread: with the pool
        `solo`, that runs tasks.
        """
        try:
            while received := self.wake.recv(4096):
                self.count += sum(1 for number in received if number in GRACEFUL)
                self.count += sum(2 for number in received if number in NOW)
        except BlockingIOError:
            pass

    def _note(self, number: int, frame: object) -> None:
        """Do nothing; without a handler Python would not write to `wake`."""
