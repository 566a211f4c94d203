"""Many tasks at once in one process: what no-ops cost there, and how well waiting tasks overlap."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks import server
from benchmarks.measure import Bound, Figure, Sizes, alternate
from benchmarks.tree import Tree


def measure(tree: Tree, sizes: Sizes) -> Iterator[Figure]:
    """Drain no-ops by each pool, and tasks that wait by those that are made for them."""
    count, rounds = sizes.count(50_000), sizes.times(5)
    one = partial(drain, tree, count, "noop", None, "processes", 1)
    for pool, task, size in (("threads", "noop", 10), ("asyncio", "async_noop", 100)):
        ours = partial(drain, tree, count, task, None, pool, size)
        samples = alternate(rounds, {"ours": ours, "processes": one})
        yield Figure(
            name=f"drain {count:,} no-ops, {pool} × {size}",
            unit="/s",
            ours=samples["ours"],
            other=samples["processes"],
            against="processes × 1",
            bound=Bound("ratio", "≥", 0.6),
        )
    for pool, task, size, seconds in (
        ("threads", "wait", 50, 0.01),
        ("asyncio", "async_wait", 500, 0.1),
    ):
        ideal = size / seconds
        count = sizes.count(20_000, least=size)
        yield Figure(
            name=f"{count:,} waits of {seconds * 1000:.0f} ms, {pool} × {size}",
            unit="/s",
            ours=[drain(tree, count, task, seconds, pool, size) for _ in range(sizes.times(3))],
            other=[ideal],
            against="ideal",
            bound=Bound("ratio", "≥", 0.8),
        )


def drain(tree: Tree, count: int, task: str, seconds: float | None, pool: str, size: int) -> float:
    """Run a fresh backlog of one kind of task by one process; return tasks per second."""
    with server.connect(tree.url) as connection:
        server.empty(connection)
        how = ["--task", task] + ([] if seconds is None else ["--seconds", str(seconds)])
        tree.fill(count, *how)
        server.settle(connection)
    return tree.drain(size, count, "-P", pool)
