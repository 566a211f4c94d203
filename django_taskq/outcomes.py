"""What running a task came to: made by the executor, stored by `transitions.finish`.

Tuples, because one is made per task on the hot path. `began` and `ended` are readings of
`time.monotonic()` in the process that ran the task; they are turned into moments of the database's
clock when they are sent. `error` is a record made by `serialization.dump_error`, as JSON text.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias


class Completed(NamedTuple):
    """The function returned; `value` is its JSON text, or None where it is not stored."""

    id: str
    claim: str
    value: str | None
    began: float
    ended: float


class Retrying(NamedTuple):
    """The attempt failed and another follows in `delay` seconds."""

    id: str
    claim: str
    error: str
    delay: float
    began: float
    ended: float


class Snoozed(NamedTuple):
    """The task asked to be run again in `delay` seconds, without using an attempt."""

    id: str
    claim: str
    delay: float


class Failed(NamedTuple):
    """The attempt failed and was the last."""

    id: str
    claim: str
    error: str
    began: float
    ended: float


class Cancelled(NamedTuple):
    """The task raised Cancel."""

    id: str
    claim: str
    error: str
    began: float
    ended: float


class CancelledUnstarted(NamedTuple):
    """The task had been asked to end before this claim, and was not started."""

    id: str
    claim: str
    error: str
    began: float
    ended: float


class Expired(NamedTuple):
    """The task was claimed too late to be started."""

    id: str
    claim: str
    error: str
    began: float
    ended: float


class Parked(NamedTuple):
    """The task may not run here now; `held_for` says what it waits for."""

    id: str
    claim: str
    held_for: str


Outcome: TypeAlias = (
    Completed | Retrying | Snoozed | Failed | Cancelled | CancelledUnstarted | Expired | Parked
)
