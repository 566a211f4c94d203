#!/usr/bin/env python
"""Run Fieldnotes: migrate, start a worker and the site, run a first batch of real tasks.

It needs DATABASE_URL. To have a PostgreSQL started for it as well:

    python example_project/embedded_postgres.py run --data DIR -- python example_project/demo.py
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from django_taskq import TaskResult

PROJECT = Path(__file__).resolve().parent
HOST = "127.0.0.1"
FIRST_PORT = 8000
# The worker may use 25 s of grace for what it is running.
STOP_WITHIN = 35.0
PHOTOGRAPHS = {
    "astronaut.png": "Eileen Collins",
    "chelsea.png": "Chelsea the cat",
    "coffee.png": "Espresso",
    "rocket.jpg": "DSCOVR launch",
}
PEOPLE = {"ada": "ada@example.org", "grace": "grace@example.org"}


class DemoFailed(Exception):
    """The demo cannot go on; the message is for the person at the terminal."""


class Stopped(Exception):
    """Somebody pressed Ctrl+C, or asked for the end in another way."""


# 1. The whole run, from the top down


def main() -> int:
    """Run the demo and return its exit status."""
    options = _parse_options()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    port = _free_port(options.port)
    # Before the settings are read, here and in the children: the worker posts webhooks to the site.
    os.environ["SITE_URL"] = address = f"http://{HOST}:{port}"

    stop = _stop_on_signals()
    try:
        return run(options, stop, address, port)
    except Stopped:
        say("stopped before the first batch had ended")
        return 130 if options.once else 0
    except DemoFailed as failure:
        print(f"\nThe demo has failed: {failure}", file=sys.stderr)
        return 1


def run(options: argparse.Namespace, stop: threading.Event, address: str, port: int) -> int:
    """Prepare the database, start the processes, run the batch and, unless --once, stay."""
    with step("preparing the database"):
        migrate()
    login = admin_login()
    with Crew(stop) as crew:
        with step("starting the site and a worker with two processes"):
            crew.start("site", "runserver", "--noreload", f"{HOST}:{port}")
            crew.start("worker", "taskworker", "-c", "2", "-v", "1")
            crew.wait_until(lambda: answers(address), within=30, what=f"the site at {address}")
        for child in crew.children:
            say(f"  {child.name} is process {child.process.pid}, its output is in {child.log}")

        with step("enqueueing a first batch"):
            batch = enqueue_batch()
        say(f"  {len(batch)} tasks: thumbnails of four photographs, an import, mails, a webhook")
        with step("waiting for their results"):
            wait_for(batch, crew, within=options.timeout)
        print_results(batch)
        unfinished = [named for named in batch if not named.is_successful]
        status, size = fetch(f"{address}/")
        say(f"The page answers {status} with {size / 1024:.0f} kB: {address}/")
        if status != 200:
            raise DemoFailed(f"the page answers {status}; {crew.children[0].log} says why")

        say(f"Admin: {address}/admin/  {login}")
        if not options.once:
            say("Use the page and watch it work. Ctrl+C stops everything.")
            from django.db import connections

            connections.close_all()  # nothing more to ask: leave no idle connection behind
            crew.watch()
    if unfinished:
        names = ", ".join(sorted({named.title for named in unfinished}))
        raise DemoFailed(f"{len(unfinished)} of {len(batch)} tasks did not succeed: {names}")
    return 0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--once", action="store_true", help="end after the first batch; status 1 if a task failed"
    )
    parser.add_argument("--port", type=int, default=FIRST_PORT, help="first port to try (8000)")
    parser.add_argument(
        "--timeout", type=float, default=120, help="seconds that the batch may take (120)"
    )
    return parser.parse_args()


# 2. Database and login


def migrate() -> None:
    """Set Django up and bring the database's tables up to date."""
    if "DATABASE_URL" not in os.environ and not (PROJECT / ".env").exists():
        raise DemoFailed(
            "DATABASE_URL is not set. `make demo` starts a PostgreSQL of its own; to use another, "
            "set DATABASE_URL=postgres://user:password@host/name or copy .env.example to .env."
        )
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import OperationalError

    try:
        call_command("migrate", verbosity=0, interactive=False)
    except OperationalError as error:
        raise DemoFailed(f"the database cannot be reached: {error}") from error


def admin_login() -> str:
    """Make sure that somebody can log in to the admin, and say how.

    The password is made at the first run and kept beside the demo's other files. A user `admin`
    that the demo has not made is left alone.
    """
    from django.conf import settings
    from django.contrib.auth import get_user_model

    path = settings.DATA_DIR / "admin_password"
    password = path.read_text() if path.exists() else ""
    users: Any = get_user_model().objects
    admin = users.filter(username="admin").first()
    if admin is None:
        if not password:
            password = secrets.token_urlsafe(9)
            settings.DATA_DIR.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(password)
        admin = users.create_superuser("admin", "admin@fieldnotes.example", password)
    if password and admin.check_password(password):
        return f"user admin, password {password}"
    return "user admin, with the password you gave it"


# 3. The first batch


@dataclass
class Named:
    """A task of the batch under the name that the table shows."""

    title: str
    result: TaskResult[Any]

    @property
    def is_successful(self) -> bool:
        return str(self.result.row_status) == "SUCCESSFUL"


def enqueue_batch() -> list[Named]:
    """Do once what visitors of the page can do, with the real files of the repository."""
    from django.core.files.base import File
    from fieldnotes import actions
    from fieldnotes.forms import PictureForm
    from fieldnotes.models import THUMBNAIL_SIZES

    data = PROJECT / "data"
    batch = []
    for file_name, title in PHOTOGRAPHS.items():
        with (data / file_name).open("rb") as file:
            upload = as_upload(file)
            form = PictureForm({"title": title}, {"file": upload})
            if not form.is_valid():
                raise DemoFailed(f"{file_name} was refused: {form.errors.as_text()}")
            results = actions.add_picture(title, form.format, upload)
        batch += [
            Named(f"thumbnail {size}: {title}", result)
            for size, result in zip(THUMBNAIL_SIZES, results, strict=True)
        ]
    with (data / "airports.csv").open("rb") as file:
        batch.append(Named("import: airports", actions.import_sheet(File(file))))
    for name, address in PEOPLE.items():
        batch.append(Named(f"mail: {name}", sign_up(name, address)))
    batch.append(Named("webhook: fails twice", actions.announce("demo.started", failures=2)))
    return batch


def as_upload(file: BinaryIO) -> Any:
    """Wrap a file as Django does with what a browser sends."""
    from django.core.files.uploadedfile import UploadedFile

    return UploadedFile(file, name="photograph", size=os.fstat(file.fileno()).st_size)


def sign_up(name: str, address: str) -> TaskResult[str]:
    """Sign a person up under the first free name: the demo may have run before."""
    from django.contrib.auth import get_user_model
    from fieldnotes import actions
    from fieldnotes.forms import SignUpForm

    taken = set(
        get_user_model()
        .objects.filter(username__startswith=name)
        .values_list("username", flat=True)
    )
    number = 1
    while (free := name if number == 1 else f"{name}-{number}") in taken:
        number += 1
    password = secrets.token_urlsafe(12)
    form = SignUpForm(
        {"username": free, "email": address, "password1": password, "password2": password}
    )
    if not form.is_valid():
        raise DemoFailed(f"{free} could not sign up: {form.errors.as_text()}")
    return actions.sign_up(form)


def wait_for(batch: list[Named], crew: Crew, within: float) -> None:
    """Wait until every task has ended, for `within` seconds in all."""
    from django_taskq.exceptions import TaskFailed

    deadline = time.monotonic() + within
    for named in batch:
        while True:
            crew.check()
            try:
                named.result.wait(timeout=0.5)
            except TaskFailed:
                break  # the table tells
            except TimeoutError:
                if time.monotonic() > deadline:
                    break
            else:
                break
    for named in batch:
        named.result.refresh()


# 4. What is printed


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is being done and how long it took."""
    print(f"{what} …", end=" ", flush=True)
    started = time.monotonic()
    try:
        yield
    except BaseException:
        print()
        raise
    print(f"{time.monotonic() - started:.1f} s")


def say(text: str) -> None:
    print(text)


def print_results(batch: list[Named]) -> None:
    """Print a line per task, and below it each failed attempt."""
    from fieldnotes.activity import duration

    lines = [("task", "status", "attempts", "waited", "ran", "result")]
    for named in batch:
        result = named.result
        value = result.return_value if named.is_successful else ""
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number:,}" for key, number in value.items())
        lines.append(
            (
                named.title,
                str(result.row_status).lower(),
                str(result.attempts),
                duration(result.enqueued_at, result.started_at),
                duration(result.started_at, result.finished_at),
                str(value),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    print()
    for place, line in enumerate(lines):
        cells = [
            cell.rjust(width) if column in {2, 3, 4} else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=False))
        ]
        print("  ".join([*cells, line[5]]).rstrip())
        if place == 0:
            print("  ".join("-" * width for width in widths) + "  " + "-" * 30)
            continue
        for number, error in enumerate(batch[place - 1].result.errors, start=1):
            said = error.traceback.strip().splitlines()
            print(
                f"    attempt {number} failed: {said[-1] if said else error.exception_class_path}"
            )
    print()


# 5. The processes


@dataclass
class Child:
    """A process of the demo, and the file that its output goes to."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Crew:
    """The site and the worker: started together, watched, and stopped together."""

    def __init__(self, stop: threading.Event) -> None:
        self.children: list[Child] = []
        self._stop = stop

    def __enter__(self) -> Crew:
        return self

    def start(self, name: str, *command: str) -> None:
        """Start a management command as a child process."""
        from django.conf import settings

        logs = settings.DATA_DIR / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        log = logs / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, str(PROJECT / "manage.py"), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                # Ctrl+C reaches the whole group of the terminal; to a worker a second signal means
                # "at once". In groups of their own, children hear it from us, and once.
                process_group=0,
            )
        self.children.append(Child(name, process, log))

    def check(self) -> None:
        """Raise DemoFailed if a child has died, Stopped if the demo is to end."""
        if self._stop.is_set():
            raise Stopped
        for child in self.children:
            if (status := child.process.poll()) is not None:
                said = child.log.read_text(errors="replace").strip()[-4000:] or "(none)"
                how = f"by signal {-status}" if status < 0 else f"with status {status}"
                raise DemoFailed(
                    f"the {child.name} has ended early, {how}. Its last output:\n\n{said}"
                )

    def wait_until(self, condition: Callable[[], bool], within: float, what: str) -> None:
        """Wait for a condition; raise DemoFailed after `within` seconds or if a child dies."""
        deadline = time.monotonic() + within
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise DemoFailed(f"{what} is not there after {within:.0f} s")
            self._stop.wait(0.05)

    def watch(self) -> None:
        """Stay until the demo is to end; raise DemoFailed if a child dies first."""
        while not self._stop.wait(0.5):
            self.check()
        print()  # after the terminal's ^C

    def __exit__(self, *_: object) -> None:
        """Stop the worker first, so that what it finishes still finds the site."""
        alive = [child for child in reversed(self.children) if child.process.poll() is None]
        if not alive:
            return
        with step(f"stopping the {' and the '.join(child.name for child in alive)}"):
            for child in alive:
                self._stop_child(child)

    def _stop_child(self, child: Child) -> None:
        self._stop.clear()
        child.process.terminate()
        deadline = time.monotonic() + STOP_WITHIN
        while child.process.poll() is None:
            if time.monotonic() > deadline:
                child.process.kill()
            elif self._stop.is_set():  # Ctrl+C once more: a second signal asks for haste
                self._stop.clear()
                child.process.terminate()
            time.sleep(0.02)


def _stop_on_signals() -> threading.Event:
    """Return an event that Ctrl+C, the end of the terminal, or a SIGTERM sets."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue  # nohup: somebody wants it to outlive the terminal
        signal.signal(number, lambda *_: stop.set())
    return stop


def _free_port(first: int) -> int:
    """Return the first port from `first` on that nobody listens at."""
    for port in range(first, first + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise SystemExit(f"No free port from {first} to {first + 99}.")


def answers(address: str) -> bool:
    """Say whether an HTTP server answers, whatever it says."""
    try:
        fetch(f"{address}/static/fieldnotes/icon.svg")
    except OSError:
        return False
    return True


def fetch(url: str) -> tuple[int, int]:
    """Return status and size of what the site answers; a proxy of the environment is not asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=10) as response:
            return response.status, len(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, len(error.read())


if __name__ == "__main__":
    sys.exit(main())
