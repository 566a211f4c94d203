"""Run one claimed task and say what it came to. Decides, writes nothing.

run.py         how it is to be run: its function and options
decision.py    what becomes of a task that is not started, or has raised
listeners.py   what a running task and Django's signals are told
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import math
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.db import DEFAULT_DB_ALIAS

from django_taskq.carried import carrying
from django_taskq.exceptions import (
    ArgumentsError,
    SignatureMismatch,
    SoftTimeLimit,
    UnstorableResult,
)
from django_taskq.outcomes import Cancelled, Committed, Completed, Failed, Outcome
from django_taskq.redact import Hide, hider
from django_taskq.serialization import dump_value, storable
from django_taskq.statuses import TaskStatus
from django_taskq.task import TaskContext, find
from django_taskq.transitions.claim import Claimed
from django_taskq.worker import decision
from django_taskq.worker.atomic import AtomicRunner, Body, Report
from django_taskq.worker.listeners import Listeners, shown_result
from django_taskq.worker.run import Run, run_of_task, with_options

_loads = json.loads

# Of what a task says about its progress so many characters are kept.
_MAX_MESSAGE = 2048


class Executor:
    """Run tasks for one worker process, one at a time."""

    def __init__(
        self,
        worker_id: str,
        *,
        arm: Callable[[float], None],
        disarm: Callable[[], None],
        report: Callable[[Claimed, dict[str, Any]], None],
        is_stopping: Callable[[], bool],
        is_cancelled: Callable[[str], bool] = lambda id: False,
        database: str = DEFAULT_DB_ALIAS,
    ) -> None:
        self.worker_id = worker_id
        # Raise SoftTimeLimit in this thread after so many seconds / no longer.
        self.arm = arm
        self.disarm = disarm
        self.report = report
        self.is_stopping = is_stopping
        self.is_cancelled = is_cancelled
        self.atomic = AtomicRunner(database, report, worker_id)
        self.listeners = Listeners(worker_id)
        self._runs: dict[str, Run] = {}

    def notice_listeners(self) -> None:
        """Look, once per batch, whether anybody hears Django's signals."""
        self.listeners.notice()

    def run_of(self, row: Claimed) -> Run | None:
        """Return how to run a row's task; None if its name is not known here."""
        run = self._runs.get(row.task)
        if run is None:
            task = find(row.task)
            if task is None:
                return None
            run = self._runs[row.task] = run_of_task(task)
        return run if row.options is None else with_options(run, row.options)

    def outcome_without_run(self, row: Claimed, run: Run | None) -> Outcome | None:
        """Say what becomes of a row that is not to be started here and now; None: start it."""
        if row.is_cancelled or self.is_cancelled(row.id):
            return decision.cancel_unstarted(row, self.worker_id)
        if run is None:
            return decision.park_unknown(row)
        return decision.expire(row, self.worker_id) if row.is_expired else None

    def execute(self, row: Claimed, run: Run, began: float) -> Outcome:
        """Run the task: the one place where anything that user code raises is caught."""
        listeners = self.listeners
        try:
            if listeners.hear_start:
                listeners.send_start(row, run)
            if run.atomic:
                return self._execute_atomic(row, run, began)
            value, text = self._call(row, run)
            outcome: Outcome = Completed(row.id, row.claim, text, began, time.monotonic())
            if listeners.hear_success:
                listeners.send_success(row, run, value)
            return outcome
        # SystemExit and KeyboardInterrupt too: a task must not end the process, and the worker
        # itself is never stopped by an exception.
        except BaseException as error:
            outcome = self.decide(row, run, error, began)
            if listeners.hear_failure and isinstance(outcome, Failed | Cancelled):
                listeners.send_failure(row, run, outcome.error)
            return outcome

    async def execute_async(self, row: Claimed, run: Run, began: float) -> Outcome:
        """Do what `execute` does with an `async def` task, on the running loop.

        Called in a context of its own. Whoever hears Django's signals may use the database, and so
        hears them in a thread.
        """
        listeners = self.listeners
        try:
            args, kwargs = self._arguments(row, run)
            if listeners.hear_start:
                await sync_to_async(listeners.send_start)(row, run)
            func = run.task.func
            if row.headers is not None:
                func = carrying(func, row.headers)
            if run.soft_timeout:
                value = await _await_within(run.soft_timeout, func, args, kwargs)
            else:
                value = await func(*args, **kwargs)
            text = self._storable(run, value) if run.store_result else None
            outcome: Outcome = Completed(row.id, row.claim, text, began, time.monotonic())
            if listeners.hear_success:
                await sync_to_async(listeners.send_success)(row, run, value)
            return outcome
        except BaseException as error:
            outcome = self.decide(row, run, error, began)
            if listeners.hear_failure and isinstance(outcome, Failed | Cancelled):
                await sync_to_async(listeners.send_failure)(row, run, outcome.error)
            return outcome

    def decide(self, row: Claimed, run: Run, error: BaseException, began: float) -> Outcome:
        """Turn what a task raised into what becomes of it; never raise, whatever that does."""
        return decision.decide(
            row,
            run,
            error,
            began,
            worker_id=self.worker_id,
            is_cancelled=self.is_cancelled(row.id),
        )

    def overdue(self, row: Claimed, run: Run, began: float) -> Outcome:
        """Say what becomes of a task that has not ended within its hard time limit."""
        return self.decide(row, run, decision.overdue_error(run), began)

    def _execute_atomic(self, row: Claimed, run: Run, began: float) -> Outcome:
        """Run the task in a transaction of its own, which also stores its result."""
        call = partial(self._call, row, run)
        outcome, value = self.atomic.run(row, began, call, reports=run.takes_context)
        # Not in the transaction: a receiver that fails would break it.
        if self.listeners.hear_success and isinstance(outcome, Committed):
            self.listeners.send_success(row, run, value)
        return outcome

    def _call(self, row: Claimed, run: Run, report: Report | None = None) -> Body:
        """Call the function; return its value and what is stored of it."""
        args, kwargs = self._arguments(row, run, report)
        if run.soft_timeout:
            value = self._call_within(run.soft_timeout, row, run, args, kwargs)
        else:
            func = run.func if row.headers is None else carrying(run.func, row.headers)
            # In a context of its own: what a task sets, the next does not see.
            value = contextvars.Context().run(func, *args, **kwargs)
        return value, self._storable(run, value) if run.store_result else None

    def _arguments(
        self, row: Claimed, run: Run, report: Report | None = None
    ) -> tuple[Sequence[Any], dict[str, Any]]:
        if run.problem:
            raise SignatureMismatch(run.problem)
        try:
            args = _loads(row.args) if row.args != "[]" else ()
            kwargs = _loads(row.kwargs) if row.kwargs != "{}" else {}
        except (ValueError, RecursionError) as error:  # too many digits, nested too deeply
            raise SignatureMismatch(f"The row's arguments cannot be read: {error}.") from None
        if (args and type(args) is not list) or (kwargs and type(kwargs) is not dict):
            raise SignatureMismatch("The row's args are no JSON list, or its kwargs no object.")
        if run.takes_context:
            args = (self._task_context(row, run, report), *args)
        return args, kwargs

    def _task_context(self, row: Claimed, run: Run, report: Report | None) -> TaskContext:
        hide = cache(partial(hider, run.task, row.args, row.kwargs))
        pass_on = report or partial(self.report, row)
        return TaskContext(
            task_result=shown_result(row, run, TaskStatus.RUNNING, self.worker_id),
            report=lambda progress: pass_on(_reportable(progress, hide)),
            stopping=self.is_stopping,
            cancelled=partial(self.is_cancelled, row.id),
        )

    def _call_within(
        self, seconds: float, row: Claimed, run: Run, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Call the task's function; after so many seconds SoftTimeLimit is raised in it."""
        context = contextvars.Context()
        func = run.task.func
        if row.headers is not None:
            func = carrying(func, row.headers)
        if run.is_async:
            # Its loop runs in a thread of its own, where no alarm would reach it.
            return context.run(async_to_sync(_await_within), seconds, func, args, kwargs)
        self.arm(seconds)
        try:
            return context.run(func, *args, **kwargs)
        finally:
            self.disarm()

    def _storable(self, run: Run, value: Any) -> str:
        if value is None:
            return "null"
        try:
            return dump_value(run.task.name, value)
        except (TypeError, ValueError, RecursionError) as error:
            raise UnstorableResult(str(error)) from None


async def _await_within(
    seconds: float, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    """Await a function; after so many seconds it is cancelled, and SoftTimeLimit raised."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await func(*args, **kwargs)
    except TimeoutError:
        if limit.expired():
            raise SoftTimeLimit from None
        raise


def _reportable(progress: dict[str, Any], hide: Callable[[], Hide | None]) -> dict[str, Any]:
    """Return progress as it can be stored. Raise ArgumentsError if that is not possible."""
    for name in ("done", "total"):
        value = progress[name]
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            raise ArgumentsError(f"progress({name}={value!r}) takes a finite number.")
    message = str(progress["message"])
    if message and (masked := hide()) is not None:
        message = masked(message)
    return {**progress, "message": storable(message)[:_MAX_MESSAGE]}
