"""What a worker with nothing to do costs: queries and CPU time."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks import server
from benchmarks.measure import Bound, Figure, Sizes
from benchmarks.processes import Processes
from benchmarks.tree import Tree

PROCESSES = 2

# Counted from another database, so that counting is not counted. A worker's idle statements are a
# transaction each.
TRANSACTIONS = """
SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s
"""


def measure(tree: Tree, sizes: Sizes) -> Iterator[Figure]:
    """Watch an idle worker for three stretches of 15 s; autovacuum disturbs one at most."""
    queries, cpu = [], []
    with server.connect(tree.url) as connection:
        server.empty(connection)
    _close_django()
    with (
        tree.worker("-c", str(PROCESSES)) as worker,
        server.new_database(tree.url) as elsewhere,
        server.connect(elsewhere) as watcher,
    ):
        tree.wait_for_children(PROCESSES)
        time.sleep(3)
        processes = Processes.of(worker.pid)
        for _ in range(3):
            seconds = sizes.seconds(15)
            before = _transactions(watcher, tree), processes.cpu_seconds(), time.monotonic()
            time.sleep(seconds)
            after = _transactions(watcher, tree), processes.cpu_seconds(), time.monotonic()
            elapsed = after[2] - before[2]
            queries.append((after[0] - before[0]) / elapsed)
            cpu.append((after[1] - before[1]) / elapsed * 100)
    name = f"idle worker, {PROCESSES} children"
    yield Figure(
        name=f"{name}: queries", unit="/s", ours=queries, bound=Bound("ours", "≤", 2, None)
    )
    yield Figure(name=f"{name}: CPU", unit=" %", ours=cpu, bound=Bound("ours", "≤", 1, None))


def _transactions(watcher: server.Connection, tree: Tree) -> int:
    row = watcher.execute(TRANSACTIONS, [server.name_of(tree.url)]).fetchone()
    assert row is not None
    count: int = row[0]
    return count


def _close_django() -> None:
    from django.db import connection

    connection.close()
