"""Be a worker's process inside a test: claim, execute and store on Django's connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg

from django_taskq.exceptions import Retry, SoftTimeLimit
from django_taskq.outcomes import Committed, Failed, Lost, Outcome, Retrying
from django_taskq.testing.connection import connection_of_test
from django_taskq.testing.transactions import TestTransactions
from django_taskq.transitions import claim, finish, presence
from django_taskq.transitions.claim import Claimed
from django_taskq.worker.executor import Executor
from django_taskq.worker.lanes import QueueChoice
from django_taskq.worker.run import Run
from django_taskq.worker.store import store

# What a task may raise without ending the test: everything else that is no Exception (Ctrl+C,
# pytest's skip and timeout) is meant for whoever runs the tests.
_TASKS_OWN = (Exception, SystemExit, GeneratorExit, asyncio.CancelledError)


@dataclass(frozen=True)
class Ran:
    """One attempt: what it came to, and what the function raised."""

    row: Claimed
    outcome: Outcome
    raised: BaseException | None

    @property
    def failure(self) -> BaseException | None:
        """Return the error of a failed attempt; a task that asks for its retry has not failed."""
        if not isinstance(self.outcome, Failed | Retrying):
            return None
        if isinstance(self.outcome, Retrying) and isinstance(self.raised, Retry):
            return None
        return self.raised


class Runner:
    """A worker process of one database, without a process of its own."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.id = str(uuid4())
        self.connection = connection_of_test(alias)
        self._alarm = _Alarm()
        self._progress: dict[str, Any] | None = None
        self._turn = 0
        self._executor = _Executor(
            self.id,
            arm=self._alarm.arm,
            disarm=self._alarm.disarm,
            report=self._note_progress,
            is_stopping=lambda: False,
            database=alias,
        )

    @contextlib.contextmanager
    def present(self) -> Iterator[None]:
        """Be on the list of workers: claims need it."""
        presence.arrive(
            self.connection,
            id=self.id,
            kind="CHILD",
            parent_id=None,
            host="test",
            pid=os.getpid(),
            info={},
        )
        try:
            yield
        finally:
            # On a connection that the test itself has broken this cannot be said, and need not.
            with contextlib.suppress(psycopg.Error):
                presence.leave(self.connection, [self.id])

    def claim_next(self, choice: QueueChoice) -> Claimed | None:
        """Claim the task that a worker would start next."""
        lanes = choice.in_order(claim.found_lanes(claim.find_lanes(self.connection)), self._turn)
        if not lanes:
            return None
        self._turn += 1
        token = str(uuid4())
        answer = claim.claim(
            self.connection,
            worker_id=self.id,
            token=token,
            lanes=lanes,
            floors=["-infinity"] * len(lanes),
            limit=1,
        )
        rows, _ = claim.claimed_rows(answer, token, lanes)
        return rows[0] if rows else None

    def claim_one(self, task_id: str) -> Claimed | None:
        """Claim this very task, due or not; None if it does not wait."""
        return claim.claim_one(
            self.connection, worker_id=self.id, token=str(uuid4()), task_id=task_id
        )

    def run(self, row: Claimed) -> Ran:
        """Run a claimed task and store what it came to."""
        run = self._executor.run_of(row)
        raised: BaseException | None = None
        outcome = self._executor.outcome_without_run(row, run)
        if outcome is None:
            assert run is not None
            outcome = self._execute(row, run)
            raised = self._executor.raised
        if not isinstance(outcome, Committed | Lost):  # an atomic task stores it itself
            store(self.connection, [outcome], self.id)
        if raised is not None and not isinstance(raised, _TASKS_OWN):
            raise raised
        return Ran(row, outcome, raised)

    def _execute(self, row: Claimed, run: Run) -> Outcome:
        began = time.monotonic()
        self._progress = None
        self._executor.notice_listeners()
        with TestTransactions(row.task) as transactions:
            outcome = self._executor.execute(row, run, began)
            try:
                transactions.run_on_commit()
            except Exception as error:
                # In a worker the end of an atomic() block would have raised it in the task. The
                # hooks of an atomic task run after it has committed, and cannot undo it.
                if not isinstance(outcome, Committed):
                    outcome = self._executor.decide(row, run, error, began)
            transactions.raised = self._executor.raised
        if self._progress is not None:
            report = (row.id, row.claim, json.dumps(self._progress))
            finish.report_progress(self.connection, [report])
        return outcome

    def _note_progress(self, row: Claimed, progress: dict[str, Any]) -> None:
        """Keep the last report: an `async def` task makes it in a thread without our connection."""
        self._progress = progress


class _Executor(Executor):
    """The worker's executor; keeps what the task raised, which a worker only records."""

    raised: BaseException | None = None

    def decide(self, row: Claimed, run: Run, error: BaseException, began: float) -> Outcome:
        self.raised = error
        return super().decide(row, run, error, began)

    def execute(self, row: Claimed, run: Run, began: float) -> Outcome:
        self.raised = None
        return super().execute(row, run, began)


class _Alarm:
    """Raise SoftTimeLimit in the main thread, and leave the timer of a test's own limit alone."""

    def __init__(self) -> None:
        self._is_armed = False

    def arm(self, seconds: float) -> None:
        """Raise after so many seconds, unless this is no main thread or another limit is nearer."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._left, self._interval = signal.getitimer(signal.ITIMER_REAL)
        if 0 < self._left <= seconds:
            return
        self._began = time.monotonic()
        self._handler = signal.signal(signal.SIGALRM, self._ring)
        self._is_armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def disarm(self) -> None:
        """Do not raise any more; give the timer back."""
        if not self._is_armed:
            return
        self._is_armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._handler)
        if self._left:
            left = self._left - (time.monotonic() - self._began)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001), self._interval)

    def _ring(self, number: int, frame: Any) -> None:
        if self._is_armed:
            raise SoftTimeLimit("The task has run for its soft_timeout.")
