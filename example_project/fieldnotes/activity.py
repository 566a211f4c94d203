"""What the page tells of the tasks, read from the two tables of django_taskq."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from django.urls import reverse
from django.utils.text import Truncator

from django_taskq import Task
from django_taskq.models import FinishedTask, LiveTask

TASKS_SHOWN = 40
# Counting stops here: with a million waiting tasks the page is as fast as with ten.
COUNTED = 1000


@dataclass(frozen=True)
class Attempt:
    """One start of a task: a past one, the one under way, or the one to come."""

    number: int
    # failed, successful, running or next.
    state: str
    at: datetime | None
    said: str = ""


@dataclass(frozen=True)
class Entry:
    """One task as the page shows it."""

    row: LiveTask | FinishedTask

    @property
    def name(self) -> str:
        return self.row.task.rpartition(".")[2].replace("_", " ").capitalize()

    @property
    def is_live(self) -> bool:
        return isinstance(self.row, LiveTask)

    @property
    def is_due_later(self) -> bool:
        """Say whether it waits for another attempt, as a retried task does."""
        return self.row.status == "READY" and self.row.attempts > 0

    @property
    def arguments(self) -> str:
        said = [_short(value) for value in self.row.args]
        said += [f"{name}={_short(value)}" for name, value in self.row.kwargs.items()]
        return Truncator(", ".join(said)).chars(80)

    @property
    def result(self) -> str:
        """Return the value in words: a mapping as `key value`, pair by pair."""
        value = getattr(self.row, "return_value", None)
        if isinstance(value, dict):
            return Truncator(", ".join(f"{k} {_grouped(v)}" for k, v in value.items())).chars(160)
        return "" if value is None else Truncator(_grouped(value)).chars(160)

    @property
    def progress(self) -> dict[str, Any] | None:
        return self.row.progress or None

    @property
    def percent(self) -> int | None:
        """Return how much is done, in hundredths; None if the task has not said."""
        said = self.row.progress or {}
        return int(100 * said["done"] / said["total"]) if said.get("total") else None

    @property
    def has_ended(self) -> bool:
        return not self.is_live

    @cached_property
    def errors(self) -> list[Attempt]:
        """Return every failed attempt; tracebacks are the admin's."""
        return [
            Attempt(
                number=record.get("attempt", 0),
                state="failed",
                at=_moment(record.get("finished_at")),
                said=_said(record),
            )
            for record in self.row.errors or []
        ]

    @cached_property
    def attempts(self) -> list[Attempt]:
        """Return every attempt, and the one that is to come."""
        row = self.row
        match row.status:
            case "RUNNING":
                last = Attempt(row.attempts, "running", row.started_at)
            case "SUCCESSFUL":
                assert isinstance(row, FinishedTask)
                last = Attempt(row.attempts, "successful", row.finished_at, self.result)
            case "READY":
                last = Attempt(row.attempts + 1, "next", row.run_after)
            case _:
                return self.errors
        return [*self.errors, last]

    @property
    def waited(self) -> str:
        return duration(self.row.enqueued_at, self.row.started_at)

    @property
    def ran(self) -> str:
        return duration(self.row.started_at, getattr(self.row, "finished_at", None))

    @property
    def admin_url(self) -> str:
        meta = self.row._meta
        return reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[self.row.pk])


@dataclass(frozen=True)
class Activity:
    """The newest tasks, and how much there is to do."""

    entries: list[Entry]
    waiting: int
    running: int

    @property
    def is_live(self) -> bool:
        return bool(self.waiting or self.running)

    def of(self, task: Task[..., Any]) -> list[Entry]:
        """Return the entries of one task, the newest first."""
        return [entry for entry in self.entries if entry.row.task == task.key]

    @property
    def is_capped(self) -> bool:
        return len(self.entries) == TASKS_SHOWN


def read_activity() -> Activity:
    """Read the newest tasks of both tables and count the unfinished ones."""
    # Ids are ordered by time: the newest rows stand at the end of each primary key. Unfinished
    # rows are read first, so a task that finishes meanwhile is seen twice, never not at all.
    rows: dict[Any, LiveTask | FinishedTask] = {}
    for model in (LiveTask, FinishedTask):
        rows |= {row.pk: row for row in model.objects.order_by("-id")[:TASKS_SHOWN]}
    newest = sorted(rows.values(), key=lambda row: row.pk, reverse=True)[:TASKS_SHOWN]

    unfinished = LiveTask.objects.order_by()
    return Activity(
        entries=[Entry(row) for row in newest],
        waiting=unfinished.exclude(status="RUNNING")[:COUNTED].count(),
        running=unfinished.filter(status="RUNNING")[:COUNTED].count(),
    )


def duration(start: datetime | None, end: datetime | None) -> str:
    """Return the time between two moments as people say it, or nothing if one is missing."""
    if start is None or end is None:
        return ""
    took = max(end - start, timedelta())
    if took < timedelta(seconds=1):
        return f"{took / timedelta(milliseconds=1):.0f} ms"
    if took < timedelta(minutes=1):
        return f"{took.total_seconds():.1f} s"
    return f"{took / timedelta(minutes=1):.1f} min"


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _said(record: dict[str, Any]) -> str:
    kind = str(record.get("exception_class_path", "")).rpartition(".")[2]
    return Truncator(": ".join(filter(None, [kind, record.get("message", "")]))).chars(200)


def _short(value: Any) -> str:
    """Return an argument as text; of an id the first part is enough to tell it from others."""
    if isinstance(value, str):
        return f"{value[:8]}…" if len(value) > 12 else value
    return json.dumps(value, ensure_ascii=False)


def _grouped(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:,}" if is_number else str(value)
