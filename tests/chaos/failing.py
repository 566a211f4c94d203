"""The lane of failpoints: every place in a worker, every way to fail there, many times."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos import clocks, failpoints, tasks
from tests.chaos.figures import Figures, total
from tests.chaos.lanes import mixed
from tests.chaos.rig import Broken, Rig, every
from tests.processes.support import PATIENCE

# How a worker ends whose supervisor dies at a failpoint, that was declared dead meanwhile, or that
# is asked to stop when it has ended in all but name, and no handler is there any more.
_CODES = (0, 3, -signal.SIGKILL, 75, -signal.SIGTERM)
# How long one place may take, and how long a process stays suspended.
_PATIENCE, _NEVER = 90.0, 1e9
_SUSPENDED = 3 * clocks.TTL


def fail_at(rig: Rig, places: Sequence[str], actions: Sequence[str], times: int) -> Figures:
    """Fail at each place in each way so many times; suspend a fifth as often."""
    rows = []
    for place in places:
        for action in actions:
            if action == "cut" and place in failpoints.ONCE_IN_A_PROCESS:
                continue  # it has no connection yet
            rig.clear()
            often = max(1, times // 5) if action == "stop" else times
            try:
                rows.append(_fail_at(rig, place, action, often))
            except (Broken, AssertionError) as error:
                raise Broken(f"{action} at {place}: {error}") from error
    return total("failpoints", rows, f"{len(rows)} places and ways × {times}")


def _fail_at(rig: Rig, place: str, action: str, times: int) -> Figures:
    permits = rig.directory / f"permits-{place}-{action}"
    permits.mkdir()
    for number in range(times):
        (permits / str(number)).touch()
    environment = {
        failpoints.FAILPOINT: f"{place}:{action}",
        failpoints.PERMITS: str(permits),
    }
    deadline = time.monotonic() + _PATIENCE + 15 * times
    # Some places are only come to when a child has died, others when a worker stops.
    is_once = action == "stop" and place in failpoints.ONCE_IN_A_PROCESS
    kills = every(lambda: 0.5 if is_once or place in ("fork", "in_rescue") else _NEVER)
    losses = every(lambda: 7.0 if place in failpoints.AT_A_LOSS else _NEVER)
    stop_at = _NEVER
    codes = (0,) if place in failpoints.IN_CHILDREN else _CODES
    workers = 2 if place in failpoints.IN_SUPERVISORS else 1
    while True:
        suspended = rig.wake(_SUSPENDED)
        if not (_left(permits) or suspended or (action == "stop" and rig.stops() < times)):
            break
        assert time.monotonic() < deadline, f"{_left(permits)} of {times} never happened"
        rig.tend(*codes)
        while len(rig.workers) < workers:
            worker = rig.start("--shutdown-timeout", "2", children=2, **environment)
            rig.wait_until_here(worker)
            if place in failpoints.AT_A_STOP:
                rig.wait_until_up(worker, 2)
                stop_at = time.monotonic() + rig.random.uniform(0.2, 0.6)
        if rig.live() < 60:
            mixed(rig, 20, 0.005)
        if losses():
            _lose_one(rig)
        if kills() and not (is_once and suspended):
            rig.kill_child()
        if time.monotonic() > stop_at:
            stop_at = _NEVER  # once: a second signal, at its very end, would kill it
            rig.workers[0].send(signal.SIGTERM)
        time.sleep(0.02)
    if place not in failpoints.IN_CHILDREN:
        rig.start(children=2)  # what is there may be on its way out
    rig.drain()
    rig.tend(*codes)
    return rig.judge(f"{place} {action}", codes=codes)


def _lose_one(rig: Rig) -> None:
    """Start a worker, let it take tasks, and kill all of it."""
    lost = rig.start(children=1)
    rig.wait_until_up(lost, 1)
    deadline = time.monotonic() + PATIENCE
    while not rig.held_by(lost):
        assert time.monotonic() < deadline, "it takes no task"
        # More than the others have places for.
        rig.enqueue(tasks.work, [(0.5,)] * 10)
        time.sleep(0.5)
    rig.kill_tree(lost)


def _left(permits: Path) -> int:
    return sum(1 for _ in permits.iterdir())
