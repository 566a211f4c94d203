"""Break the product on purpose: a suite that does not notice proves nothing.

`CHAOS_SABOTAGE=fence` and so on, in the environment of a worker. Patched in from outside.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from django_taskq import clocks
from django_taskq.transitions import finish, presence
from django_taskq.worker.lanes import Lanes, Look
from django_taskq.worker.supervisor import Supervisor

SABOTAGE = "CHAOS_SABOTAGE"


def install() -> None:
    """Break what the environment names."""
    name = os.environ.get(SABOTAGE)
    if name:
        _KINDS[name]()


def _without(text: str, clause: str) -> str:
    """Return a statement without a clause; raise ValueError if it has none: then this is stale."""
    if clause not in text:
        raise ValueError(f"nothing to sabotage: {clause!r} is not in\n{text}")
    return text.replace(clause, "")


def _remove_the_fence() -> None:
    """Outcomes go by id alone: whoever comes late ends a task of somebody else."""
    for name in ("COMPLETE", "FAIL", "RETRY"):
        setattr(finish, name, _without(getattr(finish, name), " AND t.claim = m.claim"))


def _declare_dead_by_id() -> None:
    """Whoever was silent is declared dead, even if it has beaten since."""
    presence.DECLARE_DEAD = _without(presence.DECLARE_DEAD, " AND w.beat = seen.beat")


def _stop_beating_at_a_stop() -> None:
    """A worker that was asked to stop does not beat any more, while its tasks run on."""
    beat = Supervisor._beat

    def patched(self: Supervisor, connection: Any, now: float) -> None:
        if self._is_stopping:
            self._beat_at = now + clocks.BEAT
        else:
            beat(self, connection, now)

    Supervisor._beat = patched  # type: ignore[method-assign]


def _never_look_below_floors() -> None:
    """What becomes READY below a floor is never found."""
    look_now = Lanes.look_now

    def patched(self: Lanes, now: float, *, after_look: bool) -> Look:
        look = look_now(self, now, after_look=after_look)
        return Look.TIGHT if self.has_floors else look

    Lanes.look_now = patched  # type: ignore[method-assign]


_KINDS: dict[str, Callable[[], None]] = {
    "fence": _remove_the_fence,
    "swap": _declare_dead_by_id,
    "drain": _stop_beating_at_a_stop,
    "floors": _never_look_below_floors,
}
