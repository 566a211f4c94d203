"""Lanes of workers that others take for dead: suspended, woken up, or just slow to go."""

from __future__ import annotations

import os
import signal
import time

from tests.chaos import clocks, failpoints, tasks
from tests.chaos.figures import Figures
from tests.chaos.lanes import mixed, sized
from tests.chaos.rig import Rig
from tests.processes.support import TaskWorker, wait_until

# How a worker ends that was declared dead.
_DECLARED_DEAD = 75
_CHILDREN = 5


def zombies(rig: Rig, scale: float, sabotage: str = "") -> Figures:
    """50 processes are suspended in the middle of a task, and wake up when it runs elsewhere."""
    rounds, slowest, count = sized(50 // _CHILDREN, scale), 0.0, 0
    rig.wait_until_up(_start(rig, sabotage), _CHILDREN)
    for _ in range(rounds):
        zombie = _start(rig, sabotage)
        rig.wait_until_up(zombie, _CHILDREN)
        # For all places of both workers.
        ids = rig.enqueue(tasks.work, [(5.0,)] * 2 * _CHILDREN)
        mixed(rig, 20, 0.01)
        _wait_for_starts(rig, ids, 2 * _CHILDREN, "all run")
        pids = rig.suspend_tree(zombie)
        suspended = time.monotonic()
        # On a busy machine one may have ended just before.
        held = rig.held_by(zombie, ids)
        count += held
        _wait_for_starts(rig, ids, 2 * _CHILDREN + held, "its tasks run again")
        slowest = max(slowest, time.monotonic() - suspended)
        rig.resume_tree(zombie, pids)
        code = zombie.wait()
        assert code == _DECLARED_DEAD, f"ended with {code}:\n{zombie.output[-2000:]}"
        rig.workers.remove(zombie)
        mixed(rig, 20, 0.01)
    rig.drain()
    remarks = f"{count} zombies; their tasks ran again after {slowest:.1f} s at most"
    return rig.judge("zombies", remarks)


def _start(rig: Rig, sabotage: str) -> TaskWorker:
    return rig.start(children=_CHILDREN, **({"CHAOS_SABOTAGE": sabotage} if sabotage else {}))


def _wait_for_starts(rig: Rig, ids: list[str], count: int, what: str) -> None:
    """Wait until these tasks have started so often in all."""
    wait_until(lambda: _started(rig, ids) >= count, what=what)


def _started(rig: Rig, ids: list[str]) -> int:
    """Count the starts of these tasks."""
    rows = rig.sql(
        "SELECT count(*) FROM chaos_ledger WHERE what = 'start' AND task = ANY (%s::uuid[])", ids
    )
    return int(rows[0][0])


def slow_drains(rig: Rig, scale: float, sabotage: str = "") -> Figures:
    """A worker that was asked to stop finishes tasks of twice the time to live: nobody takes them.

    Its beats go on until it ends.
    """
    rounds = sized(5, scale)
    rig.wait_until_up(rig.start(children=2), 2)
    for _ in range(rounds):
        leaving = rig.start("--shutdown-timeout", "60", children=2, CHAOS_SABOTAGE=sabotage)
        rig.wait_until_up(leaving, 2)
        ids = rig.enqueue(tasks.work, [(2 * clocks.TTL,)] * 4)
        _wait_for_starts(rig, ids, 4, "all run")
        leaving.send(signal.SIGTERM)
        mixed(rig, 20, 0.01)
        code = leaving.wait()
        assert code == 0 or sabotage, f"ended with {code}:\n{leaving.output[-2000:]}"
        rig.workers.remove(leaving)
    rig.drain()
    figures = rig.judge("slow drains", f"{rounds} drains")
    assert figures.duplicates == 0, figures
    return figures


def late_beats(rig: Rig, scale: float, sabotage: str = "") -> Figures:
    """A worker wakes up when another one is about to declare it dead: it lives on."""
    rounds = sized(5, scale)
    for _ in range(rounds):
        sleeper = rig.start(children=2)
        rig.wait_until_up(sleeper, 2)
        judge = rig.start(
            children=2, CHAOS_SABOTAGE=sabotage, **{failpoints.SLOW_JUDGE: str(4 * clocks.BEAT)}
        )
        rig.wait_until_up(judge, 2)
        mixed(rig, 20, 0.01)
        ids = rig.enqueue(tasks.work, [(clocks.TTL + 8,)] * 4)
        wait_until(lambda ids=ids: _started(rig, ids) >= 4, what="all run")  # type: ignore[misc]
        count = _judgements(rig)
        # Its children go on: what is silent is only the supervisor.
        os.kill(sleeper.pid, signal.SIGSTOP)
        wait_until(lambda count=count: _judgements(rig) > count, what="the other one judges")  # type: ignore[misc]
        os.kill(sleeper.pid, signal.SIGCONT)
        wait_until(lambda ids=ids: not _unfinished(rig, ids), what="all have ended")  # type: ignore[misc]
        for worker in (sleeper, judge):
            worker.send(signal.SIGTERM)
            code = worker.wait()
            assert code == 0, f"ended with {code}:\n{worker.output[-2000:]}"
            rig.workers.remove(worker)
    rig.start(children=2)
    rig.drain()
    figures = rig.judge("late beats", f"{rounds} times")
    assert figures.duplicates == 0, figures
    return figures


def _judgements(rig: Rig) -> int:
    return int(rig.sql("SELECT count(*) FROM chaos_event WHERE kind = 'judges'")[0][0])


def _unfinished(rig: Rig, ids: list[str]) -> int:
    rows = rig.sql("SELECT count(*) FROM django_taskq_livetask WHERE id = ANY (%s::uuid[])", ids)
    return int(rows[0][0])
