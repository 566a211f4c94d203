"""The lanes: what is done to workers, in the sizes of the full proof; each can be run smaller.

A lane gets a rig on empty tables and a scale (1 is the full size), and returns the figures of its
run. It raises Broken if a promise was broken.
"""

from __future__ import annotations

import math
import signal
import time
from typing import Any

import psycopg

from tests.chaos import clocks, failpoints, tasks
from tests.chaos.figures import Figures
from tests.chaos.rig import Rig, every
from tests.processes.support import TaskWorker

# From this scale on a lane is run for its figures, on a quiet machine: times count, too.
_QUIET = 0.5
# Within so many seconds a lost worker's tasks are free, if another is there to see it: a silence of
# a full TTL, seen by beats, and a sweep; and what a busy machine adds.
_FREE_WITHIN = clocks.TTL + 2 * clocks.BEAT + clocks.SWEEP + 1.0
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
    if kind is tasks.work_atomically:
        rig.enqueued.atomic.update(ids)
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
    """20,000 tasks, while 300 children are killed, one every 0.3 to 1 s, and 10 whole workers.

    And where the rig has a server of its own, that crashes twice.
    """
    count, wanted, trees = sized(20_000, scale, 300), sized(300, scale, 5), sized(10, scale)
    restarts = 2 if rig.server is not None else 0
    for _ in range(2):
        rig.wait_until_up(rig.start(children=2), 2)
    done = felled = restarted = 0
    is_due = every(lambda: rig.random.uniform(0.3, 1.0))
    while done < wanted or len(rig.enqueued.accepted) < count:
        # As many as keep pace with the kills, so that each finds work under way.
        if len(rig.enqueued.accepted) < count * (done + 1) / wanted or rig.live() < 20:
            mixed(rig, rig.random.randint(1, 50))
        if done < wanted and is_due():
            done += rig.kill_child()
        if felled < trees * done // wanted:
            felled += 1
            rig.kill_tree(rig.workers[0])
            rig.start(children=2)
        if rig.server is not None and restarted < restarts * done // wanted:
            restarted += 1
            rig.server.crash()
            rig.server.start()
        time.sleep(0.01)
    rig.drain()
    figures = rig.judge("kills", f"{restarted} restarts of the database")
    assert figures.kills >= wanted and figures.duplicates <= figures.bound, figures
    assert figures.trees == trees, figures
    if scale >= _QUIET:
        assert figures.recovery <= 1.0, figures
    return figures


def poison(rig: Rig, scale: float) -> Figures:
    """10 tasks that kill or exhaust their process, among 2,000 others."""
    kinds = [*tasks.KILLERS, "SIGKILL", "memory", "sys.exit", "recursion", "once"]
    known = rig.enqueued
    rig.start(children=2)
    rig.start(children=2)
    for kind in kinds:
        innocents = [(rig.random.uniform(0.001, 0.005),) for _ in range(sized(200, scale, 10))]
        rig.enqueue(tasks.work, innocents)
        if kind == "once":
            (id,) = rig.enqueue(tasks.poison_once, [()])
            known.at_most_once.add(id)
        else:
            task = tasks.poison if kind in tasks.KILLERS else tasks.exhaust
            (id,) = rig.enqueue(task, [(kind,)])
        known.expected[id], known.starts[id] = "FAILED", 1 if kind == "once" else 3
    rig.drain()
    return rig.judge("poison", f"{len(kinds)} poison")


def stops(rig: Rig, scale: float) -> Figures:
    """300 stops at random instants, with tasks that end within the grace time and some that don't.

    When a worker has ended it holds nothing, and it took its grace time and 2 s at most. One in
    fifteen is killed after the signal, as a container is.
    """
    grace, slowest = 1.0, 0.0
    count = sized(300, scale, 3)
    for _ in range(count):
        mixed(rig, 20, 0.05)
        if rig.random.random() < 0.2:
            rig.enqueue(tasks.work, [(4.0,)])
        worker = rig.start("--shutdown-timeout", str(grace), children=2)
        rig.wait_until_here(worker)
        if rig.random.random() < 0.8:
            rig.wait_until_up(worker, 2)
        time.sleep(rig.random.uniform(0, 0.6))
        if rig.random.random() < 1 / 15:
            worker.send(signal.SIGTERM)
            time.sleep(rig.random.uniform(0, grace))
            rig.kill_tree(worker)
            continue
        slowest = max(slowest, stop_one(rig, worker, grace))
        left = rig.held_by(worker)
        assert left == 0, f"the worker has ended and holds {left} tasks"
    rig.start(children=4)
    rig.drain()
    figures = rig.judge("stops", f"{count} stops, the slowest {slowest:.2f} s, grace {grace:g} s")
    if scale >= _QUIET:
        assert figures.tree_recovery <= _FREE_WITHIN, figures
    return figures


def stop_one(rig: Rig, worker: TaskWorker, grace: float) -> float:
    """Stop a worker by one or two signals; return how long it took."""
    # What runs on is killed when the grace time is over, or at once by SIGQUIT or a second signal:
    # noted before, for its tasks may be free before anything else is written.
    rig.say("death", worker=rig.name_of(worker))
    asked = time.monotonic()
    worker.send(rig.random.choice([signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]))
    if rig.random.random() < 0.2:
        time.sleep(rig.random.uniform(0, 0.5))
        if worker.process.poll() is None:
            worker.send(signal.SIGTERM)
    code = worker.wait()
    took = time.monotonic() - asked
    # A second signal may come when it has ended in all but name, and no handler is there any more.
    assert code in (0, -signal.SIGTERM), worker.output
    assert took <= grace + 2, f"the stop took {took:.2f} s"
    rig.workers.remove(worker)
    return took


def late_commits(rig: Rig, scale: float, sabotage: str = "") -> Figures:
    """Tasks whose transactions commit seconds after others were run: nothing hides behind floors.

    Every claim of the worker begins at a floor, as behind a long transaction.
    """
    count = sized(100, scale, 2)
    environment = {failpoints.SLOW_CLAIMS: "1", "CHAOS_SABOTAGE": sabotage}
    rig.wait_until_up(rig.start(children=1, **environment), 1)
    with psycopg.connect(rig.url) as late:
        for _ in range(count):
            (id,) = late.execute(
                "INSERT INTO django_taskq_livetask (task) VALUES (%s) RETURNING id::text",
                [tasks.work.key],
            ).fetchone() or ("",)
            until = time.monotonic() + rig.random.uniform(1.5, 3)
            while time.monotonic() < until:
                if rig.live() < 50:
                    mixed(rig, 20, 0.005)
                time.sleep(0.02)
            late.commit()
            rig.enqueued.accepted.add(id)
    rig.drain(20 if sabotage else 90)
    return rig.judge("late commits", f"{count} of them")


def cuts(rig: Rig, scale: float) -> Figures:
    """For 60 s a connection of a worker is ended by the server every 0.2 s: nothing runs twice."""
    wanted, lost = sized(300, scale, 10), 0
    for _ in range(2):
        rig.wait_until_up(rig.start(children=2), 2)
    is_due = every(lambda: rig.random.uniform(0.1, 0.3))
    while lost < wanted:
        if rig.live() < 300:
            mixed(rig, 50, 0.01)
        if is_due():
            lost += rig.sql(
                "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name LIKE 'taskworker%' "
                "ORDER BY random() LIMIT 1) AS one"
            )[0][0]
        time.sleep(0.02)
    rig.drain()
    figures = rig.judge("cuts", f"{lost} connections")
    assert figures.duplicates == 0, figures
    return figures
