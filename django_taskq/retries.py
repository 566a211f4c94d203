"""Decide whether a failed attempt is followed by another, and after how long. Pure functions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

# Seconds, one value per attempt (the last repeats), a curve, or a function of attempt and error.
Backoff: TypeAlias = (
    "float | Sequence[float] | Exponential | Callable[[int, BaseException], float | None]"
)


@dataclass(frozen=True)
class Exponential:
    """Double the longest wait at each attempt, up to `cap`, and wait a random part of it.

    Full jitter (Brooker, "Exponential Backoff And Jitter", AWS 2015) spreads retries best.
    """

    base: float = 15.0
    cap: float = 3600.0

    def delay(self, attempt: int) -> float:
        """Return seconds to wait after the given attempt (the first is 1)."""
        longest = min(self.cap, self.base * 2.0 ** min(attempt - 1, 62))
        return random.uniform(0, longest)


def exponential(base: float = 15.0, cap: float = 3600.0) -> Exponential:
    """Make a backoff that waits up to `base`, 2 × base, 4 × base … `cap` seconds, at random."""
    if base <= 0 or cap <= 0:
        raise ValueError(f"exponential(base={base}, cap={cap}): both must be above 0 seconds.")
    return Exponential(float(base), float(cap))


DEFAULT_BACKOFF = Exponential()


def check_backoff(backoff: Any) -> Any:
    """Return the backoff in hashable form. Raise TypeError or ValueError if it is none."""
    if isinstance(backoff, Exponential) or callable(backoff):
        return backoff
    if isinstance(backoff, bool):
        raise TypeError(f"backoff takes seconds, not {backoff!r}.")
    if isinstance(backoff, int | float):
        return _check_seconds(backoff)
    if isinstance(backoff, list | tuple) and backoff:
        return tuple(_check_seconds(seconds) for seconds in backoff)
    raise TypeError(
        f"backoff takes seconds, a list of seconds, exponential(…) or a function of "
        f"(attempt, error), not {backoff!r}."
    )


def next_delay(backoff: Any, attempt: int, error: BaseException) -> float | None:
    """Return the seconds to wait after a failed attempt (the first is 1); None gives up."""
    if isinstance(backoff, Exponential):
        return backoff.delay(attempt)
    if isinstance(backoff, int | float):
        return float(backoff)
    if isinstance(backoff, tuple | list):
        return float(backoff[min(attempt, len(backoff)) - 1])
    delay = backoff(attempt, error)
    return None if delay is None else max(0.0, float(delay))


def should_retry(
    error: BaseException,
    *,
    attempt: int,
    max_attempts: int,
    retry_on: tuple[type[BaseException], ...],
    give_up_on: tuple[type[BaseException], ...],
) -> bool:
    """Say whether an attempt that raised `error` may be followed by another."""
    if attempt >= max_attempts or isinstance(error, give_up_on):
        return False
    return isinstance(error, retry_on)


def backoff_to_json(backoff: Any) -> Any:
    """Return what a row stores of a backoff. Raise TypeError for a function, which it cannot."""
    if isinstance(backoff, Exponential):
        return {"base": backoff.base, "cap": backoff.cap}
    if callable(backoff):
        raise TypeError(
            "using(backoff=…) takes seconds, a list of seconds or exponential(…): a row cannot "
            "hold a function. Give it to @task instead."
        )
    return backoff


def backoff_from_json(stored: Any) -> Any:
    """Read back what `backoff_to_json` made.

    Somebody else may have made it, by SQL: raise TypeError, ValueError or KeyError if it is none.
    """
    if isinstance(stored, dict):
        return exponential(base=float(stored["base"]), cap=float(stored["cap"]))
    return check_backoff(stored)


def _check_seconds(seconds: Any) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"backoff takes seconds, not {seconds!r}.")
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"backoff takes seconds from 0 up, not {seconds!r}.")
    return float(seconds)
