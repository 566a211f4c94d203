"""The statuses of a task, and which arrows lead from one to the next."""

from __future__ import annotations

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class TaskStatus(TextChoices):
    """Name where a task row stands; Django's own four words keep their meaning."""

    # May be claimed once its `run_after` has come. A retry that waits is READY too.
    READY = "READY", _("Ready")
    # Is put aside until what `held_for` names is there (a worker that knows the task, say).
    HELD = "HELD", _("Held")
    # Was claimed by the worker process that `worker_id` names, under the token in `claim`.
    RUNNING = "RUNNING", _("Running")
    # Finished, and its return value is stored.
    SUCCESSFUL = "SUCCESSFUL", _("Successful")
    # Finished without a value: its last error says why.
    FAILED = "FAILED", _("Failed")
    # Ended on somebody's word before it had finished.
    CANCELLED = "CANCELLED", _("Cancelled")
    # Was not started before its `expires_at`.
    EXPIRED = "EXPIRED", _("Expired")


# Rows of LiveTask have one of these …
UNFINISHED = frozenset({TaskStatus.READY, TaskStatus.HELD, TaskStatus.RUNNING})

# … and rows of FinishedTask one of these.
FINISHED = frozenset(
    {TaskStatus.SUCCESSFUL, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.EXPIRED}
)

# Every arrow: its verb, the status it leaves (None: there was no row) and the one it leads to.
TRANSITIONS: tuple[tuple[str, TaskStatus | None, TaskStatus], ...] = (
    ("enqueue", None, TaskStatus.READY),
    ("claim", TaskStatus.READY, TaskStatus.RUNNING),
    ("complete", TaskStatus.RUNNING, TaskStatus.SUCCESSFUL),
    ("retry", TaskStatus.RUNNING, TaskStatus.READY),
    ("snooze", TaskStatus.RUNNING, TaskStatus.READY),
    ("fail", TaskStatus.RUNNING, TaskStatus.FAILED),
    ("cancel", TaskStatus.RUNNING, TaskStatus.CANCELLED),
    ("cancel", TaskStatus.READY, TaskStatus.CANCELLED),
    ("cancel", TaskStatus.HELD, TaskStatus.CANCELLED),
    ("expire", TaskStatus.RUNNING, TaskStatus.EXPIRED),
    ("expire", TaskStatus.READY, TaskStatus.EXPIRED),
    ("expire", TaskStatus.HELD, TaskStatus.EXPIRED),
    ("park", TaskStatus.RUNNING, TaskStatus.HELD),
    ("requeue", TaskStatus.SUCCESSFUL, TaskStatus.READY),
    ("requeue", TaskStatus.FAILED, TaskStatus.READY),
    ("requeue", TaskStatus.CANCELLED, TaskStatus.READY),
    ("requeue", TaskStatus.EXPIRED, TaskStatus.READY),
    ("resume", TaskStatus.HELD, TaskStatus.READY),
    ("give_back", TaskStatus.RUNNING, TaskStatus.READY),
    ("rescue", TaskStatus.RUNNING, TaskStatus.READY),
    ("rescue", TaskStatus.RUNNING, TaskStatus.FAILED),
)
