"""Every lane by its name, in the order in which they are started: the longest first."""

from __future__ import annotations

from collections.abc import Callable

from tests.chaos import failpoints, lanes, outages, zombies
from tests.chaos.failing import fail_at
from tests.chaos.figures import Figures
from tests.chaos.lanes import sized
from tests.chaos.rig import Rig

Lane = Callable[[Rig, float], Figures]

_FATAL = ("kill", "exit", "cut")


def failpoints_of_children(rig: Rig, scale: float) -> Figures:
    """Every place in a child × killed, exited, cut off, 20 times each."""
    return fail_at(rig, failpoints.IN_CHILDREN, _FATAL, sized(20, scale))


def failpoints_at_a_stop(rig: Rig, scale: float) -> Figures:
    """The places that a worker comes to when it stops × killed, exited, cut off, 20 times each."""
    return fail_at(rig, failpoints.AT_A_STOP, _FATAL, sized(20, scale))


def failpoints_at_a_stop_suspended(rig: Rig, scale: float) -> Figures:
    """The same places × suspended for three times the time to live, 4 times each."""
    return fail_at(rig, failpoints.AT_A_STOP, ["stop"], sized(20, scale))


def failpoints_suspended(rig: Rig, scale: float) -> Figures:
    """Every place in a child × suspended for three times the time to live, 4 times each."""
    return fail_at(rig, failpoints.IN_CHILDREN, ["stop"], sized(20, scale))


def failpoints_of_supervisors(rig: Rig, scale: float) -> Figures:
    """Every place in a supervisor × killed, exited, cut off, 20 times each."""
    return fail_at(rig, failpoints.IN_SUPERVISORS, _FATAL, sized(20, scale))


def supervisors_suspended(rig: Rig, scale: float) -> Figures:
    """Every place in a supervisor × suspended for three times the time to live, 4 times each."""
    return fail_at(rig, failpoints.IN_SUPERVISORS, ["stop"], sized(20, scale))


LANES: dict[str, Lane] = {
    "failpoints-supervisors": failpoints_of_supervisors,
    "failpoints": failpoints_of_children,
    "supervisors-suspended": supervisors_suspended,
    "failpoints-stop": failpoints_at_a_stop,
    "failpoints-suspended": failpoints_suspended,
    "failpoints-stop-suspended": failpoints_at_a_stop_suspended,
    "kills": lanes.kills,
    "zombies": zombies.zombies,
    "stops": lanes.stops,
    "steady": lanes.steady,
    "outage": outages.outage,
    "restarts": outages.restarts,
    "slow-drains": zombies.slow_drains,
    "late-beats": zombies.late_beats,
    "late-commits": lanes.late_commits,
    "cuts": lanes.cuts,
    "poison": lanes.poison,
}
