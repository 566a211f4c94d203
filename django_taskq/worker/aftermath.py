"""Settle what dead and stuck children held, as soon as the database answers."""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from dataclasses import dataclass

from django_taskq import db
from django_taskq.db import Connection
from django_taskq.events import one_line, worker_log
from django_taskq.exceptions import HardTimeLimit, TaskCrashed
from django_taskq.outcomes import Failed, Retrying, Unstored
from django_taskq.serialization import class_path, error_record
from django_taskq.task import at_most_once_names, find
from django_taskq.transitions import presence, rescue
from django_taskq.worker import store
from django_taskq.worker.console import TaskLines
from django_taskq.worker.decision import overdue_error, retry_delay
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.record import Holdings
from django_taskq.worker.run import run_of_row

# When to try again to settle what somebody else holds a lock on. Each try may wait for a second.
_AGAIN = 2.0


@dataclass(frozen=True, kw_only=True)
class Death:
    """A child that was reaped, and what it held."""

    worker_id: str
    slot: int
    pid: int
    # The exit code, minus the signal, or None if nobody could ask.
    status: int | None
    held: Holdings
    # "timeout" or "stop" if its supervisor killed it.
    killed_for: str
    # What ran when it was killed for a hard time limit, and was over it.
    overdue: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Say whether it ended by itself, having put everything down.

        A task may call os._exit(0): that is a crash all the same.
        """
        return self.status == 0 and not self.held.running

    @property
    def reason(self) -> str:
        """Return how it died, in words."""
        if self.status is None:
            return "is given up" if self.killed_for else "died with its nursery"
        if self.status >= 0:
            return f"exited with {self.status}"
        try:
            return f"was killed by {signal.Signals(-self.status).name}"
        except ValueError:
            return f"was killed by signal {-self.status}"

    def log(self) -> None:
        """Say who died, how, and what it was doing."""
        expected = self.is_clean or self.killed_for
        why = {"timeout": " (hard time limit)", "stop": " (grace time over)"}
        worker_log.log(
            logging.INFO if expected else logging.ERROR,
            "Child %d (pid %d) %s%s%s.",
            self.slot,
            self.pid,
            self.reason,
            why.get(self.killed_for, ""),
            f" while it ran task {', '.join(self.held.running)}" if self.held.running else "",
        )


class Aftermath:
    """What is to be settled; nothing is forgotten while the database is away."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._relieved: deque[tuple[str, Holdings]] = deque()
        self._deaths: deque[Death] = deque()
        # When to settle; in the past, unless somebody was in the way.
        self.settle_at = 0.0

    @property
    def waits(self) -> bool:
        """Say whether something is left to settle."""
        return bool(self._relieved or self._deaths)

    @property
    def worker_ids(self) -> list[str]:
        """Return the ids of the dead that are still to be settled."""
        return [death.worker_id for death in self._deaths]

    @property
    def is_held_up(self) -> bool:
        """Say whether the last try met somebody who held a row."""
        return self.settle_at > 0.0

    def give_back(self, worker_id: str, held: Holdings) -> None:
        """Have the unstarted tasks of a living child given back."""
        self._relieved.append((worker_id, held))

    def add(self, death: Death) -> None:
        """Have everything settled that a dead child held."""
        self._deaths.append(death)

    def settle(self, connection: Connection) -> bool:
        """Do what is to be done; say whether there was something.

        Each entry is forgotten only when it is done. Where somebody holds a row for longer, it is
        tried again later: beats must not wait for him.
        """
        waited = self.waits and time.monotonic() >= self.settle_at
        if waited:
            try:
                self._settle(connection)
                self.settle_at = 0.0
            except db.Contention as error:
                db.roll_back(connection)
                self.settle_at = time.monotonic() + _AGAIN
                worker_log.warning(
                    "What a child held cannot be settled yet (%s); trying again.",
                    store.brief(error),
                )
        return waited

    def _settle(self, connection: Connection) -> None:
        while self._relieved:
            worker_id, held = self._relieved[0]
            # A task may have started here before, and wait here again.
            kept = set(held.started) - set(held.unstarted)
            rescue.give_back_unstarted(connection, worker_id, claims=held.claims, kept=kept)
            self._relieved.popleft()
        while self._deaths:
            self._settle_death(connection, self._deaths[0])
            self._deaths.popleft()

    def _settle_death(self, connection: Connection, death: Death) -> None:
        held = death.held
        rescue.give_back(connection, death.worker_id, kept=held.started)
        starts = list(zip(held.running, held.since, strict=True))
        rescue.note_start(connection, death.worker_id, starts)
        # An overdue task may have ended at the last moment, and another one started.
        for task_id in held.running:
            if task_id in death.overdue:
                self._end_overdue(connection, death, task_id)
        is_accident = not (death.killed_for or death.is_clean or death.status is None)
        # Of several only one is guilty; who is blamed twice runs alone, which shows it.
        blamed = held.running if is_accident else ()
        for task_id in blamed:
            self._name_blamed(connection, death, task_id)
        error = crash_record(death.worker_id, f"The process that ran the task {death.reason}.")
        rescue.rescue(
            connection, death.worker_id, running=blamed, error=error, once=_once_of(death)
        )
        presence.leave(connection, [death.worker_id])

    def _name_blamed(self, connection: Connection, death: Death, task_id: str) -> None:
        row = rescue.read_running(connection, death.worker_id, task_id)
        if row is not None:
            worker_log.error(
                "Task %s (%s) crashed: its process %s.",
                task_id,
                one_line(row.task),
                death.reason,
            )

    def _end_overdue(self, connection: Connection, death: Death, task_id: str) -> None:
        """Record the failed attempt of a task that was killed for its hard time limit."""
        row = rescue.read_running(connection, death.worker_id, task_id)
        task = find(row.task) if row is not None else None
        if row is None or task is None:
            return
        run = run_of_row(task, row.options)
        error = overdue_error(run)
        record = error_record(
            class_path=class_path(HardTimeLimit),
            message=str(error),
            traceback_text="",
            attempt=row.attempts,
            worker=death.worker_id,
        )
        delay = retry_delay(run, row.attempts, row.max_attempts, error)
        began, ended = row.began, row.ended
        outcome: Unstored = (
            Failed(task_id, row.claim, record, began, ended)
            if delay is None
            else Retrying(task_id, row.claim, record, delay, began, ended)
        )
        store.store(connection, [outcome], death.worker_id)
        TaskLines(self._options, death.worker_id).write([outcome], {task_id: row})


def _once_of(death: Death) -> rescue.Once | None:
    """Say what becomes of `at_most_once` tasks that a dead child had started."""
    names = at_most_once_names()
    if not names:
        return None
    when = " when the grace time of a stop was over" if death.killed_for == "stop" else ""
    why = "at_most_once=True: it is not started again."
    return rescue.Once(
        names=sorted(names),
        running=death.held.running,
        error=crash_record(
            death.worker_id, f"The process that ran the task {death.reason}{when}. {why}"
        ),
        unsent=crash_record(
            death.worker_id,
            f"The process {death.reason}{when} after it had run the task, before its outcome was "
            f"stored. The task may have succeeded. {why}",
        ),
    )


def crash_record(worker_id: str, message: str) -> str:
    """Return the record of a crash, as JSON text."""
    return error_record(
        class_path=class_path(TaskCrashed),
        message=message,
        traceback_text="",
        attempt=0,
        worker=worker_id,
    )
