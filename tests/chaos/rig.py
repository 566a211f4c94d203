"""A rig: a database with ledger and history, real workers on it, faults, and the evidence after.

Everything that it does to a process is noted as an event before it is done.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
from django.db import connection as users_connection
from django.db import transaction
from django.db.utils import InterfaceError, OperationalError

from tests.chaos import actors, recording
from tests.chaos.checker import check
from tests.chaos.evidence import Evidence
from tests.chaos.figures import Figures, measure, table
from tests.processes.servers import PrivateServer
from tests.processes.support import PATIENCE, TaskWorker, is_alive, parent_of, wait_until

_TABLES = (
    "django_taskq_livetask, django_taskq_finishedtask, django_taskq_worker, "
    "chaos_ledger, chaos_event, chaos_history"
)


class Broken(AssertionError):
    """A run has broken promises; the text names the first of them."""


class Rig:
    """One database, its workers, and what was enqueued."""

    def __init__(self, url: str, directory: Path, *, seed: int = 0) -> None:
        self.url = url
        self.directory = directory
        self.random = random.Random(seed)
        # Set where the rig may crash the server.
        self.server: PrivateServer | None = None
        self.workers: list[TaskWorker] = []
        # What was enqueued, and what is wanted of it.
        self.enqueued = Evidence()
        self._names: dict[int, str] = {}
        self._connection: psycopg.Connection[Any] | None = None
        self._count = 0
        self._began = time.monotonic()

    # --- the database ----------------------------------------------------------------------------

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement behind the package's back; wait for a database that is away."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = psycopg.connect(self.url, autocommit=True)
                cursor = self._connection.execute(statement, parameters or None)
                return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                if self._connection is not None:
                    self._connection.close()
                time.sleep(0.05)

    def clear(self) -> None:
        """Empty all tables; no worker may run."""
        self.sql(f"TRUNCATE {_TABLES}")
        self.enqueued = Evidence()
        self._began = time.monotonic()

    def count(self, table: str) -> int:
        """Count the rows of a table."""
        return int(self.sql(f"SELECT count(*) FROM {table}")[0][0])

    def live(self) -> int:
        """Count the tasks that have not finished."""
        return self.count("django_taskq_livetask")

    def say(self, kind: str, *, actor: str | None = None, worker: str = "") -> None:
        """Note what is about to be done to a process, or to all of a worker."""
        self.sql(recording.SAY, kind, actor, worker, "")

    # --- tasks -----------------------------------------------------------------------------------

    def enqueue(self, task: Any, calls: Sequence[Any], *, commits: bool = True) -> list[str]:
        """Enqueue calls in a transaction that commits or not; return their ids."""
        ids: list[str] = []
        known = self.enqueued
        try:
            with transaction.atomic():
                ids = [result.id for result in task.enqueue_many(calls)]
                if not commits:
                    transaction.set_rollback(True)
        except (OperationalError, InterfaceError):
            # With ids in hand it was the COMMIT that got no answer.
            known.doubtful.update(ids)
            users_connection.close()
            return []
        (known.accepted if commits else known.refused).update(ids)
        return ids if commits else []

    # --- workers ---------------------------------------------------------------------------------

    def start(self, *arguments: str, children: int = 2, **environment: str) -> TaskWorker:
        """Start a worker and wait until its children are there."""
        self._count += 1
        name = f"w{self._count}"
        worker = TaskWorker(
            ("-v", "0", "-c", str(children), *arguments),
            url=self.url,
            directory=self.directory,
            settings="tests.chaos.settings",
            environment={actors.WORKER: name, actors.LEDGER: self.url, **environment},
        )
        self.workers.append(worker)
        self._names[worker.pid] = name
        return worker

    def name_of(self, worker: TaskWorker) -> str:
        """Return the name by which events know a worker."""
        return self._names[worker.pid]

    def children(self) -> list[tuple[str, int, int]]:
        """Return id, process id and supervisor's process id of every child that is listed."""
        return [
            (str(id), pid, parent)
            for id, pid, parent in self.sql(
                "SELECT c.id, c.pid, p.pid FROM django_taskq_worker c "
                "JOIN django_taskq_worker p ON p.id = c.parent_id "
                "WHERE c.kind = 'CHILD' AND c.pid > 0"
            )
        ]

    def wait_until_up(self, worker: TaskWorker, children: int) -> None:
        """Wait until so many children of a worker have come up."""
        name = self.name_of(worker)
        born = "SELECT count(*) FROM chaos_event WHERE kind = 'birth' AND worker = %s"
        wait_until(
            lambda: self.sql(born, name)[0][0] >= children, what=f"{children} children come up"
        )

    def wait_until_here(self, worker: TaskWorker) -> None:
        """Wait until a worker listens to signals: it does so before it connects."""
        listed = "SELECT count(*) FROM chaos_event WHERE kind = 'here' AND worker = %s"
        name = self.name_of(worker)
        wait_until(lambda: self.sql(listed, name)[0][0], what="the worker is here")

    def held_by(self, worker: TaskWorker, ids: Sequence[str] | None = None) -> int:
        """Count the tasks that a worker's processes hold; among these only, if some are named."""
        held = (
            "SELECT count(*) FROM django_taskq_livetask t JOIN chaos_event e "
            "ON e.actor = t.worker_id AND e.kind = 'birth' WHERE e.worker = %s "
            "AND (%s::uuid[] IS NULL OR t.id = ANY (%s::uuid[]))"
        )
        among = None if ids is None else list(ids)
        return int(self.sql(held, self.name_of(worker), among, among)[0][0])

    def tend(self, *codes: int) -> list[TaskWorker]:
        """Take away the workers that have ended, and return them; only these codes are expected."""
        ended = [worker for worker in self.workers if worker.process.poll() is not None]
        for worker in ended:
            self.workers.remove(worker)
            code = worker.process.returncode
            assert code in codes, f"ended with {code}:\n{worker.output[-4000:]}"
        return ended

    def stops(self) -> int:
        """Count the processes that have suspended themselves; each says so just before."""
        return int(self.sql("SELECT count(*) FROM chaos_event WHERE kind = 'stop'")[0][0])

    def wake(self, seconds: float) -> int:
        """Wake up what has suspended itself for so long; return how many still are suspended."""
        rows = self.sql(
            "SELECT s.actor::text, s.worker, s.detail, "
            "extract(epoch FROM clock_timestamp() - s.at)::float8 "
            "FROM chaos_event s WHERE s.kind = 'stop' AND NOT EXISTS (SELECT FROM chaos_event c "
            "WHERE c.kind = 'cont' AND c.seq > s.seq AND c.worker = s.worker "
            "AND c.actor IS NOT DISTINCT FROM s.actor)"
        )
        waiting = 0
        for actor, worker, pid, age in rows:
            if age < seconds:
                waiting += 1
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGCONT)
            self.sql(recording.SAY, "cont", actor, worker, pid)
        return waiting

    def kill_child(self) -> bool:
        """Kill a child by chance; False if none could be found."""
        children = self.children()
        self.random.shuffle(children)
        for actor, pid, supervisor in children:
            with contextlib.suppress(ProcessLookupError, AssertionError):
                handle = os.pidfd_open(pid)
                try:
                    # Process ids come back: this one is a child of that worker's nursery only if …
                    if parent_of(parent_of(pid)) != supervisor:
                        continue
                    self.say("death", actor=actor)
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    return True
                finally:
                    os.close(handle)
        return False

    def kill_tree(self, worker: TaskWorker) -> None:
        """Kill all processes of a worker at once, as the loss of its machine does."""
        pids = self.tree_of(worker)
        self.say("death", worker=self.name_of(worker))
        worker.process.kill()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        worker.process.wait()
        self.workers.remove(worker)
        wait_until(lambda: not any(map(is_alive, pids)), what="a killed worker's processes end")

    def tree_of(self, worker: TaskWorker) -> list[int]:
        """Return the process ids of a worker's nursery and children."""
        pids = descendants(worker.pid)
        pids.remove(worker.pid)
        return pids

    def suspend_tree(self, worker: TaskWorker) -> list[int]:
        """Suspend all processes of a worker, and return them; the supervisor first."""
        self.say("stop", worker=self.name_of(worker))
        os.kill(worker.pid, signal.SIGSTOP)
        pids = [worker.pid, *self.tree_of(worker)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        return pids

    def resume_tree(self, worker: TaskWorker, pids: Sequence[int]) -> None:
        """Wake the processes of a worker up."""
        for pid in reversed(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.say("cont", worker=self.name_of(worker))

    # --- the end ---------------------------------------------------------------------------------

    def drain(self, timeout: float = 120.0) -> None:
        """Wait until every task has finished; what has not is for the checker to name."""
        deadline = time.monotonic() + timeout
        while self.live() and time.monotonic() < deadline:
            time.sleep(0.05)

    def dismiss(self, *codes: int) -> None:
        """Ask all workers to stop, as a deployment does, and wait until they have."""
        users_connection.close()
        for worker in self.workers:
            self.wait_until_here(worker)
            if worker.process.poll() is None:
                worker.send(signal.SIGTERM)
        for worker in self.workers:
            code = worker.wait()
            assert code in (codes or (0,)), f"ended with {code}:\n{worker.output[-4000:]}"
        self.stop()

    def stop(self) -> None:
        """Stop all workers at once."""
        users_connection.close()
        while self.workers:
            worker = self.workers.pop()
            if worker.process.poll() is None:
                self.say("death", worker=self.name_of(worker))
            worker.stop()

    def evidence(self) -> Evidence:
        """Read what the run has left behind."""
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self.url, autocommit=True)
        found = recording.read(self._connection)
        known = self.enqueued
        found.accepted, found.refused, found.doubtful = (
            known.accepted,
            known.refused,
            known.doubtful,
        )
        found.expected, found.starts = known.expected, known.starts
        found.at_most_once, found.atomic = known.at_most_once, known.atomic
        return found

    def judge(self, lane: str, remarks: str = "", codes: Sequence[int] = (0,)) -> Figures:
        """Stop the workers and judge the run. Raise Broken if a promise was broken."""
        self.dismiss(*codes)
        evidence = self.evidence()
        violations = check(evidence)
        seconds = time.monotonic() - self._began
        figures = measure(lane, seconds, evidence, violations, remarks)
        sys.stdout.write(table([figures]) + "\n")
        if violations:
            raise Broken(_text(figures, violations))
        return figures

    def close(self) -> None:
        """Leave nothing running."""
        self.stop()
        if self._connection is not None:
            self._connection.close()
        users_connection.close()


def _text(figures: Figures, violations: Sequence[Any]) -> str:
    lines = [f"{v.kind}: {v.task}: {v.detail}" for v in violations[:20]]
    return "\n".join([str(figures), f"{len(violations)} broken promises, of which:", *lines])


@contextlib.contextmanager
def rig_on(url: str, directory: Path, *, seed: int = 0) -> Iterator[Rig]:
    """Give a rig on a database that has ledger and history; Django must be connected to it too."""
    rig = Rig(url, directory, seed=seed)
    rig.clear()
    try:
        yield rig
    finally:
        rig.close()


def descendants(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(AssertionError, ProcessLookupError):
                children.setdefault(parent_of(int(entry.name)), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found.extend(children.get(one, []))
    return found


def every(seconds: Callable[[], float]) -> Callable[[], bool]:
    """Return a function that says True whenever so many seconds are over."""
    at = time.monotonic() + seconds()

    def is_due() -> bool:
        nonlocal at
        if time.monotonic() < at:
            return False
        at = time.monotonic() + seconds()
        return True

    return is_due
