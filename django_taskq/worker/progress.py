"""How far running tasks are, on its way to their rows."""

from __future__ import annotations

import json
from typing import Any

from django_taskq.db import Connection
from django_taskq.transitions import finish
from django_taskq.transitions.claim import Claimed

# Progress is stored at most so often.
_REPORT_EVERY = 0.2


class Progress:
    """The last word of each task, until it is stored."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[str, str, str]] = {}
        # What the present round trip, or the last one, has taken along.
        self._sent: dict[str, tuple[str, str, str]] = {}
        self._sent_at = 0.0

    def note(self, row: Claimed, progress: dict[str, Any]) -> None:
        """Keep what a task says; it replaces what it said before. Called by any thread."""
        self._reports[row.id] = (row.id, row.claim, json.dumps(progress))

    def is_due(self, now: float) -> bool:
        """Say whether something is to be sent now."""
        return bool(self._reports) and now >= self._sent_at + _REPORT_EVERY

    def next_at(self) -> float:
        """Return when something is to be sent; infinity: there is nothing."""
        return self._sent_at + _REPORT_EVERY if self._reports else float("inf")

    def send(self, connection: Connection, now: float) -> None:
        """Send it, ahead of the outcomes, which take the last of it along."""
        if self._reports:
            self._sent, self._reports = self._reports, {}
            self._sent_at = now
            finish.report_progress(connection, list(self._sent.values()))
        else:
            self._sent = {}

    def send_again(self) -> None:
        """Have it sent once more, but for what a task has said since: the connection was lost."""
        self._reports = {**self._sent, **self._reports}
