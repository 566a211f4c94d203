"""Make workers beat fast: 0.5 s instead of 5, dead after 5 s instead of 30."""

from __future__ import annotations

from django.apps import AppConfig

from django_taskq import clocks


class Brisk(AppConfig):
    """Sets the clocks in every process of a worker."""

    name = "tests.processes.brisk"

    def ready(self) -> None:
        clocks.BEAT = clocks.SWEEP = 0.5
        clocks.TTL = 5.0
