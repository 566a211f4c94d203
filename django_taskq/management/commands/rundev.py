"""`manage.py rundev`: the development server and a worker in one terminal."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import IO, Any

from django.core.management.base import CommandError, CommandParser
from django.utils.autoreload import get_child_arguments

from django_taskq.management.colors import ColorCommand, is_color_unwanted
from django_taskq.management.mistakes import explain_mistakes

# Signals that ask for the end: Ctrl+C, kill, and a terminal that is closed.
_STOP = ("SIGINT", "SIGTERM", "SIGHUP")
# Seconds between looks whether one of the two has ended.
_LOOK = 0.1


class Command(ColorCommand):
    """Run runserver and taskworker."""

    help = (
        "Run the development server and a worker in one terminal. Ctrl+C stops both: the worker "
        "lets running tasks finish, a second Ctrl+C stops it now. If one of the two ends, the "
        "other is stopped too, and its exit code is ours. For development only."
    )
    # Both commands make the checks themselves.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        explain_mistakes(parser, lambda: parser._option_string_actions)
        parser.add_argument(
            "addrport", nargs="?", default="", help="port or address:port (default: 127.0.0.1:8000)"
        )
        parser.add_argument(
            "--site",
            metavar="OPTIONS",
            default="",
            help='more options of runserver, in one text: --site="--noreload"',
        )
        parser.add_argument(
            "--worker",
            metavar="OPTIONS",
            default="",
            help='options of taskworker, in one text: --worker="-Q mail -c 2"',
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Start both, wait, and exit with the code of what ended first."""
        if not hasattr(os, "killpg"):
            raise CommandError(
                "rundev needs process groups, which Windows does not have. Use it in WSL (the "
                "Windows Subsystem for Linux), or run manage.py runserver alone: tasks wait."
            )
        shared = _shared_options(options)
        site = ["runserver", *filter(None, [options["addrport"]]), *shlex.split(options["site"])]
        worker = ["taskworker", *shlex.split(options["worker"])]
        code = _Pair(self.stdout, self.style.HTTP_INFO, self.style.HTTP_NOT_MODIFIED).run(
            {"site": [*site, *shared], "worker": [*worker, *shared]}
        )
        if code:
            sys.exit(code)


def _shared_options(options: dict[str, Any]) -> list[str]:
    """Return the options of every command that both are to be given, too."""
    shared = ["--verbosity", str(options["verbosity"])]
    if options.get("pythonpath"):
        shared += ["--pythonpath", options["pythonpath"]]
    if options["no_color"]:
        shared.append("--no-color")
    elif options["force_color"] or (sys.stdout.isatty() and not is_color_unwanted()):
        shared.append("--force-color")  # they write into a pipe, and would think it has no colours
    return shared


@dataclass
class _Child:
    """One of the two processes."""

    name: str
    process: subprocess.Popen[bytes]
    # Copies its output line by line; ends when that does.
    reader: threading.Thread

    def signal(self, number: int) -> None:
        """Send a signal: runserver is two processes that need it, a worker tells its own."""
        if self.process.poll() is None:
            send = os.killpg if self.name == "site" else os.kill
            send(self.process.pid, number)


class _Pair:
    """The two processes: started together, watched, stopped one after the other."""

    def __init__(self, output: Any, *styles: Any) -> None:
        self.output = output
        self.styles = styles
        self.children: list[_Child] = []
        self._lock = threading.Lock()
        # How often the end was asked for.
        self._asked = 0

    def run(self, commands: dict[str, list[str]]) -> int:
        """Run until one ends or the end is asked for; return an exit code."""
        before = {
            number: signal.signal(number, self._ask)
            for number in (getattr(signal, name) for name in _STOP)
        }
        try:
            for name, command in commands.items():
                self._start(name, command)
            while not self._asked and all(c.process.poll() is None for c in self.children):
                time.sleep(_LOOK)
            ended = [c for c in self.children if c.process.poll() is not None]
            for child in ended:
                self._say(child, f"ended with {_exit_code(child)}; stopping the other")
            if not ended:
                self._write("stopping; once more for: now")
            # The worker first: what it finishes may still ask the site.
            for child in reversed(self.children):
                self._stop(child)
            return max(map(_exit_code, ended), default=self._worst_code())
        finally:
            for child in self.children:
                child.signal(signal.SIGKILL)
                child.process.wait()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(self, name: str, command: list[str]) -> None:
        ours = get_child_arguments()
        manage = ours[: len(ours) - len(sys.argv[1:])]
        process = subprocess.Popen(
            [*manage, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            # The terminal's Ctrl+C reaches us only: to a worker a second signal means "now".
            process_group=0,
        )
        assert process.stdout is not None
        reader = threading.Thread(target=self._copy, args=(len(self.children), process.stdout))
        self.children.append(_Child(name, process, reader))
        reader.start()

    def _copy(self, place: int, lines: IO[bytes]) -> None:
        for line in lines:
            self._say(self.children[place], line.decode(errors="replace").rstrip("\r\n"))

    def _say(self, child: _Child, text: str) -> None:
        style = self.styles[self.children.index(child) % len(self.styles)]
        self._write(f"{style(f'{child.name:<6} |')} {text}")

    def _write(self, text: str) -> None:
        with self._lock:
            self.output.write(text)
            self.output.flush()

    def _ask(self, number: int, frame: object) -> None:
        self._asked += 1

    def _stop(self, child: _Child) -> None:
        """Ask a process to end and wait for it; ask again whenever we are asked again."""
        heard = min(self._asked, 1)
        child.signal(signal.SIGTERM)
        while child.process.poll() is None:
            time.sleep(_LOOK / 2)  # two signals that come at once are one
            if self._asked > heard:
                heard += 1
                child.signal(signal.SIGTERM)
        child.reader.join(1)

    def _worst_code(self) -> int:
        """Return 0 if what we stopped ended as it does when it is stopped."""
        codes = [
            0 if c.process.returncode == -signal.SIGTERM else _exit_code(c) for c in self.children
        ]
        return max(codes)


def _exit_code(child: _Child) -> int:
    """Return a process's exit code as a shell would give it."""
    code = child.process.returncode
    return 128 - code if code < 0 else code
