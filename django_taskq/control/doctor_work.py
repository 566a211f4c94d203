"""The doctor's looks at tasks that nobody will run, and at workers that do not move."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from shlex import quote

from django_taskq import registry
from django_taskq.control import findings
from django_taskq.control.findings import Finding, ask, error, info, of, warning
from django_taskq.control.overview import WorkerLine, oldest_due, workers
from django_taskq.suggestions import did_you_mean

# How long a task may be due before somebody has to serve its queue.
_DUE = 5.0
# How often the counters of workers are read.
_LOOK_EVERY = 0.5


class Pulse:
    """Which workers live: those whose counters have moved while we looked.

    Not by the time of the last beat: after an outage of the database, or a step of its clock, that
    says nothing.
    """

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self._first: dict[str, int] = {}
        self._began = 0.0
        self._moved: set[str] | None = None

    def start(self) -> Iterator[Finding]:
        """Read the counters for the first time; find nothing."""
        self._began = time.monotonic()
        self._first = dict(ask(self.alias, findings.BEATS))
        yield from ()

    def watch(self, seconds: float) -> list[WorkerLine]:
        """Return the workers that are listed all the time and do not move for so long."""
        if seconds <= 0:
            return []
        while True:
            now = dict(ask(self.alias, findings.BEATS))
            moved = {id for id, beat in now.items() if self._first.get(id) != beat}
            still = [
                worker
                for worker in workers(database=self.alias)
                if not moved & {worker.id, *(child.id for child in worker.children)}
            ]
            left = self._began + seconds - time.monotonic()
            if not still or left <= 0:
                return still
            time.sleep(min(left, _LOOK_EVERY))


def look_at_work(
    pulse: Pulse, *, patience: float, watch: float
) -> tuple[Callable[[str], Iterator[Finding]], ...]:
    """Return the looks; they come last, because watching takes its time."""
    watched = _Watched(pulse, watch)
    return (
        partial(_processes, watched=watched),
        partial(_queues, watched=watched, patience=patience),
        _names,
    )


class _Watched:
    """The silent workers, looked for once."""

    def __init__(self, pulse: Pulse, seconds: float) -> None:
        self.seconds = seconds
        self._pulse = pulse
        self._silent: list[WorkerLine] | None = None

    def silent(self) -> list[WorkerLine]:
        if self._silent is None:
            self._silent = self._pulse.watch(self.seconds)
        return self._silent


def _processes(alias: str, *, watched: _Watched) -> Iterator[Finding]:
    for worker in watched.silent():
        yield warning(
            "silent-worker",
            f"The worker {worker.pid or worker.id} on {worker.host} does not move its counter (it "
            f"was watched for {watched.seconds:g} s) and holds {worker.claimed} task(s).",
            "If it is dead, any other worker takes its tasks back within a minute: "
            "manage.py taskworker" + of(alias),
            f"worker {worker.pid or worker.id} on {worker.host}",
        )
    known = workers(database=alias)
    if not known:
        yield info("no-workers", "No worker runs.", "manage.py taskworker" + of(alias))
    versions = sorted({worker.version for worker in known if worker.version})
    if len(versions) > 1:
        yield warning(
            "versions",
            f"Workers of several versions run: {', '.join(versions)}.",
            "Restart the older ones.",
            "workers",
        )
    [(orphans,)] = ask(alias, findings.ORPHANS)
    if orphans:
        yield error(
            "orphans",
            f"{orphans:,} task(s) are RUNNING whose process is not in the list of workers.",
            "A worker that knows these tasks takes them back within seconds: start one. If their "
            "code is gone, see the guide on deploying: “After a machine has died”.",
        )


def _queues(alias: str, *, watched: _Watched, patience: float) -> Iterator[Finding]:
    """Look for due tasks that wait: for a worker at all, or for a place."""
    silent = {worker.id for worker in watched.silent()}
    living = [worker for worker in workers(database=alias) if worker.id not in silent]
    waits: dict[str, float] = {}
    for name, seconds in oldest_due(alias):
        waits[name] = max(seconds, waits.get(name, 0.0))
    for name, seconds in sorted(waits.items()):
        if seconds > _DUE and not any(worker.serves(name) for worker in living):
            yield error(
                "no-worker",
                f'Tasks in the queue "{name}" have been due for {seconds:.0f} s, and no worker '
                "that runs serves it.",
                f"manage.py taskworker -Q {quote(name)}{of(alias)}",
                f'queue "{name}"',
            )
        elif seconds > patience:
            yield warning(
                "late",
                f'The first due task in the queue "{name}" has waited for {seconds:.0f} s, though '
                "workers serve it.",
                "More workers, or a higher --concurrency; taskqueue list --status RUNNING shows "
                "what takes long.",
                f'queue "{name}"',
            )


def _names(alias: str) -> Iterator[Finding]:
    """Look for tasks whose names no worker knew."""
    registry.discover()
    for held_for, count in ask(alias, findings.HELD_NAMES):
        reason, _, name = held_for.partition(":")
        if reason != "unknown":
            continue
        known = registry.get(name) is not None
        yield warning(
            "held-unknown",
            f"{count:,} task(s) are held: no worker knew the name {name!r}."
            + ("" if known else did_you_mean(name, registry.names())),
            "Restart the workers: this project knows it."
            if known
            else "Deploy code that knows it (an alias for the old name will do), or: "
            f"manage.py taskqueue cancel --status HELD --task {quote(name)}{of(alias)}",
            f"task {name!r}",
        )
