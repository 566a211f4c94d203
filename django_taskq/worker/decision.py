"""Decide what becomes of a task that is not started, or has raised. Pure: writes nothing."""

from __future__ import annotations

import json
import time
from inspect import signature
from types import TracebackType

from django_taskq.exceptions import (
    Cancel,
    HardTimeLimit,
    Retry,
    SignatureMismatch,
    Snooze,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    UnstorableResult,
)
from django_taskq.outcomes import (
    Cancelled,
    CancelledUnstarted,
    Expired,
    Failed,
    Parked,
    Retrying,
    Snoozed,
)
from django_taskq.redact import hider
from django_taskq.retries import next_delay, should_retry
from django_taskq.serialization import class_path, dump_error, error_record
from django_taskq.transitions.claim import Claimed
from django_taskq.transitions.operate import held_for_unknown
from django_taskq.worker.atomic import ASKED_TO_END
from django_taskq.worker.expiry import NOT_STARTED
from django_taskq.worker.run import Run

# Where frames between the worker and the task come from.
_OURS = ("django_taskq.worker.", "django_taskq.carried")


# --- tasks that are not started --------------------------------------------------------------


def park_unknown(row: Claimed) -> Parked:
    """Say that a row's task is not known here: it waits for a worker that knows it."""
    return Parked(row.id, row.claim, held_for_unknown(row.task))


def expire(row: Claimed, worker_id: str) -> Expired:
    """Say that a row was claimed too late to be started."""
    now = time.monotonic()
    error = _ended_by_us(TaskExpired, NOT_STARTED, row.attempts - 1, worker_id)
    return Expired(row.id, row.claim, error, now, now)


def cancel_unstarted(row: Claimed, worker_id: str) -> CancelledUnstarted:
    """Say that a row is not started, because somebody had asked it to end."""
    why = "Cancelled before it was started again."
    now = time.monotonic()
    error = _ended_by_us(TaskCancelled, why, row.attempts - 1, worker_id)
    return CancelledUnstarted(row.id, row.claim, error, now, now)


def _ended_by_us(kind: type[Exception], message: str, attempt: int, worker_id: str) -> str:
    return error_record(
        class_path=class_path(kind),
        message=message,
        traceback_text="",
        attempt=attempt,
        worker=worker_id,
    )


# --- tasks that have raised ------------------------------------------------------------------


def decide(
    row: Claimed,
    run: Run,
    error: BaseException,
    began: float,
    *,
    worker_id: str,
    is_cancelled: bool,
) -> Failed | Retrying | Snoozed | Cancelled:
    """Turn what a task raised into what becomes of it; never raise, whatever that does.

    `is_cancelled`: somebody has asked it to end while it ran.
    """
    try:
        return _decide_on(row, run, error, began, worker_id, is_cancelled)
    except BaseException as broken:
        hide = hider(run.task, row.args, row.kwargs)
        record = dump_error(broken, attempt=row.attempts, worker=worker_id, hide=hide)
        return Failed(row.id, row.claim, record, began, time.monotonic())


def _decide_on(
    row: Claimed, run: Run, error: BaseException, began: float, worker_id: str, is_cancelled: bool
) -> Failed | Retrying | Snoozed | Cancelled:
    ended = time.monotonic()
    if isinstance(error, TypeError):
        error = _mismatch(row, run, error) or error
    if isinstance(error, Snooze) and is_cancelled:
        error = Cancel(ASKED_TO_END)
    if run.task.at_most_once and isinstance(error, Retry | Snooze):
        error = _refused_restart(error)
    if isinstance(error, Snooze):
        return Snoozed(row.id, row.claim, error.delay)
    hide = hider(run.task, row.args, row.kwargs)
    if isinstance(error, Cancel):
        reason = error.reason or "The task cancelled itself."
        record = _cancelled(row, hide(str(reason)) if hide else str(reason), worker_id)
        return Cancelled(row.id, row.claim, record, began, ended)
    error, delay = _delay_after(run, row, error)
    if delay is not None and is_cancelled:
        reason = f"{ASKED_TO_END} The attempt had failed with {type(error).__qualname__}."
        return Cancelled(row.id, row.claim, _cancelled(row, reason, worker_id), began, ended)
    record = dump_error(error, attempt=row.attempts, worker=worker_id, hide=hide)
    if delay is None:
        return Failed(row.id, row.claim, record, began, ended)
    return Retrying(row.id, row.claim, record, delay, began, ended)


def _cancelled(row: Claimed, reason: str, worker_id: str) -> str:
    return _ended_by_us(TaskCancelled, reason, row.attempts, worker_id)


def _delay_after(
    run: Run, row: Claimed, error: BaseException
) -> tuple[BaseException, float | None]:
    """Return the error that ends this attempt, and after how long another follows, if one does."""
    # By the base class: an exception may be a frozen dataclass, which refuses what is set.
    BaseException.with_traceback(error, _without_our_frames(error.__traceback__))
    try:
        return error, retry_delay(run, row.attempts, row.max_attempts, error)
    except BaseException as broken:  # a backoff function of the project's; it ends the task
        BaseException.__setattr__(broken, "__context__", error)
        return broken, None


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


def overdue_error(run: Run) -> HardTimeLimit:
    """Return the error of a task that has not ended within its hard time limit."""
    return HardTimeLimit(f"The task ran over its timeout of {run.timeout:g} s.")


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
        shape.bind(*context, *json.loads(row.args), **json.loads(row.kwargs))
    except TypeError as mismatch:
        shown = shape.replace(parameters=list(shape.parameters.values())[len(context) :])
        return SignatureMismatch(
            f"{mismatch}. The task is {run.task.name}{shown} here; its row was written by other "
            "code, or by hand. It was not called, and is not tried again."
        )
    return None


def _without_our_frames(traceback: TracebackType | None) -> TracebackType | None:
    """Let a traceback begin where the worker calls the task."""
    while (
        traceback is not None
        and traceback.tb_next is not None
        and traceback.tb_frame.f_globals.get("__name__", "").startswith(_OURS)
    ):
        traceback = traceback.tb_next
    return traceback
