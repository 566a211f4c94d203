"""The app of the test project; loading it in a worker that the rig started puts the patches in."""

from __future__ import annotations

import os

from django.apps import AppConfig


class ChaosConfig(AppConfig):
    """Tasks that write a ledger, and a worker that is patched."""

    name = "tests.chaos"
    label = "chaos"

    def ready(self) -> None:
        """Patch a worker; nothing in a process that only enqueues."""
        from tests.chaos import actors

        if actors.WORKER in os.environ:
            from tests.chaos import clocks, failpoints, sabotage

            clocks.install()
            actors.install()
            sabotage.install()
            failpoints.install()
