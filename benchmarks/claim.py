"""What claiming 100 rows costs the server, whatever else is in the table.

A claim and the clock before and after it travel in one pipeline and are rolled back, so the time is
the server's own and every claim finds the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

from benchmarks import server
from benchmarks.measure import Bound, Figure, Sizes, alternate
from benchmarks.tree import Tree
from django_taskq.transitions import claim, presence
from django_taskq.transitions.claim import Lane

ROWS = 100

# Of each claim the median of so many, per round.
_REPEATS = 20

FILL = """
INSERT INTO django_taskq_livetask (task, queue_name, priority, run_after)
SELECT 'benchsite.tasks.noop', 'q' || number %% %(queues)s, %(priority)s,
  clock_timestamp() + %(later)s * interval '1 second' + number * interval '1 microsecond'
FROM generate_series(1, %(count)s) AS number
"""


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """What waits in a table: due rows in one or more queues, and rows due later above them."""

    name: str
    due: int
    queues: int = 1
    later: int = 0
    bound: Bound | None = None

    def lanes(self) -> list[Lane]:
        """Return all its lanes, those without a due row too: a worker may remember them."""
        above = [Lane("q0", 10)] if self.later else []
        return above + [Lane(f"q{number}", 0) for number in range(self.queues)]

    def fill(self, connection: server.Connection) -> None:
        values = {"queues": self.queues, "priority": 0, "later": -3600, "count": self.due}
        connection.execute(FILL, values)
        if self.later:
            values = {"queues": 1, "priority": 10, "later": 3600, "count": self.later}
            connection.execute(FILL, values)
        connection.execute("VACUUM ANALYZE django_taskq_livetask")
        server.settle(connection)


def measure(tree: Tree, sizes: Sizes) -> Iterator[Figure]:
    """Measure claims and looks for lanes in tables with different backlogs, in turn."""
    backlogs = _backlogs(sizes)
    with server.connect(tree.url) as connection:
        server.empty(connection)
    _close_django()  # a database that is copied may have no visitors
    with ExitStack() as stack:
        connections = []
        for backlog in backlogs:
            url = stack.enter_context(server.new_database(tree.url, template=tree.url))
            connection = stack.enter_context(server.connect(url))
            backlog.fill(connection)
            connections.append(connection)
        for what, send in (("claim 100", _send_claim), ("find lanes", _send_look)):
            yield from _compare(what, send, backlogs, connections, sizes.times(9))


def _backlogs(sizes: Sizes) -> list[Backlog]:
    small = sizes.count(10_000, least=1000)
    backlogs = [
        Backlog(name="10 k", due=small),
        Backlog(name="1 M", due=sizes.count(1_000_000), bound=Bound("ratio", "≤", 1.5, 1.1)),
        Backlog(name="10 k in 50 queues", due=small, queues=50),
        Backlog(name="10 k below 100 k later", due=small, later=sizes.count(100_000)),
    ]
    if sizes.huge:
        ten = Backlog(name="10 M", due=sizes.count(10_000_000), bound=Bound("ratio", "≤", 1.5, 1.1))
        backlogs.insert(2, ten)
    return backlogs


Send = Callable[[server.Connection, Backlog, str], server.Cursor]


def _compare(
    what: str,
    send: Send,
    backlogs: list[Backlog],
    connections: list[server.Connection],
    rounds: int,
) -> Iterator[Figure]:
    samples = alternate(
        rounds,
        {
            backlog.name: partial(_cost, send, connection, backlog)
            for backlog, connection in zip(backlogs, connections, strict=True)
        },
    )
    first = backlogs[0].name
    for backlog in backlogs:
        alone = backlog.name == first
        yield Figure(
            name=f"{what}, {backlog.name}",
            unit=" ms",
            ours=samples[backlog.name],
            other=() if alone else samples[first],
            against="" if alone else first,
            bound=backlog.bound,
        )


def _cost(send: Send, connection: server.Connection, backlog: Backlog) -> float:
    """Return the median of some claims' milliseconds on the server."""
    worker = str(uuid4())
    presence.arrive(connection, id=worker, kind="CHILD", parent_id=None, host="", pid=0, info={})
    times = sorted(_once(send, connection, backlog, worker) for _ in range(_REPEATS))
    presence.leave(connection, [worker])
    return times[_REPEATS // 2]


def _once(send: Send, connection: server.Connection, backlog: Backlog, worker: str) -> float:
    clock = "SELECT extract(epoch FROM clock_timestamp())::float8"
    with connection.pipeline():
        connection.execute("BEGIN")
        before = connection.execute(clock, prepare=True)
        asked = send(connection, backlog, worker)
        after = connection.execute(clock, prepare=True)
        connection.execute("ROLLBACK")
    found, expected = len(asked.fetchall()), _expected(send, backlog)
    assert found == expected, f"{found} rows instead of {expected}"
    return (_value(after) - _value(before)) * 1000


def _expected(send: Send, backlog: Backlog) -> int:
    return ROWS if send is _send_claim else backlog.queues


def _send_claim(connection: server.Connection, backlog: Backlog, worker: str) -> server.Cursor:
    lanes = backlog.lanes()
    return claim.claim(
        connection,
        worker_id=worker,
        token=str(uuid4()),
        lanes=lanes,
        floors=["-infinity"] * len(lanes),
        limit=ROWS,
    )


def _send_look(connection: server.Connection, backlog: Backlog, worker: str) -> server.Cursor:
    return claim.find_lanes(connection)


def _value(cursor: server.Cursor) -> float:
    row = cursor.fetchone()
    assert row is not None
    return float(row[0])


def _close_django() -> None:
    from django.db import connection

    connection.close()
