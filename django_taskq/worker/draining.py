"""When a child claims nothing, so that its hand becomes empty and a suspect can have it alone."""

from __future__ import annotations

# A child that runs several tasks at once keeps its other places empty for so many seconds at first
# and at most: one of its tasks may take hours.
_FIRST, _MOST = 1.0, 60.0


class Draining:
    """Waits for an empty hand, for a while; then claims for as long, and waits twice as long.

    So a suspect costs half of a child's time at most, and comes to its turn where tasks take up to
    a minute. Where one task runs at a time nothing is lost by waiting: there is no limit.
    """

    def __init__(self, *, places: int) -> None:
        self._is_limited = places > 1
        self._patience = _FIRST
        # Until when to wait, and from when on to begin again.
        self._until: float | None = None
        self._not_before = 0.0

    @property
    def is_under_way(self) -> bool:
        """Say whether nothing is to be claimed."""
        return self._until is not None

    @property
    def ends_at(self) -> float:
        """Return when to give it up; infinity: it is not under way, or has no limit."""
        return float("inf") if self._until is None else self._until

    def begin(self, now: float) -> None:
        """Wait for an empty hand, unless that was tried in vain just now."""
        if self._until is None and now >= self._not_before:
            self._until = now + self._patience if self._is_limited else float("inf")

    def give_up_if_in_vain(self, now: float) -> bool:
        """Give up when it has taken too long; say whether it did so now."""
        if self._until is None or now < self._until:
            return False
        self._until, self._not_before = None, now + self._patience
        self._patience = min(2 * self._patience, _MOST)
        return True

    def end(self) -> None:
        """The hand is empty."""
        self._until, self._patience = None, _FIRST
