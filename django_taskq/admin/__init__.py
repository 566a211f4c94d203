"""Look at tasks and workers in the Django admin. Nothing can be changed here."""

from __future__ import annotations

from django_taskq.admin.tasks import FinishedTaskAdmin, LiveTaskAdmin
from django_taskq.admin.worker import WorkerAdmin

__all__ = ["FinishedTaskAdmin", "LiveTaskAdmin", "WorkerAdmin"]
