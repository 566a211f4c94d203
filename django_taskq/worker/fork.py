"""The supervisor's side of the nursery: start it, order forks, hear what happens to children."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from django.conf import settings

from django_taskq import clocks
from django_taskq.db import database_names
from django_taskq.worker.notify import VARIABLES
from django_taskq.worker.nursery import DATABASE_NAMES, kill_group


class NurseryFailed(Exception):
    """The project could not be loaded; the message is the traceback."""


class NurseryDied(NurseryFailed):
    """The nursery was killed before it was ready."""


class Nursery:
    """A nursery process, and a socket to it."""

    def __init__(self, keep: list[int], *, preload: bool = True) -> None:
        """Start the nursery; it and its children inherit the file descriptors `keep`.

        Without `preload` each child loads the project for itself. Called by the main thread only:
        the nursery dies with the thread that started it.
        """
        self.socket, theirs = socket.socketpair()
        environment = {
            **os.environ,
            # The project is found as this process found it, from whatever directory.
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "DJANGO_SETTINGS_MODULE": settings.SETTINGS_MODULE,
            DATABASE_NAMES: json.dumps(database_names()),
        }
        for variable in VARIABLES:  # of systemd, to this process alone
            environment.pop(variable, None)
        module = "from django_taskq.worker.nursery import main; import sys; "
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-P",  # not first of all what lies in the current directory
                "-c",
                module + "main(*map(int, sys.argv[1:]))",
                str(theirs.fileno()),
                str(os.getpid()),
                str(int(preload)),
            ],
            pass_fds=[theirs.fileno(), *keep],
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._buffer = b""
        # To where it holds connections when it is ready: children would share them.
        self.shared: list[str] = []

    def wait_until_ready(self, stop: Any, meanwhile: Callable[[], None]) -> list[str] | None:
        """Return the names of threads that the project has started, once it is loaded.

        `meanwhile` is called once a second. Return None if `stop` (a socket) becomes readable
        first. Raise NurseryFailed.
        """
        while True:
            readable, _, _ = select.select([self.socket, stop], [], [], clocks.TICK)
            meanwhile()
            if stop in readable:
                return None
            for message in self.messages() if self.socket in readable else ():
                if "failed" in message:
                    raise NurseryFailed(message["failed"])
                if "ready" in message:
                    self.shared = list(message["shared"])
                    return list(message["threads"])
                if "lost" in message:
                    code = self.process.wait()
                    raise NurseryDied(f"The nursery ended with {code} before it was ready")

    def fork(self, order: dict[str, Any]) -> None:
        """Ask for a child; `started` will follow."""
        self.socket.sendall(json.dumps({"fork": order}).encode() + b"\n")

    def messages(self) -> Iterator[dict[str, Any]]:
        """Read what the nursery says; {"lost": True} when it is gone."""
        lines, self._buffer = read_lines(self.socket, self._buffer)
        yield from lines

    def kill(self, pid: int) -> None:
        """Kill a child and whatever its task has started."""
        kill_group(pid)

    def may_be_killed(self) -> bool:
        """Say whether time limits count; a debugger may keep them from that in other pools."""
        return True

    def close(self) -> None:
        """End the nursery, and its children with it; wait until it is gone."""
        self.socket.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def read_lines(end: socket.socket, buffer: bytes) -> tuple[list[dict[str, Any]], bytes]:
    """Read the JSON lines that have arrived, and the rest; {"lost": True} at the end of it all."""
    try:
        received = end.recv(65536)
    except ConnectionError:
        received = b""
    if not received:
        return [{"lost": True}], buffer
    *lines, rest = (buffer + received).split(b"\n")
    return [json.loads(line) for line in lines], rest
