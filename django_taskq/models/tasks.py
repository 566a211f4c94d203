"""The two tables of tasks: LiveTask stays small, FinishedTask keeps the history.

A task has one id for life and stands in one of the two; the statement that ends it moves it. Times
are the database's. Every index of LiveTask costs on each claim: none is there for the admin.
"""

from __future__ import annotations

from datetime import UTC, datetime

from django.db import models
from django.db.models import Q
from django.db.models.lookups import Exact
from django.utils.translation import gettext_lazy as _

from django_taskq.models.fields import ClockTimestamp, NewId, VerbatimJSONField
from django_taskq.statuses import FINISHED, UNFINISHED, TaskStatus

# What Python can read.
_TIMES = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


class TaskRow(models.Model):
    """Hold what a task has all its life."""

    id = models.UUIDField(primary_key=True, db_default=NewId(), editable=False)
    # The name under which the task is registered; it is looked up there, never imported.
    task = models.TextField()
    queue_name = models.TextField(db_default="default")
    # -100 … 100, higher first.
    priority = models.SmallIntegerField(db_default=0)
    args = VerbatimJSONField(db_default=[])
    kwargs = VerbatimJSONField(db_default={})
    # The earliest start; the last one set, when the task was retried.
    run_after = models.DateTimeField(db_default=ClockTimestamp())
    enqueued_at = models.DateTimeField(db_default=ClockTimestamp())
    # How often it was started. A start that was given back or crashed is not counted.
    attempts = models.SmallIntegerField(db_default=0)
    # None (a row made by plain SQL) takes what @task says.
    max_attempts = models.SmallIntegerField(null=True)
    # How often a process died while it ran this task.
    crashes = models.SmallIntegerField(db_default=0)
    # The random token of the claim under which it runs or ended: the fence of every write.
    claim = models.UUIDField(null=True)
    worker_id = models.UUIDField(null=True)
    started_at = models.DateTimeField(null=True)
    # One record per failed attempt, with its worker and times: the first and the last 19.
    errors = models.JSONField(db_default=[])
    # What the task said with context.progress().
    progress = models.JSONField(null=True)
    # What .using() changed and no column holds: timeouts, backoff, store_result.
    options = models.JSONField(null=True)
    # What the task carries along from where it was enqueued (the language, say), by carrier.
    headers = models.JSONField(null=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.task} {self.id}"


class LiveTask(TaskRow):
    """A task that has not finished: waiting, put aside or running."""

    status = models.TextField(
        choices=[(s.value, s.label) for s in TaskStatus if s in UNFINISHED],
        db_default=TaskStatus.READY.value,
    )
    # Is not started any more from then on.
    expires_at = models.DateTimeField(null=True)
    # What a HELD task waits for, such as "unknown:shop.tasks.renamed".
    held_for = models.TextField(null=True)
    # Other tasks wait for this one: finishing it releases them.
    has_successors = models.BooleanField(db_default=False)
    # Somebody asked a running task to end; should it come back to READY, it is not started again.
    cancel_requested_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "django_taskq_livetask"
        verbose_name = _("live task")
        verbose_name_plural = _("live tasks")
        constraints = [
            models.CheckConstraint(
                name="django_taskq_live_status",
                condition=Q(status__in=sorted(s.value for s in UNFINISHED)),
            ),
            # The claim, its worker and the start are there exactly while the task runs.
            models.CheckConstraint(
                name="django_taskq_live_claim",
                condition=Q(
                    status=TaskStatus.RUNNING.value,
                    claim__isnull=False,
                    worker_id__isnull=False,
                    started_at__isnull=False,
                )
                | Q(
                    ~Q(status=TaskStatus.RUNNING.value),
                    claim__isnull=True,
                    worker_id__isnull=True,
                    started_at__isnull=True,
                ),
            ),
            models.CheckConstraint(
                name="django_taskq_live_held_for",
                condition=Q(status=TaskStatus.HELD.value, held_for__isnull=False)
                | Q(~Q(status=TaskStatus.HELD.value), held_for__isnull=True),
            ),
            models.CheckConstraint(
                name="django_taskq_live_priority",
                condition=Q(priority__gte=-100, priority__lte=100),
            ),
            models.CheckConstraint(
                name="django_taskq_live_counts",
                condition=Q(attempts__gte=0, crashes__gte=0)
                & (Q(max_attempts__isnull=True) | Q(max_attempts__gte=1)),
            ),
            # A claim can count one up, and so can a crash.
            models.CheckConstraint(
                name="django_taskq_live_room",
                condition=(Q(status=TaskStatus.RUNNING.value) | Q(attempts__lt=32_767))
                & Q(crashes__lt=32_767),
            ),
            # Python can read them: PostgreSQL's -infinity, and years BC, it cannot.
            models.CheckConstraint(
                name="django_taskq_live_times",
                condition=Q(run_after__range=_TIMES, enqueued_at__range=_TIMES)
                & (Q(expires_at__isnull=True) | Q(expires_at__range=_TIMES)),
            ),
            # An error can be appended.
            models.CheckConstraint(
                name="django_taskq_live_errors",
                condition=Exact(
                    models.Func("errors", function="jsonb_typeof", output_field=models.TextField()),
                    "array",
                ),
            ),
        ]
        indexes = [
            # Claims: one descent into a lane (queue, priority), then along its due rows.
            models.Index(
                "queue_name",
                models.F("priority").desc(),
                "run_after",
                "id",
                name="django_taskq_live_ready",
                condition=Q(status=TaskStatus.READY.value),
            ),
            # What a process has claimed: give-back and rescue. The predicate is on worker_id and
            # not on status, so that no statement on running rows is planned through it by mistake.
            models.Index(
                "worker_id", name="django_taskq_live_worker", condition=Q(worker_id__isnull=False)
            ),
            # Tasks whose process died twice: they run alone.
            models.Index(
                "run_after",
                "id",
                name="django_taskq_live_suspect",
                condition=Q(status=TaskStatus.READY.value, crashes__gte=2),
            ),
            models.Index(
                "held_for",
                name="django_taskq_live_held",
                condition=Q(status=TaskStatus.HELD.value),
            ),
            # What workers look through every second: the few running tasks that are to end.
            models.Index(
                "worker_id",
                name="django_taskq_live_cancel",
                condition=Q(cancel_requested_at__isnull=False),
            ),
            # What is to end unless it starts in time, and waits.
            models.Index(
                "expires_at",
                name="django_taskq_live_expires",
                condition=Q(expires_at__isnull=False) & ~Q(status=TaskStatus.RUNNING.value),
            ),
        ]


class FinishedTask(TaskRow):
    """A task that has ended, with what it came to."""

    status = models.TextField(choices=[(s.value, s.label) for s in TaskStatus if s in FINISHED])
    finished_at = models.DateTimeField(db_default=ClockTimestamp())
    return_value = VerbatimJSONField(null=True)

    class Meta:
        db_table = "django_taskq_finishedtask"
        verbose_name = _("finished task")
        verbose_name_plural = _("finished tasks")
        constraints = [
            models.CheckConstraint(
                name="django_taskq_finished_status",
                condition=Q(status__in=sorted(s.value for s in FINISHED)),
            ),
        ]
        indexes = [
            # Lists, time windows and pruning. A BRIN index cannot give "the last 50".
            models.Index("finished_at", name="django_taskq_finished_at"),
            models.Index(
                "status",
                models.F("finished_at").desc(),
                name="django_taskq_finished_badly",
                condition=~Q(status=TaskStatus.SUCCESSFUL.value),
            ),
        ]
