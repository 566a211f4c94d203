"""Unfinished and finished tasks."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.contrib import admin
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from django_taskq.admin.base import ReadOnlyAdmin, preformatted
from django_taskq.models import FinishedTask, LiveTask
from django_taskq.models.tasks import TaskRow
from django_taskq.redact import hider_of, shown_call
from django_taskq.statuses import TaskStatus
from django_taskq.task import find_discovered

_WHAT = ("id", "task", "status", "queue_name", "priority", "shown_args", "shown_kwargs")


def _hidden(row: TaskRow, text: Any) -> str:
    """Mask in a text about a row what its secret arguments hold."""
    hide = hider_of(find_discovered(row.task), row.args, row.kwargs) if text else None
    return str(text) if hide is None else hide(str(text))


def _records(errors: Any) -> list[dict[str, Any]]:
    """Return the records of failed attempts that a row holds; one made by SQL may hold anything."""
    return [error for error in errors if isinstance(error, dict)] if errors else []


class TaskAdmin(ReadOnlyAdmin):
    """What the pages of both tables share."""

    list_filter = ("status",)
    unlisted: tuple[str, ...] = ("args", "kwargs", "errors", "options", "headers")
    search_fields = ("=id",)
    search_help_text = _("The id of a task")

    @admin.display(description=_("status"))
    def shown_status(self, row: Any) -> str:
        return str(TaskStatus(row.status).label)

    @admin.display(description=_("arguments"))
    def shown_args(self, row: TaskRow) -> SafeString:
        return preformatted(shown_call(find_discovered(row.task), row.args, row.kwargs)[0])

    @admin.display(description=_("keyword arguments"))
    def shown_kwargs(self, row: TaskRow) -> SafeString:
        return preformatted(shown_call(find_discovered(row.task), row.args, row.kwargs)[1])

    @admin.display(description=_("attempts"))
    def shown_attempts(self, row: TaskRow) -> str:
        return f"{row.attempts} / {row.max_attempts or '–'}"

    @admin.display(description=_("progress"))
    def shown_progress(self, row: TaskRow) -> str:
        if not row.progress or not isinstance(row.progress, dict):
            return "–"
        done, total = row.progress.get("done"), row.progress.get("total")
        counted = f"{done} / {total}" if total else f"{done}"
        return f"{counted} {_hidden(row, row.progress.get('message') or '')}".strip()

    @admin.display(description=_("errors"))
    def shown_errors(self, row: TaskRow) -> SafeString | str:
        """Show each failed attempt, the last one first."""
        return (
            format_html_join(
                "",
                "<details{}><summary>{} · {} · {}</summary>"
                '<pre style="white-space: pre-wrap">{}</pre></details>',
                (
                    (
                        SafeString(" open") if place == 0 else "",
                        error.get("exception_class_path", ""),
                        _hidden(row, error.get("message", "")),
                        error.get("finished_at", ""),
                        _hidden(row, error.get("traceback", "")),
                    )
                    for place, error in enumerate(reversed(_records(row.errors)))
                ),
            )
            or "–"
        )


@admin.register(LiveTask)
class LiveTaskAdmin(TaskAdmin):
    """Tasks that wait or run."""

    list_display = (
        "id",
        "task",
        "shown_status",
        "queue_name",
        "priority",
        "run_after",
        "shown_attempts",
        "shown_progress",
    )
    # By primary key, which is by time: an index gives it.
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": _WHAT}),
        (
            _("When"),
            {"fields": ("enqueued_at", "run_after", "expires_at", "started_at", "held_for")},
        ),
        (_("How it goes"), {"fields": ("shown_attempts", "crashes", "shown_progress")}),
        (_("Who runs it"), {"fields": ("worker_id", "claim")}),
        (_("What went wrong"), {"fields": ("shown_errors",)}),
    )


@admin.register(FinishedTask)
class FinishedTaskAdmin(TaskAdmin):
    """Tasks that have ended."""

    unlisted = (*TaskAdmin.unlisted, "progress", "return_value")
    list_display = (
        "id",
        "task",
        "shown_status",
        "queue_name",
        "finished_at",
        "shown_attempts",
        "run_time",
    )
    ordering = ("-finished_at",)
    fieldsets = (
        (None, {"fields": (*_WHAT, "shown_return_value")}),
        (_("When"), {"fields": ("enqueued_at", "started_at", "finished_at", "run_time")}),
        (_("How it went"), {"fields": ("shown_attempts", "crashes", "shown_progress")}),
        (_("Who ran it"), {"fields": ("worker_id", "claim")}),
        (_("What went wrong"), {"fields": ("shown_errors",)}),
    )

    @admin.display(description=_("return value"))
    def shown_return_value(self, row: FinishedTask) -> SafeString:
        return preformatted(row.return_value, hide=partial(_hidden, row))

    @admin.display(description=_("run time"))
    def run_time(self, row: FinishedTask) -> str:
        if row.started_at is None:
            return "–"
        return f"{(row.finished_at - row.started_at).total_seconds():.3f} s"
