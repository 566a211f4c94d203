"""Drain a backlog of no-ops, results kept, with one process and with two."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from statistics import median

from benchmarks import raw, server
from benchmarks.measure import Bound, Figure, Sizes, alternate
from benchmarks.tree import Tree

# The raw loop is measured with each of these, and its better median counts.
BATCHES = (250, 500)


def measure(tree: Tree, sizes: Sizes) -> Iterator[Figure]:
    """Drain 50,000 with one process, then with two, and 200,000 with two."""
    for count, processes, rounds in ((50_000, 1, 5), (50_000, 2, 5), (200_000, 2, 3)):
        yield _figure(tree, sizes.count(count), processes, sizes.times(rounds))


def _figure(tree: Tree, count: int, processes: int, rounds: int) -> Figure:
    contestants = {"ours": partial(ours, tree, processes, count)}
    for batch in BATCHES:
        contestants[f"raw {batch}"] = partial(_raw, tree, processes, batch, count)
    samples = alternate(rounds, contestants)
    mine = samples.pop("ours")
    best = max(samples, key=lambda name: median(samples[name]))
    return Figure(
        name=f"drain {count:,} no-ops, {processes} process{'es' if processes > 1 else ''}",
        unit="/s",
        ours=mine,
        other=samples[best],
        against="raw",
        bound=Bound("ratio", "≥", 0.5, 0.8) if processes == 2 else None,
        notes={"raw_batch": int(best.split()[1]), "raw_samples": samples},
    )


def prepare(tree: Tree, count: int) -> None:
    """Leave nothing but a backlog of no-ops."""
    with server.connect(tree.url) as connection:
        server.empty(connection)
        tree.fill(count)
        server.settle(connection)


def ours(tree: Tree, processes: int, count: int) -> float:
    """Drain a fresh backlog with a worker."""
    prepare(tree, count)
    return tree.drain(processes, count)


def _raw(tree: Tree, processes: int, batch: int, count: int) -> float:
    prepare(tree, count)
    return raw.drain(tree.url, processes, batch, count)
