"""The processes that run tasks."""

from __future__ import annotations

from django.contrib import admin
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from django_taskq.admin.base import ReadOnlyAdmin, preformatted
from django_taskq.models import Worker


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    """Supervisors and their children."""

    list_display = ("id", "kind", "host", "pid", "started_at", "last_seen_at")
    ordering = ("-started_at",)
    fields = (
        "id",
        "kind",
        "parent_id",
        "host",
        "pid",
        "started_at",
        "last_seen_at",
        "beat",
        "shown_info",
    )

    @admin.display(description=_("started with"))
    def shown_info(self, row: Worker) -> SafeString:
        return preformatted(row.info)
