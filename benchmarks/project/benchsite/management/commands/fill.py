"""`manage.py fill N`: enqueue N no-ops, or tasks that wait."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from benchsite import tasks


class Command(BaseCommand):
    help = "Enqueue tasks that do nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("count", type=int)
        parser.add_argument("--task", default="noop")
        parser.add_argument("--seconds", type=float, help="the one argument of tasks that wait")

    def handle(self, *args: Any, **options: Any) -> None:
        seconds = options["seconds"]
        call = () if seconds is None else (seconds,)
        getattr(tasks, options["task"]).enqueue_many([call] * options["count"])
