"""Make workers beat fast: 0.5 s instead of 5, dead after 5 s instead of 30."""

from __future__ import annotations

import os
import time
from pathlib import Path

from django.apps import AppConfig

from django_taskq import clocks

# While the file of this name exists, the project takes long to load.
SLOW = "TESTS_PROJECT_IS_SLOW"


class Brisk(AppConfig):
    """Sets the clocks in every process of a worker."""

    name = "tests.processes.brisk"

    def ready(self) -> None:
        clocks.BEAT = clocks.SWEEP = 0.5
        clocks.TTL = 5.0
        clocks.ANSWER = 3.0
        while Path(os.environ.get(SLOW, "/no/such/file")).exists():
            time.sleep(0.05)
