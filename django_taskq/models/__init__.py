"""What is stored: unfinished tasks, finished tasks, and the processes that run them."""

from __future__ import annotations

from django_taskq.models.tasks import FinishedTask, LiveTask
from django_taskq.models.worker import Worker

__all__ = ["FinishedTask", "LiveTask", "Worker"]
