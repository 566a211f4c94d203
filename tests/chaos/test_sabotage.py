"""The lanes notice when the product is broken on purpose: a green run would mean nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.figures import Figures
from tests.chaos.lanes import late_commits
from tests.chaos.rig import Broken, Rig
from tests.chaos.zombies import late_beats, slow_drains, zombies

pytestmark = pytest.mark.chaos


def broken(lane: Callable[[Rig, float, str], Figures], rig: Rig, sabotage: str) -> str:
    """Run a lane on a sabotaged worker; return what it says of it."""
    with pytest.raises(AssertionError) as caught:
        lane(rig, 0.01, sabotage)
    return str(caught.value)


def test_a_missing_fence_is_noticed(rig: Rig) -> None:
    assert "stale: " in broken(zombies, rig, "fence")


def test_a_missing_compare_and_swap_is_noticed(rig: Rig) -> None:
    """A worker that has beaten again is declared dead all the same, and ends with 75."""
    assert "ended with 75" in broken(late_beats, rig, "swap")


def test_a_heartbeat_that_stops_at_the_drain_is_noticed(rig: Rig) -> None:
    with pytest.raises(Broken, match=r"(?s)stolen: .*") as caught:
        slow_drains(rig, 0.01, "drain")
    assert "duplicated: " in str(caught.value)


def test_a_floor_without_a_full_look_is_noticed(rig: Rig) -> None:
    assert "lost: " in broken(late_commits, rig, "floors")
