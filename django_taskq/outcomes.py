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


class Committed(NamedTuple):
    """An `atomic` task has stored what it came to itself, in its own transaction."""

    id: str
    claim: str
    began: float
    ended: float


class Unanswered(NamedTuple):
    """The connection was lost while an `atomic` task committed: its row tells whether it did."""

    id: str
    claim: str
    began: float
    ended: float


class Lost(NamedTuple):
    """An `atomic` task was taken from its worker before it could commit: nothing of it is left."""

    id: str
    claim: str
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


# What is stored already, or never will be.
Ended: TypeAlias = Committed | Lost
# What a feeder stores.
Unstored: TypeAlias = (
    Completed
    | Unanswered
    | Retrying
    | Snoozed
    | Failed
    | Cancelled
    | CancelledUnstarted
    | Expired
    | Parked
)
Outcome: TypeAlias = Unstored | Ended
