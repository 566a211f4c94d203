"""Turn signals into flags that a loop reads: handlers do nothing else."""

from __future__ import annotations

import signal
import socket

# Stop gracefully; asked twice, or by the last one, stop now.
_GRACEFUL = (signal.SIGTERM, signal.SIGINT)
_NOW = (signal.SIGQUIT,)


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
        for number in (*_GRACEFUL, *_NOW):
            self._before[number] = signal.signal(number, self._note)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self.wake.close()
        self._write.close()

    def drain(self) -> None:
        """Read what woke us."""
        try:
            while self.wake.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _note(self, number: int, frame: object) -> None:
        self.count += 2 if number in _NOW else 1
