"""End tasks that expired while they waited: a duty of the supervisor.

A child ends those that it claims. This is for what nobody claims: a queue that no worker serves, a
name that none knows.
"""

from __future__ import annotations

import random
import time

import psycopg

from django_taskq import clocks
from django_taskq.db import Connection
from django_taskq.events import worker_log
from django_taskq.exceptions import TaskExpired
from django_taskq.serialization import class_path, error_record
from django_taskq.transitions.expire import MOST, expire_waiting
from django_taskq.worker.store import brief

# Why a task has ended, in its last error.
NOT_STARTED = "It was not started within its expires_after."
# Once in so many of the intervals in which lost tasks are looked for: nobody waits for these.
_FEW = 12


class Expiry:
    """Ends them when it is due; as much of the time as it works, it rests."""

    def __init__(self) -> None:
        # No process has worked on them; the statement knows their attempts.
        self._error = error_record(
            class_path=class_path(TaskExpired),
            message=NOT_STARTED,
            traceback_text="",
            attempt=0,
            worker="",
        )
        self._count = 0
        # Not together with other workers that started just now.
        self.next_at = time.monotonic() + random.uniform(0.1, 1.0) * _FEW * clocks.SWEEP

    def end_expired(self, connection: Connection) -> None:
        """End one batch, and decide when the next is due."""
        began = time.monotonic()
        self.next_at = began + _FEW * clocks.SWEEP  # after an error in it, too
        try:
            count = expire_waiting(connection, error=self._error)
        except (psycopg.IntegrityError, psycopg.DataError) as error:
            # Rows that somebody has made by hand must not end one supervisor after the other.
            worker_log.error("Expired tasks cannot be ended: %s", brief(error))
            return
        self._count += count
        if count == MOST:
            now = time.monotonic()
            self.next_at = now + (now - began)
        elif self._count:
            worker_log.info("Ended %d task(s) that expired while they waited.", self._count)
            self._count = 0
