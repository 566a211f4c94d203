"""How far running tasks are, on its way to their rows."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

from django_taskq.db import Connection
from django_taskq.outcomes import Unstored
from django_taskq.transitions import finish
from django_taskq.transitions.claim import Claimed

# What a task says: its id, its claim, and JSON text.
Word: TypeAlias = tuple[str, str, str]

# Progress is stored at most so often.
_REPORT_EVERY = 0.2


class Progress:
    """The last word of each task, until it is stored."""

    def __init__(self) -> None:
        self._reports: dict[str, Word] = {}
        # What the present round trip, or the last one, has taken along.
        self._sent: dict[str, Word] = {}
        self._sent_at = 0.0
        # Of tasks whose rows somebody else holds: no round trip is to wait for these.
        self._held: dict[str, Word] = {}

    def note(self, row: Claimed, progress: dict[str, Any]) -> None:
        """Keep what a task says; it replaces what it said before. Called by any thread."""
        words = self._held if row.id in self._held else self._reports
        words[row.id] = (row.id, row.claim, json.dumps(progress))

    def is_due(self, now: float) -> bool:
        """Say whether something is to be sent now."""
        return bool(self._reports) and now >= self._sent_at + _REPORT_EVERY

    def next_at(self) -> float:
        """Return when something is to be sent; infinity: there is nothing."""
        return self._sent_at + _REPORT_EVERY if self._reports else float("inf")

    @property
    def is_waiting(self) -> bool:
        """Say whether something is to be sent sooner or later."""
        return bool(self._reports)

    def send(self, connection: Connection, now: float, outcomes: Sequence[Unstored]) -> None:
        """Send it, ahead of these outcomes, which take the last of it along."""
        if self._held:
            for outcome in outcomes:
                if (word := self._held.pop(outcome.id, None)) is not None:
                    self._reports.setdefault(outcome.id, word)
        if self._reports:
            self._sent, self._reports = self._reports, {}
            self._sent_at = now
            finish.report_progress(connection, list(self._sent.values()))
        else:
            self._sent = {}

    def send_again(self) -> None:
        """Have it sent once more, but for what a task has said since: it was not stored."""
        self._reports = {**self._sent, **self._reports}
        self._sent = {}

    def take(self) -> list[Word]:
        """Return all that is to be stored; then `hold` or `send_again` is called."""
        self._sent, self._reports, self._held = {**self._held, **self._reports}, {}, {}
        return list(self._sent.values())

    def hold(self, ids: Collection[str]) -> bool:
        """Forget what was taken, but for these tasks, whose rows are held; say if some are."""
        self._held = {id: word for id, word in self._sent.items() if id in ids}
        self._sent = {}
        return bool(self._held)
