"""What can go wrong, and what a task may raise on purpose.

TaskqError
├── ArgumentsError (TypeError)        enqueue(): not JSON, or not what the function takes
│   └── SignatureMismatch             recorded: the row's arguments are not what it takes now
├── PayloadTooLarge (ValueError)      enqueue(): the JSON is over PAYLOAD_LIMIT
├── CarrierError                      enqueue(): a carrier could not capture its context
├── UnknownTask (LookupError)         no task of this name is registered here
├── WaitInsideTransaction             wait() where the task cannot be visible to any worker
├── TaskFailed                        wait(): the task ended without a value
│   ├── TaskCancelled                 … somebody cancelled it
│   ├── TaskExpired                   … nobody started it in time
│   └── TaskCrashed                   … the processes that ran it died
├── UnstorableResult                  the task ran, its return value cannot be stored
├── SoftTimeLimit (TimeoutError)      raised inside a task that runs too long
└── HardTimeLimit (TimeoutError)      recorded for a task whose process had to be killed

TaskControl                           raised by a task to say how it goes on
├── Retry
├── Snooze
└── Cancel
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class TaskqError(Exception):
    """The base of everything that this package raises."""


class ArgumentsError(TaskqError, TypeError):
    """The arguments cannot be stored as JSON, or the task's function does not take them."""


class SignatureMismatch(ArgumentsError):
    """What a row holds is not what the task's function takes; it was not called, nor will be."""


class PayloadTooLarge(TaskqError, ValueError):
    """The arguments or the return value are larger than the settings allow."""


class CarrierError(TaskqError):
    """A carrier of `DJANGO_TASKQ["CONTEXT"]` failed where a task was enqueued; see `__cause__`."""


class UnknownTask(TaskqError, LookupError):
    """No task of this name is registered in this process."""


class WaitInsideTransaction(TaskqError, RuntimeError):
    """wait() was called in the transaction that enqueued, which no worker can see yet."""


class TaskFailed(TaskqError):
    """The task ended without a return value; `errors` holds one record per failed attempt."""

    def __init__(self, message: str = "", errors: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.errors = list(errors)


class TaskCancelled(TaskFailed):
    """The task was cancelled before it had finished."""


class TaskExpired(TaskFailed):
    """The task was not started before its `expires_after` had passed."""


class TaskCrashed(TaskFailed):
    """The process that ran the task died."""


class UnstorableResult(TaskqError):
    """The task ran to its end, but its return value cannot be stored as JSON."""


class SoftTimeLimit(TaskqError, TimeoutError):
    """The task has run for its `soft_timeout`; it may catch this and tidy up."""

    def __init__(self, message: str = "The task has run for its soft_timeout.") -> None:
        super().__init__(message)


class HardTimeLimit(TaskqError, TimeoutError):
    """The task had run for its `timeout`, and its process was killed."""


class TaskControl(Exception):
    """The base of what a task raises to say how it goes on."""


class Retry(TaskControl):
    """Run the task again after `delay` (seconds or timedelta; the task's backoff by default).

    Counts against `max_attempts` like any failed attempt.
    """

    def __init__(self, message: str = "", *, delay: float | timedelta | None = None) -> None:
        super().__init__(message)
        self.delay = None if delay is None else _seconds("Retry", delay)


class Snooze(TaskControl):
    """Run the task again after `delay` (seconds or timedelta) without using an attempt."""

    def __init__(self, delay: float | timedelta) -> None:
        super().__init__()
        self.delay = _seconds("Snooze", delay)


class Cancel(TaskControl):
    """End the task as CANCELLED, with a reason that is kept in its errors."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


def _seconds(what: str, delay: float | timedelta) -> float:
    if isinstance(delay, timedelta):
        delay = delay.total_seconds()
    if isinstance(delay, bool) or not isinstance(delay, int | float) or delay != delay:
        raise TypeError(f"{what}(delay=…) takes seconds or a timedelta, not {delay!r}.")
    if delay > 1e9:
        raise ValueError(f"{what}(delay={delay!r}) is more than 30 years.")
    return max(0.0, float(delay))
