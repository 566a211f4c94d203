"""Say what happens: who listens to Django's signals, and the loggers with their fields."""

from __future__ import annotations

import logging
from typing import Any, Protocol

from django.dispatch import Signal

from django_taskq.tasks_api import DJANGO_LOG_RECEIVERS, LOGGER_NAME

# A worker's own life: start, stop, a child's death, a lost database.
worker_log = logging.getLogger("django_taskq.worker")
# One line per task that ran.
task_log = logging.getLogger("django_taskq.task")
# What happens where tasks are enqueued.
enqueue_log = logging.getLogger("django_taskq.enqueue")

_django_log = logging.getLogger(LOGGER_NAME)


def is_heard(signal: Signal, level: int) -> bool:
    """Say whether sending one of Django's task signals would reach anybody.

    Django's own receiver, which writes a log line at `level`, is always connected: it counts only
    if some handler would take the line. (With Django's default LOGGING none does unless DEBUG is
    on.) Building a TaskResult and sending cost 6 µs and more a task.
    """
    return len(signal.receivers) > DJANGO_LOG_RECEIVERS or _is_logged(level)


def _is_logged(level: int) -> bool:
    if not _django_log.isEnabledFor(level):
        return False
    record = _django_log.makeRecord(_django_log.name, level, "", 0, "", (), None)
    logger: logging.Logger | None = _django_log
    while logger is not None:
        if any(handler.level <= level and handler.filter(record) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def one_line(text: str, limit: int = 200) -> str:
    """Make text from outside fit for a log line: one line, no control characters, not long."""
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: limit + 1])
    return printable if len(printable) <= limit else printable[: limit - 1] + "…"


class TaskRow(Protocol):
    """What records of the log need of a task that a worker has."""

    @property
    def id(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def queue_name(self) -> str: ...
    @property
    def attempts(self) -> int: ...


def task_extra(row: TaskRow, worker_id: str, seconds: float | None = None) -> dict[str, Any]:
    """Return the structured fields that every record about a task carries.

    The duration is None as long as the task has not ended.
    """
    return {
        "task_id": row.id,
        "task_name": row.task,
        "queue_name": row.queue_name,
        "attempt": row.attempts,
        "worker_id": worker_id,
        "duration_ms": None if seconds is None else round(seconds * 1000, 3),
    }
