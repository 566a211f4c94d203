"""Start real workers, and look at them from outside as a user would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from django.db import connection

from django_taskq.models import LiveTask, Worker
from tests.processes import tasks
from tests.support.databases import ROOT

# How long set-up may take on a busy machine. Promised times are asserted on their own.
PATIENCE = 60.0

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = PATIENCE, what: str = "") -> T:
    """Return what `condition` returns as soon as it is true. Raise AssertionError if it is late."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what or condition}"
        time.sleep(0.01)
    return value


def sql(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Run a statement behind the package's back."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def statuses() -> Counter[str]:
    """Count the unfinished tasks by status."""
    return Counter(LiveTask.objects.values_list("status", flat=True))


def stay_free(seconds: float) -> bool:
    """Say whether the READY tasks are left alone for a while: not claimed and put back either."""

    def versions() -> list[tuple[Any, ...]]:
        # Whoever changes a row makes a new version of it.
        return sql("SELECT id, xmin::text FROM django_taskq_livetask WHERE status = 'READY'")

    before, deadline = set(versions()), time.monotonic() + seconds
    while time.monotonic() < deadline:
        if set(versions()) != before:
            return False
        time.sleep(0.005)
    return True


def warm_up(ledger: Ledger, children: int) -> None:
    """Let each child learn that tasks are short: from then on they claim many at once."""
    warm = Ledger(Path(ledger.path + ".warm"))
    # Long enough for several to take part, short enough for some tens to be claimed ahead.
    seconds = 0.001 if children > 1 else 0.0
    for _ in range(30):
        calls = [(warm.path, "warm", seconds)] * (150 * children)
        for result in tasks.note.enqueue_many(calls):
            result.wait(timeout=PATIENCE)
        counts = Counter(start.pid for start in warm.starts())
        if len(counts) >= children and min(counts.values()) >= 60:
            return
    raise AssertionError(f"some children get no work: {counts}")


# --- the ledger ----------------------------------------------------------------------------------


class Start(NamedTuple):
    """A line of the ledger."""

    tag: str
    pid: int
    # A reading of the monotonic clock, which is the same in all processes of a machine.
    at: float


class Ledger:
    """The file in which tasks note that they have started."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def starts(self) -> list[Start]:
        """Return all starts so far, in order."""
        try:
            text = Path(self.path).read_text()
        except FileNotFoundError:
            return []
        # A reader can see a line half written where it crosses a page of the file.
        whole = text[: text.rfind("\n") + 1]
        parts = (line.split() for line in whole.splitlines())
        return [Start(tag, int(pid), float(at)) for tag, pid, at in parts]

    def tags(self) -> list[str]:
        """Return what has started so far, in order."""
        return [start.tag for start in self.starts()]

    def start_of(self, tag: str) -> Start:
        """Return the one start of a task, when it has started."""
        wait_until(lambda: tag in self.tags(), what=f"{tag} starts")
        (start,) = [start for start in self.starts() if start.tag == tag]
        return start


class Gate:
    """A file for which tasks wait."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def open(self) -> None:
        """Let them go on."""
        Path(self.path).touch()


# --- processes -----------------------------------------------------------------------------------


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that only waits to be reaped does not."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def parent_of(pid: int) -> int:
    """Return the process id of a process's parent."""
    stat = _stat(pid)
    assert stat is not None, f"process {pid} is gone"
    return int(stat[1])


def _stat(pid: int) -> list[str] | None:
    """Return state and parent of a process; None if there is none."""
    if sys.platform == "linux":
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return text.rpartition(")")[2].split()[:2]
    answer = subprocess.run(
        ["ps", "-o", "state=,ppid=", "-p", str(pid)], capture_output=True, text=True
    )
    return answer.stdout.split() or None


class TaskWorker:
    """A `manage.py taskworker` that runs."""

    def __init__(
        self,
        arguments: tuple[str, ...],
        *,
        url: str,
        directory: Path,
        settings: str = "tests.processes.settings",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._output = directory / f"worker-{time.monotonic_ns()}.log"
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("TASKWORKER_") and name != "PYTHONDONTWRITEBYTECODE"
        }
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "django", "taskworker", *arguments],
                env={
                    **inherited,
                    "DATABASE_URL": url,
                    "DJANGO_SETTINGS_MODULE": settings,
                    "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)]),
                    "PYTHONUNBUFFERED": "1",
                    # Compile once per session, not twice per worker.
                    "PYTHONPYCACHEPREFIX": str(directory.parent / "pycache"),
                    **(environment or {}),
                },
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a process group, as a terminal would give it
            )
        self.pid = self.process.pid
        # Every child that this worker has been seen with, and its nursery.
        self._seen: set[int] = set()

    @property
    def output(self) -> str:
        """Return what it has written so far."""
        return self._output.read_text()

    def wait_for(self, text: str, timeout: float = PATIENCE) -> None:
        """Wait until it has written something."""
        wait_until(
            lambda: text in self.output or self._has_ended(text), timeout, f"the worker says {text}"
        )

    def wait_until_ready(self, children: int) -> None:
        """Wait until its children are there."""
        wait_until(
            lambda: len(self.children()) >= children or self._has_ended("children"),
            what="children come up",
        )

    def children(self) -> dict[int, str]:
        """Return the ids of its children by process id, as the workers' rows show them."""
        rows = Worker.objects.filter(kind="CHILD", pid__gt=0, parent_id=self._row_id())
        found = {row.pid: str(row.id) for row in rows}
        self._seen.update(found)
        return found

    def nursery(self) -> int:
        """Return the process id of the nursery: the parent of its children."""
        self.nursery_pid = parent_of(next(iter(self.children())))
        self._seen.add(self.nursery_pid)
        return self.nursery_pid

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait until it has ended; return its exit code."""
        return self.process.wait(timeout)

    def send(self, number: int) -> None:
        """Send a signal to the supervisor."""
        self.process.send_signal(number)

    def stop(self) -> None:
        """Stop it at once, whatever it does, and wait until all its processes are gone."""
        if self.process.poll() is None:
            self.children()
            self.send(signal.SIGQUIT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        wait_until(lambda: not any(map(is_alive, self._seen)), what="its processes end")
        # For whoever reads why a test failed.
        lines = [line for line in self.output.splitlines() if " ✓ " not in line]
        sys.stdout.write("\n".join([f"--- worker {self.pid}:", *lines[-60:], ""]))

    def _row_id(self) -> str | None:
        row = Worker.objects.filter(kind="SUPERVISOR", pid=self.pid).first()
        return str(row.id) if row is not None else None

    def _has_ended(self, before: str) -> bool:
        """Raise AssertionError if it has ended: what is waited for will not come."""
        code = self.process.poll()
        assert code is None, f"ended with {code} before {before}:\n{self.output}"
        return False


@contextmanager
def tables() -> Iterator[None]:
    """Give a test empty tables and leave them empty."""
    _empty()
    try:
        yield
    finally:
        _empty()


def _empty() -> None:
    sql("SET lock_timeout = '20s'")
    sql(
        "TRUNCATE django_taskq_livetask, django_taskq_finishedtask, django_taskq_worker, "
        "auth_group CASCADE"
    )
