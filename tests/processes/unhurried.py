"""Let supervisors look for work once an hour: what they are not told of, they do not find."""

from __future__ import annotations

from django.apps import AppConfig

from django_taskq import clocks


class Unhurried(AppConfig):
    """Sets the clock in every process of a worker."""

    name = "tests.processes.unhurried"

    def ready(self) -> None:
        clocks.TICK = 3600.0
