"""Where claimed tasks run: one after the other, in threads, or as coroutines on one loop.

    processes   serial.py       the main thread of each child, one task at a time
    solo        serial.py       the same, in the worker's first process: for debuggers
    threads     threads.py      so many threads of one child
    asyncio     coroutines.py   one event loop in one child; synchronous tasks in threads beside it

(parallel.py holds what the last two share, limits.py ends what runs too long.)

A pool takes batches from the feeder (`put`), runs them, and puts outcomes into the outbox.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from django_taskq.outcomes import Outcome
from django_taskq.transitions.claim import Claimed
from django_taskq.worker.executor import Executor
from django_taskq.worker.memory import MemoryLimit
from django_taskq.worker.options import WorkerOptions

if TYPE_CHECKING:
    from django_taskq.worker.record import Record

# A user connection is closed after so many seconds without a task, and when it is this old.
IDLE_CLOSE = 1.0
CONNECTION_AGE = 60.0


class Batch(NamedTuple):
    """Claimed tasks on their way to the pool, and the epoch they were claimed under."""

    epoch: int
    rows: list[Claimed]


class Dropped(NamedTuple):
    """Tasks that the pool will not start: taken away, or the worker stops."""

    rows: list[Claimed]


class Lines(Protocol):
    """What a pool writes to the terminal."""

    def write_start(self, row: Claimed) -> None: ...


class Feeding(Protocol):
    """What a pool asks of its feeder."""

    stopping: bool
    is_waiting: bool

    @property
    def lines(self) -> Lines: ...
    def start(self) -> None: ...
    def nudge(self) -> None: ...
    def report(self, row: Claimed, progress: dict[str, Any]) -> None: ...
    def is_cancelled(self, id: str) -> bool: ...
    def retire(self, why: str, *, is_hung: bool = False) -> None: ...
    def flush(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Seat:
    """What the pool and the feeder of a child share: who it is, its record, where outcomes go."""

    options: WorkerOptions
    worker_id: str
    record: Record
    outbox: deque[Outcome | Dropped]
    memory_limit: MemoryLimit | None

    @property
    def tells_starts(self) -> bool:
        """Say whether a line is written when a task starts."""
        return self.options.verbosity >= 2

    def executor(
        self, feeder: Feeding, *, arm: Callable[[float], None], disarm: Callable[[], None]
    ) -> Executor:
        """Make an executor for one thread."""
        return Executor(
            self.worker_id,
            arm=arm,
            disarm=disarm,
            report=feeder.report,
            is_stopping=lambda: feeder.stopping,
            is_cancelled=feeder.is_cancelled,
            database=self.options.database,
        )


class Pool(Protocol):
    """What the feeder and the child ask of a pool."""

    # How many tasks run at once at most, and how many do now.
    size: int

    @property
    def busy(self) -> int: ...

    def put(self, batch: Batch | None) -> None:
        """Take claimed tasks, or None: there will be no more. Called by the feeder's thread."""

    def run(self, feeder: Feeding) -> None:
        """Run tasks in this thread or others until there will be no more and all have ended."""


def pool_class(name: str) -> Callable[[Seat], Pool]:
    """Return the pool of this name."""
    if name == "threads":
        from django_taskq.worker.pools.threads import ThreadsPool

        return ThreadsPool
    if name == "asyncio":
        from django_taskq.worker.pools.coroutines import CoroutinesPool

        return CoroutinesPool
    from django_taskq.worker.pools.serial import SerialPool

    return SerialPool
