"""The lanes: what is done to workers, in the sizes of the full proof; each can be run smaller.

A lane gets a rig on empty tables and a scale (1 is the full size), and returns the figures of its
run. It raises Broken if a promise was broken.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from tests.chaos import tasks
from tests.chaos.figures import Figures
from tests.chaos.rig import Rig, every

# How much of what is enqueued is rolled back: it must never be seen.
_ROLLED_BACK = 0.1


def sized(full: int, scale: float, least: int = 1) -> int:
    """Return a size of the full lane at a scale."""
    return max(least, math.ceil(full * scale))


def mixed(rig: Rig, count: int, longest: float = 0.02) -> int:
    """Enqueue tasks of all kinds, in transactions of which some are rolled back; say how many."""
    kind: Any = rig.random.choices(
        [tasks.work, tasks.fail_first, tasks.work_atomically, tasks.work_once], [7, 1, 1, 1]
    )[0]
    calls = [(rig.random.uniform(0, longest),) for _ in range(count)]
    ids = rig.enqueue(kind, calls, commits=rig.random.random() >= _ROLLED_BACK)
    if kind is tasks.work_once:
        rig.enqueued.at_most_once.update(ids)
    return len(ids)


def steady(rig: Rig, scale: float) -> Figures:
    """50,000 tasks and no fault: every one starts once."""
    count = sized(50_000, scale, 500)
    rig.start(children=2)
    rig.start(children=2)
    while len(rig.enqueued.accepted) < count:
        if rig.live() < 5000:
            mixed(rig, min(500, count), 0.0)
        time.sleep(0.01)
    rig.drain(60 + count / 50)
    figures = rig.judge("steady")
    assert figures.duplicates == 0, figures
    return figures


def kills(rig: Rig, scale: float) -> Figures:
    """20,000 tasks, while 300 children are killed, one every 0.3 to 1 s."""
    count, wanted = sized(20_000, scale, 300), sized(300, scale, 5)
    for _ in range(2):
        rig.start(children=2)
    rig.wait_until_up(4)
    done = 0
    is_due = every(lambda: rig.random.uniform(0.3, 1.0))
    while done < wanted or len(rig.enqueued.accepted) < count:
        # As many as keep pace with the kills, so that each finds work under way.
        if len(rig.enqueued.accepted) < count * (done + 1) / wanted or rig.live() < 20:
            mixed(rig, rig.random.randint(1, 50))
        if done < wanted and is_due():
            done += rig.kill_child()
        time.sleep(0.01)
    rig.drain()
    figures = rig.judge("kills")
    assert figures.kills >= wanted and figures.duplicates <= figures.bound, figures
    return figures


Lane = Callable[[Rig, float], Figures]
LANES: dict[str, Lane] = {lane.__name__: lane for lane in (steady, kills)}
