"""Everybody who can connect may NOTIFY: workers look more often, at most so often, and no more."""

from __future__ import annotations

import select
import threading
import time
from pathlib import Path

import psycopg
import pytest
from django.db import connection

from django_taskq import db
from django_taskq.transitions.enqueue import CHANNEL
from django_taskq.worker.listener import Listener
from django_taskq.worker.options import WorkerOptions
from tests.processes import tasks
from tests.processes.conftest import Starter, database, database_url, start, use_database
from tests.processes.support import parent_of

__all__ = ["database", "database_url", "start", "use_database"]

HOSTILE = [
    "",
    "stop",
    "os.system('id')",
    "cos\nsystem\n(S'id'\ntR.",
    '{"task": "os.system", "args": ["id"]}',
    "probe:",
    "probe:" + "x" * 7000,
    "\x1b[2J\u202e",
    "\\u0000",
    "x" * 7999,
]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("payload", HOSTILE, ids=lambda text: repr(text[:12]))
def test_a_payload_is_not_looked_into(payload: str, caplog: pytest.LogCaptureFixture) -> None:
    with db.worker_connection("default", name="ear") as ear:
        listener = Listener(WorkerOptions(database="default"), "me")
        listener.use(ear)
        with db.worker_connection("default", name="mouth") as mouth:
            mouth.execute("SELECT pg_notify(%s, %s)", [CHANNEL, payload])
        assert select.select([ear], [], [], 20)[0]
        heard = listener.hear()
        # A hint, whatever it says; or what a worker sends to itself.
        assert heard is not payload.startswith("probe:")
    assert not caplog.records


def processor_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100


@pytest.mark.slow
def test_a_flood_of_notifications_changes_nothing_and_costs_little(start: Starter) -> None:
    worker = start(children=2)
    pids = [worker.pid, parent_of(next(iter(worker.children()))), *worker.children()]
    assert tasks.add.enqueue(1, 2).wait(timeout=20) == 3
    over = threading.Event()
    sent = [0]

    def flood(url: str) -> None:
        with psycopg.connect(url, autocommit=True) as floods:
            while not over.is_set():
                for payload in HOSTILE:
                    floods.execute("SELECT pg_notify(%s, %s)", [CHANNEL, payload])
                    sent[0] += 1

    url = psycopg.conninfo.make_conninfo(
        **{
            key: value
            for key, value in connection.get_connection_params().items()
            if key in {"host", "port", "user", "password", "dbname"}
        }
    )
    flooding = threading.Thread(target=flood, args=[url])
    before = sum(map(processor_seconds, pids))
    flooding.start()
    began = time.monotonic()
    try:
        while time.monotonic() - began < 5:
            assert tasks.add.enqueue(1, 2).wait(timeout=20) == 3
            time.sleep(0.2)
    finally:
        over.set()
        flooding.join()
    seconds = time.monotonic() - began
    used = (sum(map(processor_seconds, pids)) - before) / seconds
    assert sent[0] > 500
    # A third of one processor for the whole worker, however many notifications come.
    assert used < 0.35, used
    assert set(worker.children()) == set(pids[2:])
    assert "Child" not in worker.output and "\x1b[2J" not in worker.output
