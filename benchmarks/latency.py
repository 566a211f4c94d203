"""From the moment before enqueue to the task's start, when the worker has nothing else to do."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

from benchmarks import raw, server
from benchmarks.enqueue import INSERT
from benchmarks.measure import BenchmarkError, Bound, Figure, Sizes, percentile
from benchmarks.tree import Tree
from django_taskq import db
from django_taskq.ids import new_id

# A task comes so many seconds after the last: neither in step with a worker's tick, nor so soon
# that the worker is still looking for more.
_PAUSE = (0.05, 0.25)
# Nobody asks for the outcome before it is there: that would keep a processor from what is measured.
_NO_QUESTIONS = 0.02

READ = "SELECT (return_value #>> '{}')::float8 FROM django_taskq_finishedtask WHERE id = %s"


def measure(tree: Tree, sizes: Sizes) -> Iterator[Figure]:
    """Take 400 samples of ours and of a loop that LISTENs and claims, in turn."""
    count = sizes.count(400, least=10)
    with server.connect(tree.url) as connection:
        server.empty(connection)
    # Nobody may be connected to what is copied: this process has enqueued for other measurements.
    db.close_everything()
    with (
        # In a database of its own: PostgreSQL wakes each listener of a database for each hint, and
        # there are only so many processors.
        server.new_database(tree.url, template=tree.url) as beside,
        tree.worker("-c", "2"),
        raw.process("listen", beside) as loop,
        server.connect(beside) as connection,
    ):
        tree.wait_for_children(2)
        raw.begin(loop)
        ours, theirs = _samples(count, connection)
    yield _figure("p50", 0.5, ours, theirs, Bound("ours", "≤", 4, 1.5))
    yield _figure("p99", 0.99, ours, theirs, Bound("ours", "≤", 15, 4))


def _figure(
    name: str, share: float, ours: list[float], theirs: list[float], bound: Bound
) -> Figure:
    return Figure(
        name=f"idle latency, enqueue to start, {name}",
        unit=" ms",
        ours=[percentile(ours, share)],
        other=[percentile(theirs, share)],
        against="raw LISTEN loop",
        bound=bound,
        notes={"latencies": {"ours": ours, "other": theirs}},
    )


def _samples(count: int, connection: server.Connection) -> tuple[list[float], list[float]]:
    """Return milliseconds of ours and raw; the first few of each are not counted."""
    ours, theirs = [], []
    for _ in range(count + 5):
        ours.append(_ours())
        theirs.append(_raw(connection))
    return ours[5:], theirs[5:]


def _ours() -> float:
    from benchsite.tasks import clock

    time.sleep(random.uniform(*_PAUSE))
    before = time.time()
    result = clock.enqueue()
    time.sleep(_NO_QUESTIONS)
    return (result.wait(timeout=30) - before) * 1000


def _raw(connection: server.Connection) -> float:
    """Enqueue and notify as a bare program would; read what the loop has stored."""
    time.sleep(random.uniform(*_PAUSE))
    id = new_id()
    before = time.time()
    connection.execute(INSERT, (id, "benchsite.tasks.clock", raw.QUEUE, 0, "[]", "{}", 1))
    connection.execute(f"SELECT pg_notify('{raw.CHANNEL}', '')")
    time.sleep(_NO_QUESTIONS)
    return (_wait(lambda: _read(connection, id)) - before) * 1000


def _read(connection: server.Connection, id: str) -> float | None:
    row = connection.execute(READ, [id]).fetchone()
    return row[0] if row else None


def _wait(read: Callable[[], float | None]) -> float:
    deadline = time.monotonic() + 30
    while (value := read()) is None:
        if time.monotonic() > deadline:
            raise BenchmarkError("A task did not run within 30 s.")
        time.sleep(0.002)
    return value
