"""The one door for operators: the admin, the command line and your own code come in here.

    look    list_tasks, find_id, show, status, workers   listing.py, detail.py, overview.py
    act     retry, retry_all, cancel, cancel_all, prune  bulk.py
    probe   health, diagnose                             overview.py, doctor.py
    run     run_here                                     running.py

Every function takes `database`, the alias of the database with the tables; None is the one that the
TASKS setting says. Reads are bounded: none walks over a whole table.
"""

from __future__ import annotations

from django_taskq.control.bulk import (
    Changed,
    Skipped,
    cancel,
    cancel_all,
    prune,
    retry,
    retry_all,
)
from django_taskq.control.databases import ControlError, database_of
from django_taskq.control.detail import TaskDetail, find_id, show
from django_taskq.control.doctor import diagnose
from django_taskq.control.findings import Finding, Severity
from django_taskq.control.listing import Page, TaskLine, list_tasks
from django_taskq.control.overview import (
    ChildLine,
    Health,
    QueueStatus,
    Status,
    WorkerLine,
    health,
    status,
    workers,
)
from django_taskq.control.running import Ran, run_here

__all__ = [
    "Changed",
    "ChildLine",
    "ControlError",
    "Finding",
    "Health",
    "Page",
    "QueueStatus",
    "Ran",
    "Severity",
    "Skipped",
    "Status",
    "TaskDetail",
    "TaskLine",
    "WorkerLine",
    "cancel",
    "cancel_all",
    "database_of",
    "diagnose",
    "find_id",
    "health",
    "list_tasks",
    "prune",
    "retry",
    "retry_all",
    "run_here",
    "show",
    "status",
    "workers",
]
