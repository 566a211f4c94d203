"""`manage.py fill N`: enqueue N no-ops."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from benchsite.tasks import noop


class Command(BaseCommand):
    help = "Enqueue no-ops."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("count", type=int)

    def handle(self, *args: Any, **options: Any) -> None:
        noop.enqueue_many([()] * options["count"])
