"""Nothing of a worker runs on when those who watch it are gone, in whatever order they went.

On Linux the kernel kills children with their parent. Elsewhere they read the end of a pipe; the
settings `portable` switch the kernel's way off, so that this is what is tried.
"""

from __future__ import annotations

import ast
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

import django_taskq
from django_taskq.models import FinishedTask
from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import Gate, Ledger, TaskWorker, is_alive, statuses, wait_until

pytestmark = pytest.mark.slow

KERNEL, PORTABLE = "tests.processes.settings", "tests.processes.portable"
WAYS = [pytest.param(KERNEL, id="by-the-kernel"), pytest.param(PORTABLE, id="by-a-pipe")]


def of_session(leader: int) -> set[int]:
    """Return the living processes of a worker, whoever their parents are now."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == leader and fields[0] not in "ZX":
                found.add(int(entry.name))
    return found


def kill(worker: TaskWorker, whom: str) -> None:
    """Kill supervisor and nursery in an order, as `whom` says: "-" suspends the next one."""
    processes = {"s": worker.pid, "n": worker.nursery()}
    number = signal.SIGKILL
    for letter in whom:
        if letter == "-":
            number = signal.SIGSTOP
        else:
            os.kill(processes[letter], number)
            number = signal.SIGKILL


@pytest.mark.parametrize(
    ("whom", "settings"),
    [
        # By the kernel: see test_crashes.py.
        pytest.param("s", PORTABLE, id="the-supervisor-by-a-pipe"),
        pytest.param("n", PORTABLE, id="the-nursery-by-a-pipe"),
        pytest.param("sn", KERNEL, id="the-supervisor-then-the-nursery-by-the-kernel"),
        pytest.param("sn", PORTABLE, id="the-supervisor-then-the-nursery-by-a-pipe"),
        pytest.param("ns", KERNEL, id="the-nursery-then-the-supervisor-by-the-kernel"),
        pytest.param("ns", PORTABLE, id="the-nursery-then-the-supervisor-by-a-pipe"),
        pytest.param("-ns", KERNEL, id="the-supervisor-of-a-suspended-nursery-by-the-kernel"),
        pytest.param("-ns", PORTABLE, id="the-supervisor-of-a-suspended-nursery-by-a-pipe"),
    ],
)
def test_children_end_within_a_second_of_those_who_watch_them(
    whom: str, settings: str, start: Starter, ledger: Ledger
) -> None:
    worker = start(children=2, settings=settings)
    tasks.note.enqueue(ledger.path, "sleeps", seconds=30)
    # Where neither kernel nor parent is left to kill it, C code that holds the interpreter's lock
    # goes on until it gives the lock back.
    if settings == KERNEL or whom in ("s", "n"):
        tasks.hold_the_gil.enqueue(ledger.path, "in-c-code", 30)
    else:
        tasks.note.enqueue(ledger.path, "sleeps-too", seconds=30)
    wait_until(lambda: len(ledger.starts()) == 2)
    children = set(worker.children())
    kill(worker, whom)
    wait_until(lambda: not any(map(is_alive, children)), 1.0, "the children die")
    if whom == "-ns" and settings == PORTABLE:
        os.kill(worker.nursery_pid, signal.SIGKILL)  # it runs nothing, and would wait for ever


@pytest.mark.parametrize(
    ("pool", "settings"),
    [
        pytest.param("threads", KERNEL, id="threads-by-the-kernel"),
        pytest.param("asyncio", PORTABLE, id="asyncio-by-a-pipe"),
    ],
)
def test_a_process_of_many_tasks_ends_within_a_second_too(
    pool: str, settings: str, start: Starter, ledger: Ledger, gate: Gate
) -> None:
    worker = start(children=3, pool=pool, settings=settings)
    tasks.note.enqueue(ledger.path, "waits", gate=gate.path)
    tasks.note_async.enqueue(ledger.path, "waits-too", gate=gate.path)
    wait_until(lambda: len(ledger.starts()) == 2)
    children = set(worker.children())
    worker.nursery()
    worker.process.kill()
    wait_until(lambda: not any(map(is_alive, children)), 1.0, "the child dies")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("settings", WAYS)
def test_a_worker_that_is_killed_while_it_forks_leaves_nothing_behind(
    settings: str, start: Starter, ledger: Ledger
) -> None:
    worker = start("--max-tasks-per-child", "1", "-v", "0", children=2, settings=settings)
    tasks.note.enqueue_many([(ledger.path, "n")] * 300)
    wait_until(lambda: len(ledger.starts()) > 5)
    time.sleep(random.uniform(0, 0.1))  # somewhere between two forks
    worker.process.kill()
    worker.process.wait()
    wait_until(lambda: not of_session(worker.pid), 1.0)


def test_a_suspended_nursery_keeps_no_task_and_no_stop_waiting(
    start: Starter, ledger: Ledger, gate: Gate
) -> None:
    worker = start("--shutdown-timeout", "1", children=1)
    result = tasks.note.enqueue(ledger.path, "runs", gate=gate.path)
    first = ledger.start_of("runs")
    os.kill(worker.nursery(), signal.SIGSTOP)
    os.kill(first.pid, signal.SIGKILL)
    # Nobody reports the death: it is seen all the same, and the nursery replaced.
    wait_until(lambda: len(ledger.starts()) == 2, 15, "the task runs again")
    assert "The nursery does not answer" in worker.output
    worker.wait_until_ready(1)
    os.kill(worker.nursery(), signal.SIGSTOP)
    worker.send(signal.SIGTERM)
    assert worker.wait(1 + 2 + 1) == 0
    assert statuses() == {"READY": 1}
    gate.open()
    start(children=1)
    result.wait(timeout=20)


def test_what_a_task_had_started_does_not_go_on_beside_its_next_run(
    start: Starter, ledger: Ledger
) -> None:
    start(children=1)
    result = tasks.die_beside_a_program.enqueue(ledger.path)
    (tag,) = wait_until(lambda: [t for t in ledger.tags() if t.startswith("program:")])
    wait_until(lambda: not is_alive(int(tag.partition(":")[2])), 5, "the program is killed")
    assert result.wait(timeout=20) == "survived"
    assert FinishedTask.objects.get(pk=result.id).crashes == 1


# --- signals -------------------------------------------------------------------------------------

# Every handler of the package: what it may do is what stands here.
HANDLERS = {
    ("management/commands/rundev.py", "self._ask"): "counts, and wakes a loop",
    ("management/commands/rundev.py", "handler"): "puts back what was there",
    ("testing/runner.py", "self._ring"): "the soft time limit, in tests",
    ("testing/runner.py", "self._handler"): "puts back what was there",
    ("worker/nursery.py", "lambda *_: None"): "nothing; a socket is written to by Python itself",
    ("worker/nursery.py", "signal.SIG_DFL"): "as in any process",
    ("worker/pools/limits.py", "self._ring"): "the soft time limit",
    ("worker/pools/limits.py", "self._before"): "puts back what was there",
    ("worker/signals.py", "self._note"): "nothing; a socket is written to by Python itself",
    ("worker/signals.py", "handler"): "puts back what was there",
}


def test_every_signal_handler_is_known_and_only_the_soft_time_limit_raises() -> None:
    root = Path(django_taskq.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "signal.signal":
                found.add((str(path.relative_to(root)), ast.unparse(node.args[1])))
    assert found == set(HANDLERS)
    signals = ast.parse((root / "worker/signals.py").read_text())
    (note,) = [
        node
        for node in ast.walk(signals)
        if isinstance(node, ast.FunctionDef) and node.name == "_note"
    ]
    assert len(note.body) == 1, "a docstring, and nothing else"


@pytest.mark.parametrize("pool", ["processes", "threads", "asyncio"])
def test_signals_that_reach_children_disturb_no_task(
    pool: str, start: Starter, ledger: Ledger
) -> None:
    worker = start("-v", "0", pool=pool, children=2)
    handlers = tasks.tell_signals.enqueue().wait(timeout=20)
    expected = {"SIGINT", "SIGTERM"} | ({"SIGALRM"} if pool == "processes" else set())
    assert set(handlers) == expected
    # The nursery too: everything but the supervisor, which is asked to stop by them.
    targets = [*worker.children(), worker.nursery()]
    results = tasks.note.enqueue_many([(ledger.path, f"n{i}", 0.002) for i in range(400)])
    while not results[-1].is_finished:
        for pid in targets:
            os.kill(pid, random.choice([signal.SIGTERM, signal.SIGINT, signal.SIGCHLD]))
        results[-1].refresh()
    wait_until(lambda: statuses() == {})
    assert sorted(ledger.tags()) == sorted(f"n{i}" for i in range(400))
    assert set(targets) == {*worker.children(), worker.nursery()}
    assert not FinishedTask.objects.exclude(status="SUCCESSFUL").exists()


# --- forks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["processes", "threads", "asyncio"])
def test_processes_share_no_connection_and_no_dice(pool: str, start: Starter) -> None:
    worker = start(
        "--max-tasks-per-child",
        "1",
        pool=pool,
        children=2,
        settings="tests.processes.connected",
        environment={"PYTHONUNBUFFERED": ""},
    )
    results = [tasks.roll_dice.enqueue() for _ in range(6)]
    rolls = [result.wait(timeout=30) for result in results]
    assert len({roll[0] for roll in rolls}) == 6, "a process for each"
    for place, values in enumerate(zip(*rolls, strict=True)):
        assert len(set(values)) == 6, f"value {place} is shared: {values}"
    assert "The project opens connections when it is loaded (to " in worker.output
    # By the supervisor and by the nursery; no child has it in its buffer, too.
    worker.send(signal.SIGTERM)
    worker.wait(20)
    assert worker.output.count("written-once") == 2
