"""The one door for operators: the admin, the command line and your own code come in here.

    look    list_tasks, show, status, workers            listing.py, detail.py, overview.py
    act     retry, retry_all, cancel, cancel_all         bulk.py
    probe   health, diagnose                             overview.py, doctor.py
    run     run_here                                     running.py

Every function takes `database`, the alias of the database with the tables; None is the one that the
TASKS setting says. Reads are bounded: none walks over a whole table.
"""

from __future__ import annotations

from django_taskq.control.bulk import Changed, Skipped, cancel, cancel_all, retry, retry_all
from django_taskq.control.databases import ControlError, database_of
from django_taskq.control.listing import Page, TaskLine, list_tasks

__all__ = [
    "Changed",
    "ControlError",
    "Page",
    "Skipped",
    "TaskLine",
    "cancel",
    "cancel_all",
    "database_of",
    "list_tasks",
    "retry",
    "retry_all",
]
