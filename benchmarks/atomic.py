"""Drain no-ops of `@task(atomic=True)`: each has a transaction of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from psycopg import sql

from benchmarks import raw, server
from benchmarks.measure import Bound, Figure, Sizes, alternate
from benchmarks.tree import Tree

# What the bare loop claims at once.
BATCH = 250


def measure(tree: Tree, sizes: Sizes) -> Iterator[Figure]:
    """Drain with one process, then with two; and with commits that do not wait for the disk."""
    for processes in (1, 2):
        yield _figure(tree, sizes.count(2_000), processes, sizes.times(3))
    # Where a commit waits for the disk, that wait hides what the rest costs.
    with _without_waiting(tree):
        for processes in (1, 2):
            yield _figure(
                tree, sizes.count(5_000), processes, sizes.times(5), ", synchronous_commit off"
            )


def _figure(tree: Tree, count: int, processes: int, rounds: int, how: str = "") -> Figure:
    samples = alternate(
        rounds,
        {
            "ours": partial(_ours, tree, processes, count),
            "raw": partial(_raw, tree, processes, count),
        },
    )
    return Figure(
        name=f"drain {count:,} atomic no-ops, {processes} process"
        + ("es" if processes > 1 else "")
        + how,
        unit="/s",
        ours=samples["ours"],
        other=samples["raw"],
        against="BEGIN; finish; COMMIT",
        bound=Bound("ratio", "≥", 0.4, 0.6),
    )


@contextmanager
def _without_waiting(tree: Tree) -> Iterator[None]:
    """Let commits in this database not wait for the disk."""
    database = sql.Identifier(server.name_of(tree.url))
    with server.connect(tree.url) as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(database)
        )
        try:
            yield
        finally:
            connection.execute(
                sql.SQL("ALTER DATABASE {} RESET synchronous_commit").format(database)
            )


def _prepare(tree: Tree, count: int) -> None:
    """Leave nothing but a backlog of atomic no-ops."""
    with server.connect(tree.url) as connection:
        server.empty(connection)
        tree.fill(count, "--task", "atomic_noop")
        server.settle(connection)


def _ours(tree: Tree, processes: int, count: int) -> float:
    _prepare(tree, count)
    return tree.drain(processes, count)


def _raw(tree: Tree, processes: int, count: int) -> float:
    _prepare(tree, count)
    return raw.drain(tree.url, processes, BATCH, count, mode="atomic")
