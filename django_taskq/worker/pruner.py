"""Delete finished tasks whose time is over, a little at a time: a duty of the supervisor."""

from __future__ import annotations

import random
import time

from psycopg import errors

from django_taskq import db
from django_taskq.db import Connection
from django_taskq.events import worker_log
from django_taskq.transitions.prune import BEGINNING, MOST, Pruned, prune_batch

# Seconds between looks for old tasks, and between sweeps that start from the very first row.
_LOOK, _SWEEP = 60.0, 3600.0
# How long a batch should take, and when the database ends it: no tick or beat waits longer.
_ENOUGH, _TOO_LONG = 0.02, "500ms"
# How many rows a batch may shrink to.
_LEAST = 10


class Pruner:
    """Prunes when it is due; as much of the time as it works, it rests."""

    def __init__(self, retention: float | None) -> None:
        # Seconds that finished tasks are kept, or None.
        self.retention = retention
        # Not at once, and not together with other workers that started just now.
        first = time.monotonic() + random.uniform(0.2, 1.0) * _LOOK
        self.next_at = float("inf") if retention is None else first
        self._limit = 100
        self._floor = BEGINNING
        self._sweep_at = 0.0
        self._count = 0

    def prune(self, connection: Connection) -> None:
        """Delete one batch, and decide when the next is due."""
        assert self.retention is not None
        began = time.monotonic()
        self.next_at = began + _LOOK  # after an error in it, too
        if self._count == 0 and began >= self._sweep_at:
            self._floor, self._sweep_at = BEGINNING, began + _SWEEP
        # A look is one statement, which deletes so few rows that it needs no time limit of its own.
        is_look = self._count == 0
        limit = _LEAST if is_look else self._limit
        if is_look:
            pruned: Pruned | None = prune_batch(
                connection, age=self.retention, limit=limit, floor=self._floor
            )
        else:
            pruned = self._prune_batch(connection, self.retention)
        seconds = time.monotonic() - began
        if pruned is None:
            self._limit = max(_LEAST, self._limit // 4)
            return
        self._count += pruned.rows
        self._floor = pruned.floor
        if pruned.rows == limit:
            self.next_at = time.monotonic() + seconds
        else:
            self._end_sweep()
        if not is_look:
            self._adapt(seconds)

    def _prune_batch(self, connection: Connection, retention: float) -> Pruned | None:
        """Delete a batch; None if it took too long and was undone."""
        try:
            with connection.transaction():
                connection.execute(f"SET LOCAL statement_timeout = '{_TOO_LONG}'")
                return prune_batch(connection, age=retention, limit=self._limit, floor=self._floor)
        except errors.QueryCanceled:
            db.roll_back(connection)
            return None

    def _adapt(self, seconds: float) -> None:
        """Make the next batch as large as fits the time."""
        if seconds < _ENOUGH / 2:
            self._limit = min(MOST, self._limit * 2)
        elif seconds > _ENOUGH:
            self._limit = max(_LEAST, self._limit // 2)

    def _end_sweep(self) -> None:
        if self._count:
            worker_log.info("Deleted %d finished task(s) past their retention.", self._count)
        self._count = 0
