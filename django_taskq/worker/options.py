"""What a worker was asked to do: made by the command line, passed to nursery and children."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """The options of one worker."""

    # The alias of the database with the tables.
    database: str
    # Names and globs, in order of preference; none is all queues.
    queues: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    # Where tasks run: "processes", "threads", "asyncio" or "solo".
    pool: str = "processes"
    # How many tasks run at once: in so many children, or in one child.
    concurrency: int = 1
    # Stop when nothing is due.
    burst: bool = False
    # Start no more tasks than this; 0 is no limit.
    max_tasks: int = 0
    # A child is replaced after so many tasks; 0 is no limit.
    max_tasks_per_child: int = 0
    # A child is replaced when it holds more than so many megabytes; 0 is no limit.
    max_memory_per_child: int = 0
    # Seconds that running tasks get after the first signal to stop.
    shutdown_timeout: float = 25.0
    # Seconds to wait at the start for a database that is down.
    database_wait: float = 60.0
    listen: bool = True
    # Start anew when the code changes.
    reload: bool = False
    # Load the project once for all children; else each loads it for itself.
    preload: bool = True
    # Where probes are answered; port 0 is nowhere.
    health_host: str = "127.0.0.1"
    health_port: int = 0
    # 0: warnings only; 1: a line per task; 2: also one when a task starts.
    verbosity: int = 1
    color: bool = False

    @property
    def places(self) -> int:
        """Return how many tasks each child runs at once; 0 if it runs one after the other."""
        return self.concurrency if self.pool in ("threads", "asyncio") else 0

    @property
    def children(self) -> int:
        """Return how many processes run tasks."""
        return self.concurrency if self.pool == "processes" else 1

    def to_json(self) -> str:
        """Write the options for another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        for name in ("queues", "excluded"):
            values[name] = tuple(values[name])
        return cls(**values)
