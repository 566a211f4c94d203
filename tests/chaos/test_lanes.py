"""The lanes at a small size: nothing is lost, whatever dies."""

from __future__ import annotations

import pytest

from tests.chaos import failing, lanes, zombies
from tests.chaos.rig import Rig

pytestmark = pytest.mark.slow


def test_without_faults_every_task_starts_once(rig: Rig) -> None:
    lanes.steady(rig, 0.01)


def test_children_and_workers_that_are_killed_lose_nothing(rig: Rig) -> None:
    lanes.kills(rig, 0.02)


def test_a_suspended_worker_that_wakes_up_changes_nothing(rig: Rig) -> None:
    zombies.zombies(rig, 0.01)


def test_poison_is_started_three_times_and_harms_no_other(rig: Rig) -> None:
    lanes.poison(rig, 0.05)


def test_stops_at_any_moment_leave_nothing_running(rig: Rig) -> None:
    lanes.stops(rig, 0.01)


def test_lost_connections_run_nothing_twice(rig: Rig) -> None:
    lanes.cuts(rig, 0.05)


def test_a_process_that_dies_at_an_awkward_place_loses_nothing(rig: Rig) -> None:
    failing.fail_at(rig, ["complete_sent"], ["kill", "cut"], 3)
