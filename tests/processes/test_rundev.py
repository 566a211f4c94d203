"""`manage.py rundev`: a site and a worker in one terminal, started and stopped as one."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.support import is_alive, parent_of, wait_until
from tests.support.databases import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="no groups")]

PROJECT = {
    "dev_settings.py": """
        from tests.processes.settings import *
        DEBUG = True
        ROOT_URLCONF = "shop.urls"
        INSTALLED_APPS = [*INSTALLED_APPS, "shop"]
        """,
    "shop/__init__.py": "",
    "shop/tasks.py": """
        import time
        from django_taskq import task

        @task
        def greet(name):
            print(f"good morning {name}", flush=True)

        @task
        def take_long(path):
            open(path, "w").close()
            time.sleep(60)
        """,
    "shop/urls.py": """
        from django.http import HttpResponse
        from django.urls import path
        from shop import tasks

        def index(request):
            tasks.greet.enqueue("Ada")
            if "begun" in request.GET:
                tasks.take_long.enqueue(request.GET["begun"])
            return HttpResponse("enqueued")

        urlpatterns = [path("", index)]
        """,
}


class Terminal:
    """A `manage.py rundev` in a terminal of its own."""

    def __init__(self, directory: Path, url: str, port: int = 0) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = port or probe.getsockname()[1]
        self._output = directory / "terminal.txt"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "django", "rundev", str(self.port)),
                    "--worker=-c 1 --shutdown-timeout 20",
                ],
                cwd=directory,
                env={
                    **os.environ,
                    "DATABASE_URL": url,
                    "DJANGO_SETTINGS_MODULE": "dev_settings",
                    "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)]),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, text: str) -> None:
        def is_there() -> bool:
            return bool(re.search(text, self.output, re.M))

        try:
            wait_until(is_there, what=text)
        except AssertionError:
            raise AssertionError(f"{text!r} is not in\n{self.output}") from None

    def get(self, query: str = "") -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}/{query}", timeout=20) as answer:
            return str(answer.read().decode())

    def answers(self, text: str = "enqueued") -> bool:
        """Say whether the site answers this; it is away while it starts anew."""
        try:
            return self.get() == text
        except OSError:
            return False

    def family(self) -> list[int]:
        """Return the process ids of all its descendants."""
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        found = [self.process.pid]
        for pid in sorted(pids):
            try:
                if parent_of(pid) in found:
                    found.append(pid)
            except AssertionError:
                continue
        return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, code in PROJECT.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(code))
    return tmp_path


@pytest.fixture
def terminal(project: Path, database: str) -> Iterator[Terminal]:
    running = Terminal(project, database)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
            running.process.send_signal(signal.SIGTERM)
            running.process.wait(60)


def test_a_page_enqueues_and_the_same_terminal_shows_the_task_run(terminal: Terminal) -> None:
    terminal.wait_for(r"^worker \| .*Ctrl\+C to stop")
    wait_until(terminal.answers)
    terminal.wait_for(r"^site   \| .*GET / HTTP")
    terminal.wait_for(r"^worker \| good morning Ada$")
    assert not [line for line in terminal.output.splitlines() if " | " not in line]


@pytest.mark.skipif(sys.platform != "linux", reason="its family is found in /proc")
def test_ctrl_c_stops_both_with_success_and_leaves_no_process(terminal: Terminal) -> None:
    terminal.wait_for(r"^worker \| .*Ctrl\+C to stop")
    wait_until(terminal.answers)
    family = terminal.family()
    assert len(family) >= 5  # ourselves, runserver and its reloader, supervisor, nursery
    os.killpg(terminal.process.pid, signal.SIGINT)  # as a terminal sends it
    assert terminal.process.wait(30) == 0, terminal.output
    wait_until(lambda: not any(map(is_alive, family)), what="all processes end")


def test_a_second_ctrl_c_does_not_wait_for_the_running_task(
    terminal: Terminal, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    wait_until(terminal.answers)
    terminal.get(f"?begun={begun}")
    wait_until(begun.exists)
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for("^stopping; once more")
    assert terminal.process.poll() is None
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.process.wait(10) == 0, terminal.output


def test_if_one_ends_the_other_is_stopped_and_the_exit_code_says_so(
    project: Path, database: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        running = Terminal(project, database, port=taken.getsockname()[1])
        try:
            assert running.process.wait(60) == 1, running.output
        finally:
            running.process.kill()
    assert "site   | Error: That port is already in use." in running.output
    assert re.search(r"^site   \| ended with 1; stopping the other$", running.output, re.M)


def test_a_changed_file_is_used_by_site_and_worker(terminal: Terminal, project: Path) -> None:
    wait_until(terminal.answers)
    terminal.wait_for(r"^worker \| good morning Ada$")
    for name, before, after in (
        ("tasks.py", "good morning", "good evening"),
        ("urls.py", '"enqueued"', '"enqueued anew"'),
    ):
        file = project / "shop" / name
        file.write_text(file.read_text().replace(before, after))
    wait_until(lambda: terminal.answers("enqueued anew"))
    terminal.wait_for(r"^worker \| good evening Ada$")
