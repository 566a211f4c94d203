"""Enqueue one task per transaction against a loop of INSERTs, and many against one COPY."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks import server
from benchmarks.measure import Bound, Figure, Sizes, alternate
from benchmarks.tree import Tree
from django_taskq.ids import new_ids

INSERT = """
INSERT INTO django_taskq_livetask (id, task, queue_name, priority, args, kwargs, max_attempts)
VALUES (%s, %s, %s, %s, %s, %s, %s)
"""

COPY = """
COPY django_taskq_livetask (id, task, queue_name, priority, args, kwargs, max_attempts) FROM STDIN
"""

TASK = "benchsite.tasks.noop"


def measure(tree: Tree, sizes: Sizes) -> Iterator[Figure]:
    """Enqueue 2,000 one by one, then 50,000 at once."""
    one, many = sizes.count(2_000, least=20), sizes.count(50_000, least=100)
    yield _figure(
        "enqueue one, own transaction",
        tree,
        sizes.times(7),
        Bound("ratio", "≥", 0.5, 0.8),
        "INSERT loop",
        ours=partial(_enqueue_one_by_one, one),
        raw=partial(_insert_one_by_one, one),
    )
    # Where a commit waits for the disk, that wait hides what enqueue itself costs.
    yield _figure(
        "enqueue one, synchronous_commit off",
        tree,
        sizes.times(7),
        None,
        "INSERT loop",
        ours=partial(_without_waiting, partial(_enqueue_one_by_one, one)),
        raw=partial(_without_waiting, partial(_insert_one_by_one, one)),
    )
    yield _figure(
        f"enqueue {many:,} at once",
        tree,
        sizes.times(7),
        Bound("ratio", "≥", 0.3, 0.6),
        "COPY",
        ours=partial(_enqueue_many, many),
        raw=partial(_copy, many),
    )


def _figure(
    name: str,
    tree: Tree,
    rounds: int,
    bound: Bound | None,
    against: str,
    *,
    ours: Callable[[server.Connection], float],
    raw: Callable[[server.Connection], float],
) -> Figure:
    with server.connect(tree.url) as connection:

        def fresh(run: Callable[[server.Connection], float]) -> float:
            server.empty(connection)
            server.settle(connection)
            return run(connection)

        fresh(ours), fresh(raw)  # connect, import, prepare statements
        samples = alternate(rounds, {"ours": partial(fresh, ours), "raw": partial(fresh, raw)})
    return Figure(
        name=name,
        unit="/s",
        ours=samples["ours"],
        other=samples["raw"],
        against=against,
        bound=bound,
    )


def _enqueue_one_by_one(count: int, connection: server.Connection) -> float:
    from benchsite.tasks import noop

    began = time.perf_counter()
    for number in range(count):
        noop.enqueue(number)
    return _rate(connection, count, began)


def _insert_one_by_one(count: int, connection: server.Connection) -> float:
    """Insert the same rows; the ids are there already, times are the columns' defaults."""
    ids = new_ids(count)
    began = time.perf_counter()
    for number in range(count):
        connection.execute(INSERT, (ids[number], TASK, "default", 0, f"[{number}]", "{}", 1))
    return _rate(connection, count, began)


def _without_waiting(
    run: Callable[[server.Connection], float], connection: server.Connection
) -> float:
    """Run it with commits that do not wait for the disk, on Django's connection and on ours."""
    _set_waiting(connection, "off")
    try:
        return run(connection)
    finally:
        _set_waiting(connection, "on")


def _set_waiting(connection: server.Connection, value: str) -> None:
    from django.db import connection as django_connection

    connection.execute(f"SET synchronous_commit = {value}")
    with django_connection.cursor() as cursor:
        cursor.execute(f"SET synchronous_commit = {value}")


def _enqueue_many(count: int, connection: server.Connection) -> float:
    from benchsite.tasks import noop

    calls = [(number,) for number in range(count)]
    began = time.perf_counter()
    noop.enqueue_many(calls)
    return _rate(connection, count, began)


def _copy(count: int, connection: server.Connection) -> float:
    """Copy the same rows from text that is there already, in blocks of a thousand rows."""
    lines = [
        f"{id}\t{TASK}\tdefault\t0\t[{number}]\t{{}}\t1\n"
        for number, id in enumerate(new_ids(count))
    ]
    blocks = ["".join(lines[first : first + 1000]) for first in range(0, count, 1000)]
    began = time.perf_counter()
    with connection.cursor() as cursor, cursor.copy(COPY) as copy:
        for block in blocks:
            copy.write(block)
    return _rate(connection, count, began)


def _rate(connection: server.Connection, count: int, began: float) -> float:
    """Return rows per second, if all of them are there."""
    seconds = time.perf_counter() - began
    row = connection.execute("SELECT count(*) FROM django_taskq_livetask").fetchone()
    assert row == (count,), f"{row} rows instead of {count}"
    return count / seconds
