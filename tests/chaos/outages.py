"""Lanes in which the whole database goes away: each needs a server of its own."""

from __future__ import annotations

import time

from tests.chaos import clocks, tasks
from tests.chaos.figures import Figures
from tests.chaos.lanes import mixed, sized
from tests.chaos.rig import Rig
from tests.processes.support import wait_until


def outage(rig: Rig, scale: float) -> Figures:
    """The database is away for 5 times the time to live, with 40 tasks of 8 times that running.

    Nobody is declared dead because of it, and nothing runs twice.
    """
    server = rig.server
    assert server is not None, "it crashes the server"
    away = max(1.4, 5 * scale) * clocks.TTL
    count = sized(40, scale, 8)
    half = count // 2
    processes, threads = rig.start(children=half), rig.start("-P", "threads", children=count - half)
    rig.wait_until_up(processes, half)
    rig.wait_until_up(threads, 1)
    for says_end in (True, False):  # the ledger waits for the database: without, the task ends
        calls = [(away * rig.random.uniform(0.5, 1.6), says_end) for _ in range(half)]
        rig.enqueue(tasks.work, calls)
    wait_until(lambda: rig.count("chaos_ledger") >= 2 * half, what="all have started")
    server.crash()
    time.sleep(away)
    back = time.monotonic()
    server.start()
    mixed(rig, 20)
    rig.drain()
    resumed = time.monotonic() - back
    figures = rig.judge("outage", f"away {away:.0f} s, all done {resumed:.1f} s after")
    assert figures.duplicates == 0 and figures.kills == 0, figures
    return figures


def restarts(rig: Rig, scale: float) -> Figures:
    """The server crashes and comes back at once, 10 times, under load: nothing runs twice."""
    server = rig.server
    assert server is not None, "it crashes the server"
    wanted = sized(10, scale, 2)
    for _ in range(2):
        rig.wait_until_up(rig.start(children=2), 2)
    for _ in range(wanted):
        for _ in range(20):
            mixed(rig, 20, 0.01)
            time.sleep(rig.random.uniform(0, 0.1))
        server.crash()
        time.sleep(rig.random.uniform(0, 1))
        server.start()
    rig.drain()
    figures = rig.judge("restarts", f"{wanted} restarts")
    assert figures.duplicates == 0, figures
    return figures
