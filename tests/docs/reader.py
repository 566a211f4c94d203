"""Somebody who does what a page says, in a directory and with a database of their own."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from tests.docs import linting
from tests.docs.markdown import DOCS, ROOT, Step, commands, steps
from tests.support.databases import drop_database, empty_database

PROJECT = Path(__file__).parent / "project"
SESSION = (Path(__file__).parent / "session.py").read_text()

# Seconds that a command may take, and that output may be on its way.
COMMAND_TIMEOUT = 90
OUTPUT_TIMEOUT = 60


class Terminal:
    """A shell that stays open: `cd` and an activated environment hold for the next command."""

    def __init__(self, directory: Path, environment: dict[str, str], scratch: Path) -> None:
        self.said = scratch / f"said-{time.monotonic_ns()}"
        self.shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """Return what a command says; raise AssertionError when it fails."""
        status, said = self.try_(command, timeout)
        assert status == 0, f"$ {command}\n{said}(exit code {status})"
        return said

    def try_(self, command: str, timeout: float = COMMAND_TIMEOUT) -> tuple[int, str]:
        """Return the exit code of a command and what it says."""
        assert self.shell.stdin and self.shell.stdout
        self.shell.stdin.write(
            f"{{\n{command}\n}} > {self.said} 2>&1 < /dev/null; printf '%s\\n' $?\n"
        )
        self.shell.stdin.flush()
        ready, _, _ = select.select([self.shell.stdout], [], [], timeout)
        answer = self.shell.stdout.readline() if ready else ""
        said = self.said.read_text() if self.said.exists() else ""
        assert answer, f"$ {command}\n{said}(no end within {timeout} s, or not a command of bash)"
        return int(answer), said

    def place(self) -> tuple[str, dict[str, str]]:
        """Return the working directory and the environment, for a program beside the shell."""
        variables = self.run("pwd; env -0")
        directory, _, rest = variables.partition("\n")
        pairs = (entry.partition("=") for entry in rest.split("\0") if "=" in entry)
        return directory, {name: value for name, _, value in pairs}

    def close(self) -> None:
        """Kill the shell with all that it has started."""
        os.killpg(self.shell.pid, signal.SIGKILL)
        self.shell.communicate()


class Reader:
    """Follow the steps of a page."""

    def __init__(
        self, directory: Path, scratch: Path, environment: dict[str, str], installs: bool
    ) -> None:
        self.directory = directory
        self.scratch = scratch
        self.environment = environment
        # Whether the package is installed from an index, as the page says, or taken from here.
        self.installs = installs
        self.open = ExitStack()
        self.terminals: dict[str, Terminal] = {}
        self.terminal = self._terminal("1")
        self.session: subprocess.Popen[str] | None = None
        self.started: subprocess.Popen[str] | None = None
        self.started_file = scratch
        self.output = ""
        self.output_file: Path | None = None
        # The name of a database that the page makes itself, and which name it gets here.
        self.own_database = ("", "")

    def follow(self, step: Step) -> None:
        """Do one thing that the page says; raise AssertionError when it is not as the page says."""
        step = replace(step, code=step.code.replace(*self.own_database))
        match step.kind:
            case "file" | "append" | "hidden file" | "hidden append":
                self.write(step)
            case "run" | "hidden run":
                self.run(step)
            case "install":
                self.install(step)
            case "start":
                self.start(step)
            case "stop":
                self.stop()
            case "terminal":
                self.terminal = self._terminal(step.argument)
            case "project":
                self.project(step)
            case "settings":
                self.check_settings(step)
            case "output":
                self.compare_output(step)
            case "new shell":
                self._end_session()
                self.ask(step, "shell")
            case "raises":
                self.ask(step, "python", raises=step.argument)
            case "python" | "shell" | "sql" | "test":
                self.ask(step, step.kind)
            case "lint":
                linting.lint(step)
            case "shown" | "tested by" | "not run" | "needs":
                pass
            case _:
                raise AssertionError(f"{step}: nobody follows {step.kind!r}")

    # --- files and settings -----------------------------------------------------------------------

    def write(self, step: Step) -> None:
        """Write a block to a file of the project, or add it to one."""
        path = Path(self.terminal.run("pwd").strip()) / step.argument
        path.parent.mkdir(parents=True, exist_ok=True)
        appends = step.kind.endswith("append")
        with path.open("a" if appends else "w") as file:
            file.write(f"\n\n{step.code}" if appends else step.code)
        if path.name in {"settings.py", "models.py", "apps.py"}:
            self._end_session()

    def check_settings(self, step: Step) -> None:
        """Let Django's checks judge the project with this fragment at the end of its settings."""
        if step.argument and not is_installed(step.argument.removeprefix("needs ")):
            return
        module = f"settings_of_line_{step.line}"
        directory = Path(self.terminal.run("pwd").strip()) / "config"
        (directory / f"{module}.py").write_text(f"from config.settings import *\n\n{step.code}")
        self.terminal.run(f"python manage.py check --fail-level WARNING --settings config.{module}")

    def project(self, step: Step) -> None:
        """Begin as the page does: in a new project, behind another page, or with nothing."""
        kind, _, rest = step.argument.partition(" ")
        for path in self.directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        match kind:
            case "startproject":
                self.terminal.run("django-admin startproject config .")
                self.terminal.run(f"python manage.py startapp {rest}")
                database = {"ENGINE": "django.db.backends.postgresql"}
                database["NAME"] = self.environment["PGDATABASE"]
                with (self.directory / "config" / "settings.py").open("a") as file:
                    file.write(f"\nDATABASES = {{'default': {database}}}\n")
            case "after":
                for earlier in steps(DOCS / rest):
                    if earlier.kind in {"project", "file", "append", "run", "install", "terminal"}:
                        self.follow(earlier)
            case "nothing":
                # The page makes everything itself, a database of this name, too.
                self.own_database = (rest, f"{self.environment['PGDATABASE']}_{rest}")
                self._provide_createdb()
            case _:
                raise AssertionError(f"{step}: no such project: {step.argument!r}")

    def _provide_createdb(self) -> None:
        """Put a `createdb` on the path where PostgreSQL's own is not installed."""
        if shutil.which("createdb", path=self.environment["PATH"]) is None:
            program = self.scratch / "createdb"
            program.write_text(
                f"#!{sys.executable}\n"
                "import sys, psycopg\n"
                "with psycopg.connect(autocommit=True) as connection:\n"
                "    connection.execute(f'CREATE DATABASE \"{sys.argv[1]}\"')\n"
            )
            program.chmod(0o755)
            self.terminal.run(f'export PATH="$PATH:{self.scratch}"')

    # --- commands ---------------------------------------------------------------------------------

    def run(self, step: Step) -> None:
        """Run commands one after the other, and compare what they say with the page."""
        if step.language != "console" and step.kind != "hidden run":
            self.output = self.terminal.run(step.code)
            return
        for command, expected in commands(step.code):
            if goes_on(command):
                self.try_shortly(command)
            else:
                self.output, self.output_file = self.terminal.run(command), None
            if expected.strip():
                assert says(expected, self.output), f"$ {command}\n{self.output}"

    def install(self, step: Step) -> None:
        """Install the package as the page says, or only read how."""
        linting.lint(step)
        if self.installs:
            self.run(step)

    def start(self, step: Step) -> None:
        """Start what goes on until the page stops it."""
        [(command, _)] = commands(step.code)
        self.start_command(command)

    def try_shortly(self, command: str) -> None:
        """Start what would go on, wait until it says how to stop it, and do so."""
        self.start_command(command)
        deadline = time.monotonic() + COMMAND_TIMEOUT
        while time.monotonic() < deadline:
            assert self.started and self.output_file
            said = self.output_file.read_text()
            if says("Ctrl+C", said) or says("CONTROL-C", said):
                self.stop()
                return
            assert self.started.poll() is None, f"$ {command}\n{said}"
            time.sleep(0.05)
        raise AssertionError(f"$ {command}\n{said}\n(it does not say how to stop it)")

    def start_command(self, command: str) -> None:
        """Start a program beside the terminal."""
        assert self.started is None, "the page has not stopped what it started before"
        directory, environment = self.terminal.place()
        self.output_file = self.started_file = self.scratch / f"started-{time.monotonic_ns()}"
        with self.output_file.open("w") as output:
            self.started = subprocess.Popen(
                ["bash", "-c", f"exec {on_a_free_port(command)}"],
                cwd=directory,
                env=environment | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.open.callback(_end, self.started)

    def stop(self) -> None:
        """Press Ctrl+C where something runs."""
        assert self.started is not None, "nothing runs here"
        self.started.send_signal(signal.SIGINT)
        self.started.wait(timeout=60)
        self.output, self.output_file = self.started_file.read_text(), self.started_file
        # Bash reports Ctrl+C as 130; a worker ends with 0.
        assert self.started.returncode in {0, 130, -signal.SIGINT}, self.output
        self.started = None

    def compare_output(self, step: Step) -> None:
        """Compare a block with what the last command has said, or says within some seconds."""
        deadline = time.monotonic() + OUTPUT_TIMEOUT
        while self.output_file is not None and time.monotonic() < deadline:
            self.output = self.output_file.read_text()
            if says(step.code, self.output):
                return
            time.sleep(0.05)
        assert says(step.code, self.output), f"this is what was said:\n{self.output}"

    def _terminal(self, name: str) -> Terminal:
        if name not in self.terminals:
            terminal = Terminal(self.directory, self.environment, self.scratch)
            self.terminals[name] = terminal
            self.open.callback(terminal.close)
        return self.terminals[name]

    # --- Python and SQL ---------------------------------------------------------------------------

    def ask(self, step: Step, kind: str, raises: str = "") -> None:
        """Let the page's Python process run a block."""
        session = self._session()
        assert session.stdin and session.stdout
        module = re.sub(r"\W", "_", step.page.stem)
        request = {
            "kind": kind,
            "code": step.code,
            "name": f"page_{module}.line_{step.line}",
            "line": step.line + 1,
            "raises": raises,
        }
        session.stdin.write(json.dumps(request) + "\n")
        session.stdin.flush()
        ready, _, _ = select.select([session.stdout], [], [], COMMAND_TIMEOUT)
        text = session.stdout.readline() if ready else ""
        assert text, "the page's Python has ended, or takes too long"
        answer = json.loads(text)
        assert not answer["error"], answer["error"]
        if kind == "python":
            self.output, self.output_file = answer["said"], None

    def _session(self) -> subprocess.Popen[str]:
        if self.session is None:
            directory, environment = self.terminal.place()
            python = shutil.which("python", path=environment["PATH"])
            assert python is not None
            self.session = subprocess.Popen(
                [python, "manage.py", "shell", "-v", "0", "-c", SESSION],
                cwd=directory,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self.open.callback(_end, self.session)
        return self.session

    def _end_session(self) -> None:
        if self.session is not None:
            _end(self.session)
            self.session = None


_SERVES = re.compile(r"manage\.py (?:runserver|rundev)(?: \d+)?")


def on_a_free_port(command: str) -> str:
    """Let a command that serves the site do so where nobody else does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return _SERVES.sub(lambda found: f"{found[0].rstrip(' 0123456789')} {port}", command)


def is_installed(module: str) -> bool:
    """Return whether a module can be imported; its package is imported for that."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def goes_on(command: str) -> bool:
    """Return whether a command ends at Ctrl+C only."""
    if _SERVES.search(command):
        return True
    return "manage.py taskworker" in command and not re.search(
        r"--burst|--max-tasks[ =]|--help|-h\b", command
    )


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def says(expected: str, output: str) -> bool:
    """Return whether a program said this, in the midst of other things.

    Numbers may be others, `...` stands for anything, the reader's host is called laptop, and other
    lines may stand between those of the page.
    """
    tokens = re.split(r"(\.\.\.|laptop|\d[\d.,:]*|\n\s*|[ \t]+)", expected.strip())
    pattern = "".join(
        r"(?s:.*?)"
        if token == "..."
        else r"\S+"
        if token == "laptop"
        else r"[ \t]*\n(?:.*\n)*?[ \t]*"
        if token.startswith("\n")
        else r"[ \t]+"
        if token.isspace()
        else r"\d[\d.,:]*"
        if token[:1].isdigit()
        else re.escape(token)
        for token in tokens
    )
    return re.search(pattern, output) is not None


@contextmanager
def reader(directory: Path, server_url: str, template: str = "template1") -> Iterator[Reader]:
    """Yield a reader with the standing project and an own copy of its database.

    With a directory of wheels in `TASKQ_DOCS_WHEELS` readers install the package from there, as the
    pages say; else they use the code and the environment of this checkout.
    """
    wheels = os.environ.get("TASKQ_DOCS_WHEELS")
    project, scratch = directory / "project", directory / "scratch"
    shutil.copytree(PROJECT, project)
    scratch.mkdir()
    with empty_database(server_url, template=template) as database:
        environment = environment_of(server_url, database)
        if wheels:
            environment["PIP_FIND_LINKS"] = wheels
        else:
            programs = Path(sys.executable).parent
            environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
            environment["PYTHONPATH"] = str(ROOT)
        someone = Reader(project, scratch, environment, installs=bool(wheels))
        try:
            with someone.open:
                yield someone
        finally:
            drop_database(server_url, someone.own_database[1])


def environment_of(server_url: str, database: str) -> dict[str, str]:
    """Return this process's environment without what belongs to the tests."""
    server = conninfo_to_dict(server_url)
    given = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGPASSWORD": "password"}
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DJANGO_", "PG", "PYTEST", "TASKWORKER_", "VIRTUAL_ENV"))
        and name not in {"DATABASE_URL", "PYTHONPATH"}
    } | {
        "PGDATABASE": database,
        # What a terminal shows: both streams in the order in which they are written.
        "PYTHONUNBUFFERED": "1",
        **{name: str(server[key]) for name, key in given.items() if server.get(key)},
    }
