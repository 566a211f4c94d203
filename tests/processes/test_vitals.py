"""Probes and systemd, asked and told by real workers."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import Gate, Ledger, sql, wait_until
from tests.worker.test_health import free_port, get

pytestmark = pytest.mark.slow


def test_the_health_port_tells_ready_from_live(start: Starter, ledger: Ledger, gate: Gate) -> None:
    port = free_port()
    worker = start("--health-port", str(port), children=2)
    wait_until(lambda: get(port, "/ready")[0] == 200, what="the worker is ready")
    code, facts = get(port, "/live")
    assert (code, facts["ok"], facts["loop_seconds_ago"] < 6) == (200, True, True)

    tasks.note.enqueue(ledger.path, "held", gate=gate.path)
    ledger.start_of("held")
    worker.send(signal.SIGTERM)
    wait_until(lambda: get(port, "/ready")[0] == 503, 5, "it takes nothing more")
    assert get(port, "/live")[0] == 200
    gate.open()
    assert worker.wait(20) == 0


def test_a_health_port_that_is_taken_is_an_error(start: Starter) -> None:
    port = free_port()
    start("--health-port", str(port), children=1)
    second = start("--health-port", str(port), children=1, ready=False)
    assert second.wait(30) == 1
    assert f"--health-port 127.0.0.1:{port} cannot be listened on" in second.output
    assert "Traceback" not in second.output


@pytest.mark.parametrize("port", ["http", "70000", "127.0.0.1"])
def test_a_health_port_that_is_none_is_refused(start: Starter, port: str) -> None:
    flag = start("--health-port", port, ready=False)
    assert flag.wait(30) == 2
    variable = start(ready=False, environment={"TASKWORKER_HEALTH_PORT": port})
    assert variable.wait(30) == 2
    for worker in (flag, variable):
        assert f"'{port}' is no port, and no HOST:PORT" in worker.output


class Systemd:
    """A socket in the place of systemd's."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "notify")
        self.end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.end.bind(self.path)
        self.end.setblocking(False)
        self.heard: list[str] = []

    def listen(self) -> list[str]:
        try:
            while True:
                self.heard += self.end.recv(4096).decode().split("\n")
        except BlockingIOError:
            return self.heard

    def wait_for(self, word: str) -> None:
        wait_until(lambda: word in self.listen(), what=f"systemd hears {word}")


def test_systemd_hears_of_start_life_and_end(start: Starter, tmp_path: Path) -> None:
    systemd = Systemd(tmp_path)
    worker = start(
        children=2,
        environment={"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "1000000"},
    )
    try:
        systemd.wait_for("READY=1")
        systemd.wait_for("STATUS=0 task(s) running, 2 of 2 process(es) up.")
        before = systemd.listen().count("WATCHDOG=1")
        wait_until(lambda: systemd.listen().count("WATCHDOG=1") >= before + 3, 10, "it is fed")
        assert "STOPPING=1" not in systemd.listen()
        child = next(iter(worker.children()))
        environment = Path(f"/proc/{child}/environ")
        if environment.exists():
            assert b"NOTIFY_SOCKET" not in environment.read_bytes()
        worker.send(signal.SIGTERM)
        assert worker.wait(20) == 0
        systemd.wait_for("STOPPING=1")
        assert systemd.heard.count("READY=1") == 1
    finally:
        systemd.end.close()


def test_systemd_hears_of_a_reload(start: Starter, tmp_path: Path) -> None:
    systemd = Systemd(tmp_path)
    watched = tmp_path / "watched.py"
    watched.write_text("from tests.processes.settings import *\n")
    worker = start(
        "--reload", children=1, settings="watched", environment={"NOTIFY_SOCKET": systemd.path}
    )
    try:
        systemd.wait_for("READY=1")
        watched.write_text("from tests.processes.settings import *\n# changed\n")
        systemd.wait_for("RELOADING=1")
        wait_until(lambda: systemd.listen().count("READY=1") == 2, what="ready again")
        assert worker.process.poll() is None
    finally:
        systemd.end.close()


def test_two_workers_on_one_host_share_the_work_and_stop_alone(
    start: Starter, ledger: Ledger
) -> None:
    first, second = start(children=2), start(children=2)
    tasks.note.enqueue_many([(ledger.path, f"n{n}", 0.02) for n in range(300)])
    wait_until(lambda: len(ledger.starts()) > 100)
    of_second = set(second.children())
    first.send(signal.SIGTERM)
    assert first.wait(20) == 0
    assert second.process.poll() is None
    wait_until(lambda: not sql("SELECT 1 FROM django_taskq_livetask LIMIT 1"))
    starts = ledger.starts()
    assert sorted(start.tag for start in starts) == sorted(f"n{n}" for n in range(300))
    assert {start.pid for start in starts} > of_second
    rows = sql("SELECT kind, pid, info FROM django_taskq_worker WHERE kind = 'SUPERVISOR'")
    assert [(kind, pid) for kind, pid, _ in rows] == [("SUPERVISOR", second.pid)]
    second.send(signal.SIGTERM)
    assert second.wait(20) == 0
    assert sql("SELECT count(*) FROM django_taskq_worker") == [(0,)]


def test_without_preloading_each_process_imports_the_project_itself(
    start: Starter, tmp_path: Path
) -> None:
    app = tmp_path / "sockets"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "tasks.py").write_text(
        "import os, threading\nfrom django_taskq import task\n"
        "LOADED_BY = os.getpid()\n"
        "threading.Thread(target=threading.Event().wait, name='beats', daemon=True).start()\n"
        "@task(name='sockets.who')\ndef who():\n"
        "    names = [t.name for t in threading.enumerate()]\n"
        "    return [LOADED_BY, os.getpid(), 'beats' in names]\n"
    )
    (tmp_path / "alone.py").write_text(
        "from tests.processes.settings import *\nINSTALLED_APPS = [*INSTALLED_APPS, 'sockets']\n"
    )

    def who() -> list[object]:
        ((id,),) = sql(
            "INSERT INTO django_taskq_livetask (task) VALUES ('sockets.who') RETURNING id"
        )
        value: list[object] = wait_until(
            lambda: sql("SELECT return_value FROM django_taskq_finishedtask WHERE id = %s", id)
        )[0][0]
        return value

    shared = start(children=1, settings="alone")
    loaded_by, pid, has_thread = who()
    assert loaded_by != pid and has_thread is False
    assert "The project starts threads when it is loaded (beats)" in shared.output
    shared.stop()
    alone = start("--no-preload", children=1, settings="alone")
    loaded_by, pid, has_thread = who()
    assert loaded_by == pid and has_thread is True
    assert "starts threads" not in alone.output


def test_without_preloading_an_error_in_a_process_ends_the_worker_and_is_shown(
    start: Starter, tmp_path: Path
) -> None:
    (tmp_path / "choosy.py").write_text(
        "import sys\nfrom tests.processes.settings import *\n"
        "if 'taskworker' not in sys.argv:\n    raise RuntimeError('only in the first process')\n"
    )
    worker = start(
        settings="choosy", children=2, ready=False, environment={"TASKWORKER_NO_PRELOAD": "1"}
    )
    assert worker.wait(60) == 1
    assert "The project could not be loaded:" in worker.output
    assert "RuntimeError: only in the first process" in worker.output
