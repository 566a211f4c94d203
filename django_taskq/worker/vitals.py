"""What a worker tells its surroundings of itself: a health port, and systemd.

The supervisor's loop notes what it does; whoever asks is answered from these notes, without the
loop and without the database.
"""

from __future__ import annotations

import time
from typing import Any

from django_taskq import clocks
from django_taskq.worker.children import Children
from django_taskq.worker.health import HealthServer
from django_taskq.worker.notify import Notifier
from django_taskq.worker.options import WorkerOptions

# A loop that has not gone round for so long hangs. A database that has not answered for two beats
# is away; this is the bit that the answer may take.
_LOOP_HANGS, _A_BIT = 10.0, 2.0


class Vitals:
    """The notes of one supervisor."""

    def __init__(self, options: WorkerOptions, children: Children) -> None:
        """Start to listen if a port was asked for. Raise HealthPortTaken if it cannot be had."""
        self.children = children
        self.processes = options.children
        self.notifier = Notifier()
        # Readings of the monotonic clock. The loop has not begun while the project is loaded.
        self._looped_at: float | None = None
        self._answered_at: float | None = None
        self._is_leaving = False
        self._server: HealthServer | None = None
        if options.health_port:
            answers = {"/live": self.live, "/ready": self.ready}
            self._server = HealthServer(options.health_host, options.health_port, answers)

    # --- called by the loop ----------------------------------------------------------------------

    def loop(self, now: float) -> None:
        """Note that the loop goes round; tell systemd when that is due."""
        self._looped_at = now
        if self.children.up and not self._is_leaving:
            self.notifier.ready()
        self.notifier.beat(now)

    def answered(self, now: float) -> None:
        """Note that the database has answered."""
        self._answered_at = now
        self.notifier.status(
            f"{self.children.running(now)} task(s) running, "
            f"{self.children.up} of {self.processes} process(es) up."
        )

    def lost_database(self) -> None:
        """Note that it does not."""
        self.notifier.status("The database does not answer; trying again.")

    def stop(self) -> None:
        """Note that the worker takes nothing more and is about to end."""
        self._is_leaving = True
        self.notifier.stopping()

    def reload(self) -> None:
        """Note that it is about to start anew."""
        self._is_leaving = True
        self.notifier.reloading()

    @property
    def next_at(self) -> float:
        """Return when the loop must go round again at the latest."""
        return self.notifier.next_at

    def close(self) -> None:
        """Answer nobody any more."""
        if self._server is not None:
            self._server.close()

    # --- called by the server --------------------------------------------------------------------

    def live(self) -> tuple[bool, dict[str, Any]]:
        """Say whether the loop goes round."""
        age = _age(self._looped_at)
        return age is None or age < _LOOP_HANGS, {"loop_seconds_ago": age}

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Say whether tasks that become due now are run."""
        age, up = _age(self._answered_at), self.children.up
        answers = age is not None and age < 2 * clocks.BEAT + _A_BIT
        is_ready = answers and up > 0 and not self._is_leaving
        return is_ready, {
            "database_seconds_ago": age,
            "processes_up": up,
            "processes": self.processes,
            "stopping": self._is_leaving,
        }


def _age(moment: float | None) -> float | None:
    return None if moment is None else round(time.monotonic() - moment, 3)
