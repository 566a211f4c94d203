"""What a worker writes to its terminal: a banner, and a line per task. Never any arguments."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

import django
from django.core.management.color import color_style, no_style

from django_taskq.events import one_line, task_extra, task_log
from django_taskq.outcomes import (
    Cancelled,
    CancelledUnstarted,
    Committed,
    Completed,
    Expired,
    Failed,
    Lost,
    Outcome,
    Parked,
    Retrying,
    Snoozed,
    Unanswered,
)
from django_taskq.tasks_api import LOGGER_NAME
from django_taskq.transitions.claim import Claimed
from django_taskq.transitions.rescue import Overdue
from django_taskq.worker.options import WorkerOptions


def banner(options: WorkerOptions, facts: Mapping[str, object]) -> str:
    """Return what a worker says of itself when it starts."""
    queues = ", ".join(options.queues) or "all"
    if options.excluded:
        queues += f" but {', '.join(options.excluded)}"
    python = ".".join(map(str, sys.version_info[:2]))
    until = "until nothing is due" if options.burst else "Ctrl+C to stop, twice to stop now"
    return (
        f"django_taskq {facts['version']} · Django {django.get_version()} · Python {python} · "
        f'db "{facts["database"]}" on PostgreSQL {facts["postgresql"]}\n'
        f"worker {facts['host']}:{os.getpid()} · {options.pool} × {options.concurrency} · "
        f"queues {queues}\n"
        f"{facts['tasks']} registered · {facts['waiting']} waiting · {until}"
    )


def set_up_logging(options: WorkerOptions) -> None:
    """Show this package's records on the terminal if the project shows them nowhere."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8
    logger = logging.getLogger("django_taskq")
    if not logger.hasHandlers():
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(_ConsoleFormatter(color=options.color))
        logger.addHandler(handler)
        _say_it_once()
    driver = logging.getLogger("psycopg")
    if driver.level == logging.NOTSET:
        # It warns of each pipeline that a lost connection cuts off; we say that once ourselves.
        driver.setLevel(logging.ERROR)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO if options.verbosity else logging.WARNING)


class _SaidAlready(logging.Filter):
    """Drop Django's records of tasks that go well."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name != LOGGER_NAME or record.levelno >= logging.WARNING


_said_already = _SaidAlready()


def _say_it_once() -> None:
    """Keep the two lines that Django logs of a task from a terminal that has ours of it."""
    logger: logging.Logger | None = logging.getLogger(LOGGER_NAME)
    while logger is not None:
        for handler in logger.handlers:
            stream = getattr(handler, "stream", None)
            if stream is sys.stderr or stream is sys.stdout:
                handler.addFilter(_said_already)
        logger = logger.parent if logger.propagate else None


class _ConsoleFormatter(logging.Formatter):
    """Write the time of day and the message; warnings say that they are."""

    def __init__(self, *, color: bool) -> None:
        super().__init__()
        self.style = color_style(force_color=True) if color else no_style()

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        text = _fit(record.getMessage())
        if record.levelno >= logging.ERROR:
            text = self.style.ERROR(text)
        elif record.levelno >= logging.WARNING:
            text = self.style.WARNING(text)
        elif text[:1] in "✓+":
            text = self.style.SUCCESS(text[:1]) + text[1:]
        if record.exc_info:
            text += "\n" + _INDENT + _fit(self.formatException(record.exc_info))
        return f"{moment} {text}"


_INDENT = "    "
# The longest line that is shown of a message or a traceback.
_LONGEST = 4000


def _fit(text: str) -> str:
    """Let no text drive the terminal, nor look like a log line of its own: those begin at once."""
    return f"\n{_INDENT}".join(one_line(line, _LONGEST) for line in text.split("\n"))


def _marks() -> tuple[str, str]:
    """Return the signs of success and failure that the terminal can show."""
    try:
        "✓✗→".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "+", "x"
    return "✓", "✗"


class TaskLines:
    """Write a line per task that ran, once its outcome is stored."""

    def __init__(self, options: WorkerOptions, worker_id: str) -> None:
        self.worker_id = worker_id
        self.verbosity = options.verbosity
        self.good, self.bad = _marks()

    def write_start(self, row: Claimed) -> None:
        """Log that a task starts."""
        task_log.info(
            "> %s  %s  starts",
            one_line(row.task),
            one_line(row.queue_name),
            extra=task_extra(row, self.worker_id),
        )

    def write(
        self, outcomes: Sequence[Outcome], rows: Mapping[str, Claimed] | Mapping[str, Overdue]
    ) -> None:
        """Log what these tasks came to."""
        if not self.verbosity or not task_log.isEnabledFor(logging.INFO):
            return
        for outcome in outcomes:
            row = rows.get(outcome.id)
            if row is not None:
                self._write_one(outcome, row)

    def _write_one(self, outcome: Outcome, row: Claimed | Overdue) -> None:
        began, ended = getattr(outcome, "began", 0.0), getattr(outcome, "ended", 0.0)
        mark, how = self._words(outcome, row)
        failed = isinstance(outcome, Failed | Retrying)
        task_log.log(
            logging.WARNING if isinstance(outcome, Failed) else logging.INFO,
            "%s %s  %s  %.2f s%s%s",
            mark,
            one_line(row.task),
            one_line(row.queue_name),
            ended - began,
            "" if failed or isinstance(row, Overdue) else _waited(row, began),
            f"  {how}" if how else "",
            extra=task_extra(row, self.worker_id, ended - began),
        )

    def _words(self, outcome: Outcome, row: Claimed | Overdue) -> tuple[str, str]:
        match outcome:
            case Completed() | Committed():
                return self.good, ""
            case Retrying():
                limit = f"/{row.max_attempts}" if row.max_attempts else ""
                after = f"retry {row.attempts + 1}{limit} in {_seconds(outcome.delay)}"
                return self.bad, f"{_kind(outcome.error)} → {after}"
            case Failed():
                return self.bad, _kind(outcome.error)
            case Snoozed():
                return self.good, f"snoozed for {_seconds(outcome.delay)}"
            case Cancelled():
                return self.bad, "cancelled itself"
            case CancelledUnstarted():
                return self.bad, "cancelled"
            case Expired():
                return self.bad, "expired"
            case Unanswered():
                return self.bad, "commit not answered → runs again unless it had committed"
            case Lost():
                return self.bad, "taken away before it could commit"
            case Parked():
                return self.bad, "not known here: held until a worker knows it"


def _seconds(delay: float) -> str:
    """Write a wait: three digits of a short one, whole seconds of a long one."""
    return f"{delay:.3g} s" if delay < 100 else f"{delay:,.0f} s"


def _kind(error: str) -> str:
    """Return the class of an error record; its message may hold what tasks were called with."""
    return one_line(str(json.loads(error)["exception_class_path"]).rpartition(".")[2])


def _waited(row: Claimed, began: float) -> str:
    try:
        due = datetime.fromisoformat(max(row.run_after, row.enqueued_at)).timestamp()
    except ValueError:  # made by SQL, with a time that Python does not know
        return ""
    waited = time.time() - (time.monotonic() - began) - due
    return f"  (waited {max(0.0, waited) * 1000:.0f} ms)" if began else ""
