"""The example site: its demo is run as a user runs it, against a database of its own."""

from __future__ import annotations

import http.cookiejar
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
import pytest
from django.db import connection
from psycopg import sql

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "example_project" / "demo.py"
# Away from 8000, where somebody may be at work, and from a demo that runs beside this one.
FIRST_PORT = str(18000 + 100 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def database_url() -> Iterator[str]:
    """Make a database beside the one of the tests, and drop it afterwards."""
    asked = connection.get_connection_params()
    server = {key: asked[key] for key in ("host", "port", "user", "password") if asked.get(key)}
    name = f"fieldnotes_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(**server, dbname="postgres", autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            user = quote(server.pop("user", ""), safe="")
            password = quote(server.pop("password", ""), safe="")
            login = f"{user}:{password}@" if password else f"{user}@" if user else ""
            yield f"postgresql://{login}/{name}?{urlencode(server)}"
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def environment(database_url: str, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a demo whose files and rows are its own."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in {"DJANGO_SETTINGS_MODULE", "SECRET_KEY", "MEDIA_ROOT", "MAIL_DIR", "DEBUG"}
    }
    return {
        **kept,
        "DATABASE_URL": database_url,
        "DATA_DIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }


@contextmanager
def running_demo(environment: dict[str, str], tmp_path: Path) -> Iterator[Demo]:
    """Start the demo, wait until its batch has run, and leave nothing of it behind."""
    output = tmp_path / "demo.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, str(DEMO), "--port", FIRST_PORT],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    demo = Demo(process, output)
    try:
        eventually(lambda: "Ctrl+C" in demo.said() or process.poll() is not None)
        assert process.poll() is None, demo.said()
        yield demo
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


class Demo:
    """A demo that stays, and a visitor of its page."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output
        self._visitor = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()),
        )

    def said(self) -> str:
        return self._output.read_text()

    def pid(self, name: str) -> int:
        match = re.search(rf"{name} is process (\d+)", self.said())
        assert match, self.said()
        return int(match[1])

    def read(self, path: str = "/") -> bytes:
        with self._visitor.open(self.address + path, timeout=20) as answer:
            content: bytes = answer.read()
            return content

    def page(self) -> str:
        return self.read().decode()

    def send(self, path: str, fields: dict[str, str], files: dict[str, bytes] | None = None) -> str:
        """Send a form as a browser does, token included, and return the page that follows."""
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.page())
        assert token
        boundary = uuid.uuid4().hex
        head = f"--{boundary}\r\nContent-Disposition: form-data; name="
        parts = [
            f'{head}"{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in {**fields, "csrfmiddlewaretoken": token[1]}.items()
        ]
        for name, content in (files or {}).items():
            opening = f'{head}"{name}"; filename="../../evil.html"\r\n\r\n'
            parts.append(opening.encode() + content + b"\r\n")
        request = urllib.request.Request(
            self.address + path,
            data=b"".join(parts) + f"--{boundary}--\r\n".encode(),
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
        )
        with self._visitor.open(request, timeout=20) as answer:
            return str(answer.read().decode())

    @property
    def address(self) -> str:
        match = re.search(r"http://127\.0\.0\.1:\d+", self.said())
        assert match, self.said()
        return match[0]


def eventually(condition: Callable[[], bool], within: float = 120) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_once_runs_real_work_prints_what_ran_and_ends(
    environment: dict[str, str], tmp_path: Path
) -> None:
    demo = subprocess.run(
        [sys.executable, str(DEMO), "--once", "--port", FIRST_PORT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert (
        len(re.findall(r"^(thumbnail|mail|import|webhook).* successful ", demo.stdout, re.M)) == 16
    )
    assert "rows 3,376, imported 3,376, skipped 0" in demo.stdout
    # The receiver failed twice, and the third attempt came through.
    assert re.search(
        r"^webhook: fails twice +successful +3 .* 200 at attempt 3$", demo.stdout, re.M
    )
    assert demo.stdout.count("The receiver answered 503 Service Unavailable") == 2
    assert "The page answers 200" in demo.stdout
    assert len(list((tmp_path / "media" / "thumbnails").glob("*.webp"))) == 12
    # Mails of one second may share a file.
    mails = "".join(path.read_text() for path in (tmp_path / "mails").iterdir())
    assert sorted(re.findall(r"^To: (.*)$", mails, re.M)) == [
        "ada@example.org",
        "grace@example.org",
    ]


def test_a_visitor_sees_what_the_tasks_made_and_ctrl_c_leaves_no_process(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with running_demo(environment, tmp_path) as demo:
        page = demo.page()
        for seen in ("DSCOVR launch", "<b>3,376</b> stored", "mailed ada", "200 at attempt 3"):
            assert seen in page
        thumbnail = re.search(r'href="(/media/thumbnails/[^"]+-320\.webp)"', page)
        assert thumbnail
        assert demo.read(thumbnail[1])[8:12] == b"WEBP"

        # The form of the page enqueues a task, and its outcome appears on the page.
        demo.send("/webhooks/", {"webhook-event": "picture.published", "webhook-failures": "1"})
        eventually(lambda: "200 at attempt 2" in demo.page())

        # A task links to its page in the admin, and the printed login opens it.
        link = re.search(r'class="task-name" href="(/admin/django_taskq/[^"]+)"', demo.page())
        password = re.search(r"user admin, password (\S+)", demo.said())
        assert link and password
        login = {"username": "admin", "password": password[1]}
        page = demo.send(f"/admin/login/?next={link[1]}", login)
        assert "fieldnotes.tasks.deliver_webhook" in page
        assert "Log out" in page

        children = [demo.pid("site"), demo.pid("worker")]
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(60) == 0, demo.said()
        assert not [pid for pid in children if is_alive(pid)]


def test_uploads_are_checked_and_their_titles_are_shown_as_text(
    environment: dict[str, str], tmp_path: Path
) -> None:
    photograph = (DEMO.parent / "data" / "coffee.png").read_bytes()
    with running_demo(environment, tmp_path) as demo:
        fields = {"picture-title": "<i>cup</i>"}
        before = set((tmp_path / "media").rglob("*"))
        page = demo.send("/pictures/", fields, {"picture-file": b"<script>alert(1)</script>"})
        assert "This is not a picture that can be read." in page
        assert set((tmp_path / "media").rglob("*")) == before

        page = demo.send("/pictures/", fields, {"picture-file": photograph})
        assert "&lt;i&gt;cup&lt;/i&gt;" in page
        assert "<i>cup</i>" not in page
        # The visitor's file name decides neither place nor type.
        assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]

        page = demo.send("/airports/", {}, {"sheet-file": b"code,name\nXXX,Nowhere\n"})
        assert "These columns are missing: iata, city" in page


def test_a_worker_that_dies_is_reported_and_the_demo_fails(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with running_demo(environment, tmp_path) as demo:
        site = demo.pid("site")
        os.kill(demo.pid("worker"), signal.SIGKILL)
        assert demo.process.wait(60) == 1
        assert "the worker has ended early, by signal 9. Its last output:" in demo.said()
        assert not is_alive(site)
