"""Drain while another connection holds a snapshot, which keeps every dead row where it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from benchmarks import drain, server
from benchmarks.measure import Bound, Figure, Sizes, alternate
from benchmarks.tree import Tree, now

PROCESSES = 2


def measure(tree: Tree, sizes: Sizes) -> Iterator[Figure]:
    """Drain 300,000, then time 50,000; once under a held snapshot, once without."""
    dead, timed = sizes.count(300_000, least=1000), sizes.count(50_000, least=500)
    samples = alternate(
        sizes.times(3),
        {
            "held": partial(_drain, tree, dead, timed, True),
            "free": partial(_drain, tree, dead, timed, False),
        },
    )
    yield Figure(
        name=f"drain {timed:,} under a snapshot, {dead:,} dead rows",
        unit="/s",
        ours=samples["held"],
        other=samples["free"],
        against="no snapshot",
        bound=Bound("ratio", "≥", 0.8, 0.95),
    )


def _drain(tree: Tree, dead: int, timed: int, held: bool) -> float:
    """Time the second of two backlogs; the history that the first has left is there either way."""
    drain.prepare(tree, 0)
    with server.connect(tree.url) as connection, ExitStack() as stack:
        if held:
            stack.enter_context(_held_snapshot(tree.url))
        tree.fill(dead)
        server.settle(connection)
        tree.drain(PROCESSES, dead)
        if not held:
            connection.execute("VACUUM django_taskq_livetask")
        since = now(tree.url)
        tree.fill(timed)
        server.settle(connection)
        return tree.drain(PROCESSES, timed, since=since)


@contextmanager
def _held_snapshot(url: str) -> Iterator[None]:
    """Hold a snapshot as a long report or a backup does."""
    with server.connect(url) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM django_taskq_worker")
        yield
        connection.execute("ROLLBACK")
