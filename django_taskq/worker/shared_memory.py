"""The memory that a worker's processes share: a record per child, and the worker's budget."""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile

from django_taskq.worker.layout import HEADER_SIZE, PERMITS, slot_size
from django_taskq.worker.mutex import Mutex
from django_taskq.worker.parallel_record import ParallelRecord
from django_taskq.worker.record import Record


class Budget:
    """How many tasks a worker may still start in all (--max-tasks), shared by its children."""

    def __init__(self, memory: mmap.mmap, base: int) -> None:
        self._words = memoryview(memory)[:HEADER_SIZE].cast("q")
        self._lock = Mutex(base)

    def create(self, permits: int) -> None:
        """Set the number of tasks; -1 is no limit."""
        self._lock.create()
        self._words[PERMITS] = permits

    @property
    def left(self) -> int:
        """Return how many tasks may still be claimed; -1 is no limit."""
        return self._words[PERMITS]

    def take(self, wanted: int) -> int:
        """Take permits for a claim; return how many there were."""
        if self._words[PERMITS] < 0:
            return wanted
        self._lock.acquire()
        taken = min(wanted, self._words[PERMITS])
        self._words[PERMITS] -= taken
        self._lock.release()
        return taken

    def put_back(self, unused: int) -> None:
        """Return permits of tasks that were not started after all."""
        if unused and self._words[PERMITS] >= 0:
            self._lock.acquire()
            self._words[PERMITS] += unused
            self._lock.release()


class SharedMemory:
    """The memory of one worker: its budget and a record per child."""

    def __init__(self, fd: int, children: int, places: int = 0) -> None:
        self.fd = fd
        size = slot_size(places)
        self._memory = mmap.mmap(fd, HEADER_SIZE + children * size)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.budget = Budget(self._memory, base)
        kind = ParallelRecord if places else Record
        self.records = [
            kind(self._memory, base, HEADER_SIZE + slot * size, places) for slot in range(children)
        ]

    def lent_to_others(self, mine: Record) -> int:
        """Count the tasks that retiring children have yet to end, but for those that hang."""
        return sum(
            record.running + record.unstarted
            for record in self.records
            if record.is_retiring and record is not mine and not record.is_hung
        )

    @classmethod
    def create(cls, children: int, places: int = 0) -> SharedMemory:
        """Make the memory: a file without a name, that its processes inherit.

        `places` is how many tasks a child runs at once; 0 makes records of one task at a time.
        """
        with tempfile.TemporaryFile(prefix="django_taskq-") as file:
            fd = os.dup(file.fileno())
        os.ftruncate(fd, HEADER_SIZE + children * slot_size(places))
        return cls(fd, children, places)
