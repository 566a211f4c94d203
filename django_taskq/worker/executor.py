"""Run one claimed task and say what it came to. Decides, writes nothing."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from inspect import iscoroutinefunction, signature
from types import TracebackType
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.db import DEFAULT_DB_ALIAS

from django_taskq.carried import carrying, decode
from django_taskq.events import is_heard, one_line, task_log
from django_taskq.exceptions import (
    ArgumentsError,
    Cancel,
    HardTimeLimit,
    Retry,
    SignatureMismatch,
    Snooze,
    SoftTimeLimit,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    UnstorableResult,
)
from django_taskq.outcomes import (
    Cancelled,
    CancelledUnstarted,
    Committed,
    Completed,
    Expired,
    Failed,
    Outcome,
    Parked,
    Retrying,
    Snoozed,
)
from django_taskq.redact import Hide, RedactedError, hider
from django_taskq.results import TaskResult, decode_errors
from django_taskq.retries import backoff_from_json, check_backoff, next_delay, should_retry
from django_taskq.serialization import (
    class_path,
    dump_error,
    dump_value,
    error_record,
    storable,
)
from django_taskq.statuses import TaskStatus
from django_taskq.task import Task, TaskContext, find, rebuilt
from django_taskq.task_options import in_seconds
from django_taskq.tasks_api import TaskResultStatus, task_finished, task_started
from django_taskq.transitions.claim import Claimed
from django_taskq.transitions.operate import held_for_unknown
from django_taskq.worker.atomic import ASKED_TO_END, AtomicRunner, Body, Report

_loads = json.loads

# Of what a task says about its progress so many characters are kept.
_MAX_MESSAGE = 2048


@dataclass(slots=True)
class Run:
    """How a task is to be run: its function and its options, those of its row included."""

    task: Task[..., Any]
    func: Callable[..., Any]
    is_async: bool
    takes_context: bool
    timeout: float | None
    soft_timeout: float | None
    store_result: bool
    atomic: bool
    backoff: Any
    # Why it cannot be run: a row that was made by SQL may hold anything.
    problem: str = ""


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
        self.atomic = AtomicRunner(database, report)
        self._runs: dict[str, Run] = {}
        self.notice_listeners()

    def notice_listeners(self) -> None:
        """Look, once per batch, whether anybody hears Django's signals."""
        self._started_heard = is_heard(task_started, logging.INFO)
        self._success_heard = is_heard(task_finished, logging.INFO)
        self._failure_heard = is_heard(task_finished, logging.ERROR)

    def run_of(self, row: Claimed) -> Run | None:
        """Return how to run a row's task; None if its name is not known here."""
        run = self._runs.get(row.task)
        if run is None:
            task = find(row.task)
            if task is None:
                return None
            run = self._runs[row.task] = _run_of(task)
        return run if row.options is None else _with_options(run, row.options)

    def park_unknown(self, row: Claimed) -> Parked:
        """Say that a row's task is not known here: it waits for a worker that knows it."""
        return Parked(row.id, row.claim, held_for_unknown(row.task))

    def expire(self, row: Claimed) -> Expired:
        """Say that a row was claimed too late to be started."""
        error = self._unstarted(row, TaskExpired, "It was not started within its expires_after.")
        now = time.monotonic()
        return Expired(row.id, row.claim, error, now, now)

    def cancel_unstarted(self, row: Claimed) -> CancelledUnstarted:
        """Say that a row is not started, because somebody had asked it to end."""
        error = self._unstarted(row, TaskCancelled, "Cancelled before it was started again.")
        now = time.monotonic()
        return CancelledUnstarted(row.id, row.claim, error, now, now)

    def _unstarted(self, row: Claimed, kind: type[Exception], message: str) -> str:
        return error_record(
            class_path=class_path(kind),
            message=message,
            traceback_text="",
            attempt=row.attempts - 1,
            worker=self.worker_id,
        )

    def outcome_without_run(self, row: Claimed, run: Run | None) -> Outcome | None:
        """Say what becomes of a row that is not to be started here and now; None: start it."""
        if row.is_cancelled or self.is_cancelled(row.id):
            return self.cancel_unstarted(row)
        if run is None:
            return self.park_unknown(row)
        return self.expire(row) if row.is_expired else None

    def execute(self, row: Claimed, run: Run, began: float) -> Outcome:
        """Run the task: the one place where anything that user code raises is caught."""
        try:
            if self._started_heard:
                self._send(task_started, row, run, TaskStatus.RUNNING)
            if run.atomic:
                return self._execute_atomic(row, run, began)
            value, text = self._call(row, run)
            outcome: Outcome = Completed(row.id, row.claim, text, began, time.monotonic())
            if self._success_heard:
                self._send(task_finished, row, run, TaskStatus.SUCCESSFUL, value=value)
            return outcome
        # SystemExit and KeyboardInterrupt too: a task must not end the process, and the worker
        # itself is never stopped by an exception.
        except BaseException as error:
            outcome = self._decide(row, run, error, began)
            if self._failure_heard and isinstance(outcome, Failed | Cancelled):
                self._tell_of_failure(row, run, outcome.error)
            return outcome

    async def execute_async(self, row: Claimed, run: Run, began: float) -> Outcome:
        """Do what `execute` does with an `async def` task, on the running loop.

        Called in a context of its own. Whoever hears Django's signals may use the database, and so
        hears them in a thread.
        """
        try:
            args, kwargs = self._arguments(row, run)
            if self._started_heard:
                await sync_to_async(self._send)(task_started, row, run, TaskStatus.RUNNING)
            func = run.task.func
            if row.headers is not None:
                func = carrying(func, row.headers)
            if run.soft_timeout:
                value = await _await_within(run.soft_timeout, func, args, kwargs)
            else:
                value = await func(*args, **kwargs)
            text = self._storable(run, value) if run.store_result else None
            outcome: Outcome = Completed(row.id, row.claim, text, began, time.monotonic())
            if self._success_heard:
                await sync_to_async(self._send)(
                    task_finished, row, run, TaskStatus.SUCCESSFUL, value=value
                )
            return outcome
        except BaseException as error:
            outcome = self._decide(row, run, error, began)
            if self._failure_heard and isinstance(outcome, Failed | Cancelled):
                await sync_to_async(self._tell_of_failure)(row, run, outcome.error)
            return outcome

    def overdue(self, row: Claimed, run: Run, began: float) -> Outcome:
        """Say what becomes of a task that has not ended within its hard time limit."""
        return self._decide(row, run, overdue_error(run), began)

    def _execute_atomic(self, row: Claimed, run: Run, began: float) -> Outcome:
        """Run the task in a transaction of its own, which also stores its result."""
        call = partial(self._call, row, run)
        outcome, value = self.atomic.run(row, began, call, reports=run.takes_context)
        # Not in the transaction: a receiver that fails would break it.
        if self._success_heard and isinstance(outcome, Committed):
            self._send(task_finished, row, run, TaskStatus.SUCCESSFUL, value=value)
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

    def _decide(self, row: Claimed, run: Run, error: BaseException, began: float) -> Outcome:
        """Turn what a task raised into what becomes of it; never raise, whatever that does."""
        try:
            return self._decide_on(row, run, error, began)
        except BaseException as broken:
            hide = hider(run.task, row.args, row.kwargs)
            record = dump_error(broken, attempt=row.attempts, worker=self.worker_id, hide=hide)
            return Failed(row.id, row.claim, record, began, time.monotonic())

    def _decide_on(self, row: Claimed, run: Run, error: BaseException, began: float) -> Outcome:
        ended = time.monotonic()
        if isinstance(error, TypeError):
            error = _mismatch(row, run, error) or error
        if isinstance(error, Snooze) and self.is_cancelled(row.id):
            error = Cancel(ASKED_TO_END)
        if run.task.at_most_once and isinstance(error, Retry | Snooze):
            error = _refused_restart(error)
        if isinstance(error, Snooze):
            return Snoozed(row.id, row.claim, error.delay)
        hide = hider(run.task, row.args, row.kwargs)
        if isinstance(error, Cancel):
            reason = error.reason or "The task cancelled itself."
            shown = hide(str(reason)) if hide else str(reason)
            return Cancelled(row.id, row.claim, self._cancelled(row, shown), began, ended)
        # By the base class: an exception may be a frozen dataclass, which refuses what is set.
        BaseException.with_traceback(error, _without_our_frames(error.__traceback__))
        try:
            delay = retry_delay(run, row.attempts, row.max_attempts, error)
        except BaseException as broken:  # a backoff function of the project's; it ends the task
            BaseException.__setattr__(broken, "__context__", error)
            error, delay = broken, None
        if delay is not None and self.is_cancelled(row.id):
            reason = f"{ASKED_TO_END} The attempt had failed with {type(error).__qualname__}."
            return Cancelled(row.id, row.claim, self._cancelled(row, reason), began, ended)
        record = dump_error(error, attempt=row.attempts, worker=self.worker_id, hide=hide)
        if delay is None:
            return Failed(row.id, row.claim, record, began, ended)
        return Retrying(row.id, row.claim, record, delay, began, ended)

    def _cancelled(self, row: Claimed, reason: str) -> str:
        return error_record(
            class_path=class_path(TaskCancelled),
            message=reason,
            traceback_text="",
            attempt=row.attempts,
            worker=self.worker_id,
        )

    def _task_context(self, row: Claimed, run: Run, report: Report | None) -> TaskContext:
        hide = cache(partial(hider, run.task, row.args, row.kwargs))
        pass_on = report or partial(self.report, row)
        return TaskContext(
            task_result=self._result(row, run, TaskStatus.RUNNING),
            report=lambda progress: pass_on(_reportable(progress, hide)),
            stopping=self.is_stopping,
            cancelled=partial(self.is_cancelled, row.id),
        )

    def _tell_of_failure(self, row: Claimed, run: Run, error: str) -> None:
        try:
            self._send_failure(row, run, error)
        # A row made by SQL, with a time that Python cannot hold; an error that raises when it is
        # logged. What the task came to is known by now, and must be stored.
        except BaseException as broken:
            task_log.error(
                "Those who listen could not be told that task %s (%s) has failed: %s.",
                row.id,
                one_line(row.task),
                type(broken).__qualname__,
            )

    def _send_failure(self, row: Claimed, run: Run, error: str) -> None:
        """Send task_finished; Django's receiver logs the error that is being handled."""
        if hider(run.task, row.args, row.kwargs) is None:
            self._send(task_finished, row, run, TaskStatus.FAILED, error=error)
            return
        try:
            record = _loads(error)
            raise RedactedError(record["traceback"] or record["message"]) from None
        except RedactedError as shown:
            shown.__context__ = None
            self._send(task_finished, row, run, TaskStatus.FAILED, error=error)

    def _send(
        self,
        signal: Any,
        row: Claimed,
        run: Run,
        status: TaskStatus,
        *,
        value: Any = None,
        error: str | None = None,
    ) -> None:
        result = self._result(row, run, status)
        if status != TaskStatus.RUNNING:
            object.__setattr__(result, "finished_at", datetime.now(UTC))
            object.__setattr__(result, "_return_value", value)
        if error is not None:
            result.errors.extend(decode_errors(f"[{error}]"))
        signal.send_robust(sender=type(run.task.get_backend()), task_result=result)

    def _result(self, row: Claimed, run: Run, status: TaskStatus) -> TaskResult[Any]:
        """Build the handle that contexts and signals show."""
        enqueued_at = datetime.fromisoformat(row.enqueued_at)
        now = datetime.now(UTC)
        errors = decode_errors(row.errors)
        return TaskResult(
            task=rebuilt(run.task, queue_name=row.queue_name, priority=row.priority, is_copy=True),
            id=row.id,
            status=TaskResultStatus(status.value),
            row_status=status,
            enqueued_at=enqueued_at,
            started_at=now,
            finished_at=None,
            last_attempted_at=now,
            args=_loads(row.args),
            kwargs=_loads(row.kwargs),
            backend=run.task.backend,
            errors=list(errors),
            worker_ids=[*(e.worker for e in errors if e.worker), self.worker_id],
            attempts=row.attempts,
            max_attempts=row.max_attempts or run.task.max_attempts,
            run_after=datetime.fromisoformat(row.run_after),
            headers=decode(row.headers),
        )


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


def overdue_error(run: Run) -> HardTimeLimit:
    """Return the error of a task that has not ended within its hard time limit."""
    return HardTimeLimit(f"The task was killed after its timeout of {run.timeout:g} s.")


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


def retry_delay(
    run: Run, attempt: int, max_attempts: int | None, error: BaseException
) -> float | None:
    """Return after how many seconds a failed attempt is repeated; None ends the task."""
    limit = 1 if run.task.at_most_once else max_attempts or run.task.max_attempts
    if isinstance(error, Retry):
        if attempt >= limit:
            return None
        if error.delay is not None:
            return error.delay
    elif isinstance(error, UnstorableResult | SignatureMismatch) or not should_retry(
        error,
        attempt=attempt,
        max_attempts=limit,
        retry_on=run.task.retry_on,
        give_up_on=run.task.give_up_on,
    ):
        return None
    return next_delay(run.backoff, attempt, error)


def _refused_restart(wish: Retry | Snooze) -> TaskFailed:
    """Return the error of a task that may not be started again and asks for it."""
    refusal = TaskFailed(
        f"The task raised {type(wish).__name__}, but it has at_most_once=True: it is never started "
        "again once it had started."
    )
    refusal.__cause__ = wish
    refusal.__traceback__ = wish.__traceback__
    return refusal


def _mismatch(row: Claimed, run: Run, error: TypeError) -> SignatureMismatch | None:
    """Return the error of a call that the function cannot have taken; None if it could."""
    if isinstance(error, SignatureMismatch):
        return None
    try:
        shape = signature(run.task.func)
    except (TypeError, ValueError):  # a function in C that does not say
        return None
    context = (None,) if run.takes_context else ()
    try:
        shape.bind(*context, *_loads(row.args), **_loads(row.kwargs))
    except TypeError as mismatch:
        shown = shape.replace(parameters=list(shape.parameters.values())[len(context) :])
        return SignatureMismatch(
            f"{mismatch}. The task is {run.task.name}{shown} here; its row was written by other "
            "code, or by hand. It was not called, and is not tried again."
        )
    return None


# Where frames between the worker and the task come from.
_OURS = ("django_taskq.worker.", "django_taskq.carried")


def _without_our_frames(traceback: TracebackType | None) -> TracebackType | None:
    """Let a traceback begin where the worker calls the task."""
    while (
        traceback is not None
        and traceback.tb_next is not None
        and traceback.tb_frame.f_globals.get("__name__", "").startswith(_OURS)
    ):
        traceback = traceback.tb_next
    return traceback


def run_of_row(task: Task[..., Any], options: str | None) -> Run:
    """Return how to run a task whose row has these options."""
    run = _run_of(task)
    return run if options is None else _with_options(run, options)


def _run_of(task: Task[..., Any]) -> Run:
    is_async = iscoroutinefunction(task.func)
    return Run(
        task=task,
        func=async_to_sync(task.func) if is_async else task.func,
        is_async=is_async,
        takes_context=task.takes_context,
        timeout=task.timeout,
        soft_timeout=task.soft_timeout,
        store_result=task.store_result,
        atomic=task.atomic,
        backoff=task.backoff,
    )


def _with_options(run: Run, text: str) -> Run:
    """Return how to run a row with options; one made by SQL may hold what they cannot be."""
    try:
        options = _loads(text)
        limits = {
            name: in_seconds(name, options[name]) if options[name] is not None else None
            for name in ("timeout", "soft_timeout")
            if name in options
        }
        return replace(
            run,
            timeout=limits.get("timeout", run.timeout),
            soft_timeout=limits.get("soft_timeout", run.soft_timeout),
            store_result=bool(options.get("store_result", run.store_result)),
            backoff=check_backoff(backoff_from_json(options["backoff"]))
            if "backoff" in options
            else run.backoff,
        )
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        return replace(run, problem=f"The row's options cannot be read: {error}.")
