"""The processes that run tasks, one row each."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from django_taskq.models.fields import ClockTimestamp


class WorkerKind(models.TextChoices):
    """Name what a process does."""

    # Started by `manage.py taskworker`: watches its children, runs no task.
    SUPERVISOR = "SUPERVISOR", _("Supervisor")
    # Runs tasks, one at a time.
    CHILD = "CHILD", _("Child")


class Worker(models.Model):
    """A process of a worker; claims are refused to a process whose row is gone."""

    # Fresh at each start: a process that was declared dead never comes back under its old id.
    id = models.UUIDField(primary_key=True, editable=False)
    kind = models.TextField(choices=WorkerKind.choices)
    # The supervisor of a child.
    parent_id = models.UUIDField(null=True)
    # For people: where the process runs, never what identifies it.
    host = models.TextField()
    pid = models.IntegerField()
    # What it was started with, for people: queues, pool, concurrency, versions.
    info = models.JSONField(db_default={})
    started_at = models.DateTimeField(db_default=ClockTimestamp())
    # Counts the supervisor's beats. Death is judged by it standing still, never by a clock.
    beat = models.BigIntegerField(db_default=0)
    # For people.
    last_seen_at = models.DateTimeField(db_default=ClockTimestamp())

    class Meta:
        db_table = "django_taskq_worker"
        verbose_name = _("worker")
        verbose_name_plural = _("workers")
        constraints = [
            models.CheckConstraint(
                name="django_taskq_worker_kind",
                condition=models.Q(kind__in=sorted(WorkerKind.values)),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"
