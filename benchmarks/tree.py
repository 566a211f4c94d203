"""A source tree of django_taskq and a database with its tables: fill it, run its worker on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks import server
from benchmarks.measure import BenchmarkError

ROOT = Path(__file__).resolve().parent.parent
PROJECT = Path(__file__).resolve().parent / "project"

# Seconds after which a worker that has not ended is given up.
_PATIENCE = 600


@dataclass(frozen=True)
class Tree:
    """The benchmark's project with the django_taskq of `root`, on the database at `url`."""

    url: str
    root: Path = ROOT
    # Another project than the benchmark's own, and what its settings need.
    project: Path = PROJECT
    settings: tuple[tuple[str, str], ...] = ()

    def environment(self) -> dict[str, str]:
        """Return the environment of its processes."""
        ours = {name: text for name, text in os.environ.items() if not name.startswith("DJANGO_")}
        return {
            **ours,
            "DATABASE_URL": self.url,
            "PYTHONPATH": str(self.root),
            # No file of a tree that is removed, or installed elsewhere, may be left behind.
            "PYTHONDONTWRITEBYTECODE": "1",
            **dict(self.settings),
        }

    def manage(self, *arguments: str) -> str:
        """Run a command of the project and return what it wrote."""
        done = subprocess.run(
            self._command(arguments),
            # A process that a worker starts may look into its directory before PYTHONPATH, and
            # would find the django_taskq of whoever runs this.
            cwd=self.project,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
        )
        if done.returncode:
            raise BenchmarkError(f"manage.py {' '.join(arguments)} failed:\n{done.stderr}")
        return done.stdout

    def migrate(self) -> None:
        """Create the tables, and make sure that they are those of this tree."""
        self.manage("migrate", "-v", "0")
        used = Path(self.manage("shell", "-v", "0", "-c", _WHERE).strip().splitlines()[-1])
        if not used.is_relative_to(self.root.resolve()):
            raise BenchmarkError(f"{self.root} was meant, but {used} was imported.")

    def fill(self, count: int, *how: str) -> None:
        """Enqueue no-ops, or what the options of the project's command `fill` say."""
        self.manage("fill", str(count), *how)

    def drain(
        self, processes: int, count: int, *arguments: str, since: datetime | None = None
    ) -> float:
        """Run all that waits with a worker of such a `-c`; return tasks per second."""
        with self.worker("-c", str(processes), "--burst", *arguments) as worker:
            code = worker.wait(_PATIENCE)
        if code:
            raise BenchmarkError(f"The worker ended with {code}.")
        return rate(self.url, count, since=since)

    @contextmanager
    def worker(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run a worker; stop it at the end if it still runs."""
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(
                self._command(("taskworker", "-v", "0", *arguments)),
                cwd=self.project,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
            )
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    process.wait(60)
                if process.returncode:
                    log.seek(0)
                    sys.stderr.write(log.read())

    def wait_for_children(self, count: int) -> None:
        """Wait until the worker on this database has so many children and all are up."""
        deadline = time.monotonic() + 60
        with server.connect(self.url) as connection:
            while time.monotonic() < deadline:
                row = connection.execute(_CHILDREN).fetchone()
                if row is not None and row[0] == count:
                    time.sleep(0.5)  # they are known as soon as they are forked
                    return
                time.sleep(0.05)
        raise BenchmarkError("The worker did not come up within a minute.")

    def _command(self, arguments: Sequence[str]) -> list[str]:
        return [sys.executable, str(self.project / "manage.py"), *arguments]


_WHERE = "import django_taskq; print(django_taskq.__file__)"

_CHILDREN = "SELECT count(*) FROM django_taskq_worker WHERE kind = 'CHILD' AND pid > 0"

# By the rows' own times: neither the start of processes nor their end is counted.
_FINISHED = """
SELECT count(*), extract(epoch FROM max(finished_at) - min(started_at))::float8
FROM django_taskq_finishedtask
WHERE status = 'SUCCESSFUL' AND enqueued_at >= %s
"""


def rate(url: str, count: int, *, since: datetime | None = None) -> float:
    """Return tasks per second, from the first start to the last finish.

    Raise BenchmarkError unless exactly `count` tasks have succeeded and none is left: a queue that
    loses tasks is fast for the wrong reason.
    """
    with server.connect(url) as connection:
        row = connection.execute(_FINISHED, [since or datetime.min]).fetchone()
        left = connection.execute("SELECT count(*) FROM django_taskq_livetask").fetchone()
    assert row is not None and left is not None
    if row[0] != count or left[0]:
        raise BenchmarkError(
            f"{row[0]:,} of {count:,} tasks have succeeded and {left[0]:,} are left: no figure."
        )
    return count / max(float(row[1]), 1e-6)


def now(url: str) -> datetime:
    """Return the time of the database's clock."""
    with server.connect(url) as connection:
        row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment
