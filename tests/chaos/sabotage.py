"""Break the product on purpose: a suite that does not notice proves nothing.

`CHAOS_SABOTAGE=fence` and so on, in the environment of a worker. Patched in from outside.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from django_taskq.transitions import finish, rescue

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


def _rescue_without_looking() -> None:
    """A dead process's started tasks are left as they are."""
    rescue.rescue = lambda *args, **kwargs: 0


_KINDS: dict[str, Callable[[], None]] = {
    "fence": _remove_the_fence,
    "rescue": _rescue_without_looking,
}
