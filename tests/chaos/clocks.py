"""Scaled clocks: beats of half a second and a time to live of five, set from outside.

Smaller ones are noise on two busy cores.
"""

from __future__ import annotations

from django_taskq import clocks

BEAT, TTL, SWEEP = 0.5, 5.0, 0.5


def install() -> None:
    """Let this process's worker beat, judge and sweep faster."""
    clocks.BEAT, clocks.TTL, clocks.SWEEP = BEAT, TTL, SWEEP
