"""Background tasks for Django, with PostgreSQL as the only moving part."""

from __future__ import annotations

# First: distribution.py knows by it that this file is ours.
__version__ = "0.1.0.dev0"

from django_taskq.exceptions import (
    ArgumentsError,
    Cancel,
    CarrierError,
    HardTimeLimit,
    PayloadTooLarge,
    Retry,
    SignatureMismatch,
    Snooze,
    SoftTimeLimit,
    TaskCancelled,
    TaskCrashed,
    TaskExpired,
    TaskFailed,
    TaskqError,
    UnknownTask,
    UnstorableResult,
    WaitInsideTransaction,
)
from django_taskq.results import TaskResult
from django_taskq.retries import exponential
from django_taskq.statuses import TaskStatus
from django_taskq.task import (
    Task,
    TaskContext,
    aenqueue,
    aget_result,
    enqueue,
    get_result,
    task,
)

__all__ = [
    "ArgumentsError",
    "Cancel",
    "CarrierError",
    "HardTimeLimit",
    "PayloadTooLarge",
    "Retry",
    "SignatureMismatch",
    "Snooze",
    "SoftTimeLimit",
    "Task",
    "TaskCancelled",
    "TaskContext",
    "TaskCrashed",
    "TaskExpired",
    "TaskFailed",
    "TaskResult",
    "TaskStatus",
    "TaskqError",
    "UnknownTask",
    "UnstorableResult",
    "WaitInsideTransaction",
    "aenqueue",
    "aget_result",
    "enqueue",
    "exponential",
    "get_result",
    "task",
]
