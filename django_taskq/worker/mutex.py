"""A lock between processes, in memory that they share.

A robust pthread mutex: its holder's death does not leave it locked (the next one is told, and goes
on), and taking it costs a third of a file lock.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time

if sys.platform != "win32":  # where no worker runs; but the command must be able to say so
    _c = ctypes.PyDLL(None, use_errno=False)  # keeps the GIL: for calls that do not block
    _c_blocking = ctypes.CDLL(None)  # lets other threads run meanwhile


class Mutex:
    """A lock between processes (and threads), at an address in shared memory."""

    def __init__(self, address: int) -> None:
        self._address = ctypes.c_void_p(address)
        self._trylock = _c.pthread_mutex_trylock
        self._unlock = _c.pthread_mutex_unlock

    def create(self) -> None:
        """Make the memory a mutex; once, by one process."""
        attributes = (ctypes.c_char * 128)()
        _c.pthread_mutexattr_init(attributes)
        _c.pthread_mutexattr_setpshared(attributes, 1)
        if hasattr(_c, "pthread_mutexattr_setrobust"):  # macOS has none
            _c.pthread_mutexattr_setrobust(attributes, 1)
        _c.pthread_mutex_init(self._address, attributes)

    def acquire(self) -> None:
        """Take the lock."""
        taken = self._trylock(self._address)
        if taken == errno.EBUSY:
            # Not with the GIL in hand: another thread of this process may hold the lock.
            taken = _c_blocking.pthread_mutex_lock(self._address)
        if taken:
            self._recover(taken)

    def acquire_within(self, seconds: float) -> bool:
        """Take the lock if it can be had in time; its holder may be suspended."""
        deadline = time.monotonic() + seconds
        while (taken := self._trylock(self._address)) == errno.EBUSY:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.001)
        if taken:
            self._recover(taken)
        return True

    def release(self) -> None:
        """Give the lock back."""
        self._unlock(self._address)

    def _recover(self, code: int) -> None:
        # Nothing is left half done: all that is written under a lock is single words.
        if code != errno.EOWNERDEAD:
            raise OSError(code, os.strerror(code))
        _c.pthread_mutex_consistent(self._address)
