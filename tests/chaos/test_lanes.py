"""The lanes at a small size: nothing is lost, whatever dies."""

from __future__ import annotations

import pytest

from tests.chaos import lanes
from tests.chaos.rig import Rig

pytestmark = pytest.mark.slow


def test_without_faults_every_task_starts_once(rig: Rig) -> None:
    lanes.steady(rig, 0.02)


def test_children_that_are_killed_lose_nothing(rig: Rig) -> None:
    lanes.kills(rig, 0.03)
