"""The raw-SQL loops: the statements of django_taskq.transitions and the least Python around them.

Each runs in a process of its own, as a child of a worker does: `python -m benchmarks.raw`. It says
`ready` when it is connected and begins when it reads a line.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.types.string import TextLoader

from benchmarks import server, tree
from benchmarks.measure import BenchmarkError
from django_taskq.transitions.claim import CLAIM
from django_taskq.transitions.finish import COMPLETE
from django_taskq.transitions.presence import ARRIVE, BEAT

# Where the loop that waits listens, and the queue that it claims from.
CHANNEL = QUEUE = "benchmark_raw"


def drain(url: str, processes: int, batch: int, count: int, *, mode: str = "drain") -> float:
    """Drain what waits with so many loops; return tasks per second."""
    with ExitStack() as stack:
        loops = [stack.enter_context(process(mode, url, str(batch))) for _ in range(processes)]
        for loop in loops:
            begin(loop)
        for loop in loops:
            if loop.wait(600):
                raise BenchmarkError("A raw loop failed.")
    return tree.rate(url, count)


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start one of the loops and wait until it is connected; end it afterwards."""
    loop = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.raw", *arguments],
        cwd=tree.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert loop.stdin is not None and loop.stdout is not None
    try:
        if loop.stdout.readline() != "ready\n":
            raise BenchmarkError("A raw loop did not start.")
        yield loop
    finally:
        loop.kill()
        loop.wait()
        loop.stdin.close()
        loop.stdout.close()


def begin(loop: subprocess.Popen[str]) -> None:
    """Let a loop begin."""
    assert loop.stdin is not None
    loop.stdin.write("go\n")
    loop.stdin.flush()


def main(mode: str, url: str, *rest: str) -> None:
    """Run a loop in this process."""
    connection: server.Connection = psycopg.connect(url, autocommit=True)
    for kind in ("uuid", "json", "jsonb", "timestamptz"):
        connection.adapters.register_loader(kind, TextLoader)
    worker = _arrive(connection)
    print("ready", flush=True)
    sys.stdin.readline()
    if mode == "drain":
        _drain(connection, worker, int(rest[0]))
    elif mode == "atomic":
        _commit_each(connection, worker, int(rest[0]))
    else:
        _listen(connection, worker)


def _drain(connection: server.Connection, worker: str, batch: int) -> None:
    """Complete the last batch and claim the next in one round trip, until nothing is left."""
    values = ",".join(['"null"'] * batch)
    ids: list[str] = []
    token, claimed_at = "", 0.0
    while True:
        following = str(uuid4())
        with connection.pipeline():
            if ids:
                size = len(ids)
                began = f"{time.monotonic() - claimed_at:.6f}"
                parameters = {
                    "ids": "{" + ",".join(ids) + "}",
                    "claims": "{" + ",".join([token] * size) + "}",
                    "values": "{" + values[: 7 * size - 1] + "}",
                    "began": "{" + ",".join([began] * size) + "}",
                    "ended": "{" + ",".join(["0"] * size) + "}",
                }
                connection.execute(COMPLETE, parameters, prepare=True)
            claiming = connection.execute(
                CLAIM, _claim("default", worker, following, batch), prepare=True
            )
        ids = [row[0] for row in claiming.fetchall()]
        if not ids:
            return
        token, claimed_at = following, time.monotonic()


def _commit_each(connection: server.Connection, worker: str, batch: int) -> None:
    """Claim in batches, and complete each task in a transaction of its own, until none is left."""
    while True:
        token = str(uuid4())
        parameters = _claim("default", worker, token, batch)
        rows = connection.execute(CLAIM, parameters, prepare=True).fetchall()
        if not rows:
            return
        for row in rows:
            began = time.monotonic()
            connection.execute("BEGIN")
            connection.execute(
                COMPLETE,
                {
                    "ids": f"{{{row[0]}}}",
                    "claims": f"{{{token}}}",
                    "values": '{"null"}',
                    "began": f"{{{time.monotonic() - began:.6f}}}",
                    "ended": "{0}",
                },
                prepare=True,
            )
            connection.execute("COMMIT")


def _listen(connection: server.Connection, worker: str) -> None:
    """Claim one task per notification and store when that was, until the process is ended."""
    connection.execute(f"LISTEN {CHANNEL}")
    while True:
        for _ in connection.notifies(stop_after=1):
            pass
        token = str(uuid4())
        row = connection.execute(CLAIM, _claim(QUEUE, worker, token, 1), prepare=True).fetchone()
        started = time.time()
        if row is not None:
            connection.execute(
                COMPLETE,
                {
                    "ids": f"{{{row[0]}}}",
                    "claims": f"{{{token}}}",
                    "values": f'{{"{started!r}"}}',
                    "began": "{0}",
                    "ended": "{0}",
                },
                prepare=True,
            )
        # Our worker beside us would take a process that does not beat for a dead one.
        connection.execute(BEAT, {"ids": f"{{{worker}}}"}, prepare=True)


def _claim(queue_name: str, worker: str, token: str, limit: int) -> dict[str, Any]:
    return {
        "queues": f"{{{queue_name}}}",
        "priorities": "{0}",
        "floors": "{-infinity}",
        "worker": worker,
        "claim": token,
        "limit": limit,
    }


def _arrive(connection: server.Connection) -> str:
    """Make this process known: claims need its row."""
    worker = str(uuid4())
    connection.execute(
        ARRIVE,
        {"id": worker, "kind": "CHILD", "parent_id": None, "host": "", "pid": 0, "info": "{}"},
    )
    return worker


if __name__ == "__main__":
    main(*sys.argv[1:])
