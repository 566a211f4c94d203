"""drain(): run what is waiting, here and now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from unittest import mock

from django.conf import settings
from django.utils import timezone

from django_taskq import current, registry
from django_taskq.db import user_cursor
from django_taskq.outcomes import Committed, Outcome
from django_taskq.results import TaskResult
from django_taskq.testing.databases import backends
from django_taskq.testing.runner import Ran, Runner
from django_taskq.transitions import claim, operate
from django_taskq.transitions.travel import move_times
from django_taskq.worker.lanes import QueueChoice

# A test that starts more tasks than this has one that enqueues itself for ever.
_MOST_STARTS = 10_000
# How often to look once more for a task that is due and could not be claimed.
_LOOK_AGAIN = 3


@dataclass
class Drained:
    """What `drain` has run."""

    # How many attempts came to what: completed, retrying, snoozed, failed, cancelled, expired or
    # parked (no function of this name is known).
    counts: Counter[str] = field(default_factory=Counter)
    # What became of each task, in the order of their first starts.
    results: list[TaskResult[Any]] = field(default_factory=list)
    # What failed attempts raised, in their order.
    errors: list[BaseException] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of attempts."""
        return self.counts.total()

    def __bool__(self) -> bool:
        """Say whether anything was run."""
        return bool(self.counts)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {word}" for word, count in sorted(self.counts.items()))
        errors = "".join(f"\n  {type(error).__name__}: {error}" for error in self.errors)
        return (counts or "nothing was due") + errors


def drain(
    *,
    until: datetime | timedelta | float | None = None,
    queue_name: str | Sequence[str] = (),
    limit: int | None = None,
    raise_errors: bool = False,
) -> Drained:
    """Run the tasks that are due, and those that they enqueue, in this process; say what ran.

    `until` (a moment, or a timedelta or seconds from now) lets the time until then pass for tasks:
    retries and tasks for later are run in their order. `queue_name` takes names and globs; none is
    all queues. `limit` is the most attempts to start. With `raise_errors` the first failed attempt
    ends it, and its error is raised. Raise RuntimeError after 10,000 attempts without a limit.
    """
    names = (queue_name,) if isinstance(queue_name, str) else tuple(queue_name)
    registry.discover()
    drained = Drained()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(current, "in_worker", True))
        drains = [_Drain(alias, drained, QueueChoice(names, ())) for alias in backends()]
        for each in drains:
            stack.enter_context(each.runner.present())
            each.begin(until)
            stack.callback(each.end)
        _run_all(drains, drained, limit, raise_errors)
    drained.results = [result for each in drains for result in each.results()]
    return drained


def _run_all(
    drains: Sequence[_Drain], drained: Drained, limit: int | None, raise_errors: bool
) -> None:
    """Run until no database has anything due, nor until then."""
    while limit is None or len(drained) < limit:
        if len(drained) >= _MOST_STARTS:
            raise RuntimeError(
                f"drain() has started {_MOST_STARTS:,} attempts and there is more: does a task "
                "enqueue itself, or snooze for ever? Pass limit= to stop earlier."
            )
        ran = next((ran for each in drains if (ran := each.run_next()) is not None), None)
        if ran is None:
            if not any(each.go_on() for each in drains):
                return
            continue
        failure = ran.failure
        drained.counts[_word(ran.outcome)] += 1
        if failure is not None:
            drained.errors.append(failure)
            if raise_errors:
                raise failure


def _word(outcome: Outcome) -> str:
    if isinstance(outcome, Committed):
        return "completed"  # by itself, as an atomic task does
    return type(outcome).__name__.lower().removesuffix("unstarted")


class _Drain:
    """The tasks of one database."""

    def __init__(self, alias: str, drained: Drained, choice: QueueChoice) -> None:
        self.alias = alias
        self.drained = drained
        self.choice = choice
        self.runner = Runner(alias)
        # Ids in the order of first starts.
        self.started: dict[str, None] = {}
        # How much time has passed for tasks, and how much may.
        self._passed = self._left = timedelta(0)
        # How often in a row nothing could be claimed though something was due a moment later: it
        # has become due in between, or somebody else has locked it.
        self._looked_again = 0

    def begin(self, until: datetime | timedelta | float | None) -> None:
        """Find out how much time may pass; take up again what waited for its name to be known."""
        self._left = _time_left(self.alias, until)
        operate.resume_known(self.runner.connection, registry.names())

    def run_next(self) -> Ran | None:
        """Run the next task that is due."""
        row = self.runner.claim_next(self.choice)
        if row is None:
            return None
        self._looked_again = 0
        self.started[row.id] = None
        return self.runner.run(row)

    def go_on(self) -> bool:
        """Let time pass until the next task is due; False if that is too late."""
        lanes, _, _ = claim.tick(self.runner.connection, [])
        served = [tick for tick in lanes if self.choice.serves(tick.lane.queue_name)]
        if any(tick.is_due for tick in served) and self._looked_again < _LOOK_AGAIN:
            self._looked_again += 1
            return True
        waits = [tick.due_in for tick in served if tick.due_in is not None]
        if not waits:
            return False
        # A microsecond more: the database gave a rounded figure.
        pause = timedelta(seconds=max(min(waits), 0.0), microseconds=1)
        if pause > self._left + timedelta(microseconds=1):
            return False
        self._left -= pause
        self._passed += pause
        move_times(self.runner.connection, -pause)
        return True

    def end(self) -> None:
        """Put the times of what still waits right: they are as far off as they were."""
        if self._passed:
            move_times(self.runner.connection, self._passed)

    def results(self) -> list[TaskResult[Any]]:
        backend = backends()[self.alias]
        return [backend.get_result(id) for id in self.started]


def _time_left(alias: str, until: datetime | timedelta | float | None) -> timedelta:
    """Return how long it is until then, by the database's clock."""
    if until is None:
        return timedelta(0)
    if isinstance(until, timedelta):
        return until
    if isinstance(until, int | float):
        return timedelta(seconds=until)
    if not isinstance(until, datetime):
        raise TypeError(
            f"drain(until={until!r}): give an aware datetime, a timedelta or seconds from now."
        )
    if timezone.is_naive(until):
        if settings.USE_TZ:
            raise ValueError(
                f"drain(until={until!r}): it is naive. Pass an aware datetime, such as "
                "timezone.now() + timedelta(…), or the timedelta itself."
            )
        until = timezone.make_aware(until)
    with user_cursor(alias) as cursor:
        cursor.execute("SELECT %s - clock_timestamp()", [until])
        left: timedelta = cursor.fetchone()[0]
    return left
