"""Children are replaced after so many tasks, or when they hold too much memory."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pytest

from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import Gate, Ledger, Start, is_alive, sql, statuses, wait_until

pytestmark = pytest.mark.slow


def running_after(
    starts: Sequence[Start], seconds: float | Mapping[str, float]
) -> Iterator[tuple[float, int]]:
    """Yield each moment at which a task has begun or ended, and how many run from then on."""
    times = dict.fromkeys((start.tag for start in starts), seconds)
    times = {tag: s if isinstance(s, float) else s[tag] for tag, s in times.items()}
    changes = sorted(
        [(start.at, 1) for start in starts]
        + [(start.at + times[start.tag], -1) for start in starts]
    )
    running = 0
    for moment, change in changes:
        running += change
        yield moment, running


def longest_stretch_below(
    starts: Sequence[Start], seconds: float | Mapping[str, float], capacity: int
) -> float:
    """Return the longest time in which fewer tasks ran, while there was still more to start."""
    longest = 0.0
    below_since: float | None = starts[0].at
    last_start = max(start.at for start in starts)
    for moment, running in running_after(starts, seconds):
        if moment > last_start:
            break
        if running < capacity:
            below_since = moment if below_since is None else below_since
        elif below_since is not None:
            longest, below_since = max(longest, moment - below_since), None
    return longest if below_since is None else max(longest, last_start - below_since)


def test_children_are_replaced_after_so_many_tasks_without_a_gap(
    start: Starter, ledger: Ledger
) -> None:
    children, each, seconds = 3, 50, 0.02
    results = tasks.note.enqueue_many(
        [(ledger.path, f"n{number}", seconds) for number in range(1000)]
    )
    worker = start("--max-tasks-per-child", str(each), children=children)
    wait_until(lambda: not statuses(), what="all tasks end")

    starts = ledger.starts()
    assert Counter(start.tag for start in starts) == {f"n{n}": 1 for n in range(1000)}
    assert max(Counter(start.pid for start in starts).values()) == each
    assert sql(
        "SELECT status, attempts, crashes, count(*) FROM django_taskq_finishedtask GROUP BY 1, 2, 3"
    ) == [("SUCCESSFUL", 1, 0, 1000)]
    assert max(running for _, running in running_after(starts, seconds)) <= children
    assert longest_stretch_below(starts, seconds, children - 1) < 1.0
    assert worker.output.count(f"ends after {each} tasks.") >= 1000 // each - children
    assert "WARNING" not in worker.output and "exited with" not in worker.output
    assert len(results) == 1000


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_a_process_with_many_places_is_replaced_while_its_last_tasks_run(
    pool: str, start: Starter, ledger: Ledger
) -> None:
    places, each = 4, 10
    seconds = {f"n{number}": 4.0 if number % 10 == 5 else 0.1 for number in range(60)}
    tasks.note.enqueue_many([(ledger.path, tag, time) for tag, time in seconds.items()])
    worker = start("-P", pool, "-c", str(places), "--max-tasks-per-child", str(each), children=1)
    wait_until(lambda: not statuses(), what="all tasks end")

    starts = ledger.starts()
    assert Counter(start.tag for start in starts) == dict.fromkeys(seconds, 1)
    assert max(Counter(start.pid for start in starts).values()) == each
    assert len({start.pid for start in starts}) == 6
    assert max(running for _, running in running_after(starts, seconds)) <= places
    assert longest_stretch_below(starts, seconds, places - 1) < 1.0
    assert sql("SELECT DISTINCT attempts, crashes FROM django_taskq_finishedtask") == [(1, 0)]
    assert "ERROR" not in worker.output


def test_the_stretches_of_a_ledger_are_measured() -> None:
    two = [Start("a", 1, 0.0), Start("b", 2, 0.5), Start("c", 1, 4.0)]
    assert longest_stretch_below(two, 1.0, 1) == pytest.approx(2.5)
    assert longest_stretch_below(two, 1.0, 2) == pytest.approx(3.0)
    assert [running for _, running in running_after(two, 1.0)] == [1, 2, 1, 0, 1, 0]


def test_a_child_ends_what_it_has_in_hand_and_a_stop_still_stops_it(
    start: Starter, ledger: Ledger, gate: Gate
) -> None:
    worker = start("--max-tasks-per-child", "1", children=1)
    held = tasks.note.enqueue(ledger.path, "held", gate=gate.path)
    ledger.start_of("held")
    worker.wait_for("ends after 1 task")
    waiting = tasks.note.enqueue(ledger.path, "waits")
    worker.send(signal.SIGTERM)
    gate.open()
    assert worker.wait(20) == 0
    held.refresh()
    waiting.refresh()
    assert (held.row_status, waiting.row_status) == ("SUCCESSFUL", "READY")
    assert ledger.tags() == ["held"]


def test_a_new_process_for_each_task(start: Starter, ledger: Ledger) -> None:
    worker = start("--max-tasks-per-child", "1", "--burst", children=2, ready=False)
    tasks.note.enqueue_many([(ledger.path, f"n{number}") for number in range(20)])
    assert worker.wait(60) == 0
    pids = [start.pid for start in ledger.starts()]
    assert len(pids) == len(set(pids)) == 20
    assert not any(map(is_alive, pids))


def test_a_child_that_holds_too_much_memory_is_replaced_after_its_task(
    start: Starter, ledger: Ledger
) -> None:
    worker = start(children=1, environment={"TASKWORKER_MAX_MEMORY_PER_CHILD": "200"})
    small = [tasks.hoard.enqueue(ledger.path, f"small{n}", 1) for n in range(3)]
    first = {result.wait(timeout=30) for result in small}
    assert len(first) == 1
    large = tasks.hoard.enqueue(ledger.path, "large", 200)
    assert {large.wait(timeout=30)} == first
    worker.wait_for("MB (its limit is 200 MB).")
    assert tasks.hoard.enqueue(ledger.path, "after", 1).wait(timeout=30) not in first
    assert sql("SELECT DISTINCT attempts, crashes FROM django_taskq_finishedtask") == [(1, 0)]


def test_a_memory_limit_below_what_the_project_takes_is_pointed_out(
    start: Starter, ledger: Ledger
) -> None:
    worker = start("--max-memory-per-child", "5", "--burst", children=1, ready=False)
    tasks.note.enqueue_many([(ledger.path, f"n{number}") for number in range(3)])
    assert worker.wait(60) == 0
    assert "MB before the first task: with --max-memory-per-child 5" in worker.output
    # It is not measured more often than each 10 ms: two short tasks may share a process.
    assert len({start.pid for start in ledger.starts()}) >= 2
