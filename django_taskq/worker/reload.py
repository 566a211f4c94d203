"""`--reload`: when the code changes, children end and the worker starts anew as the same process.

Django's own `run_with_reloader` runs its command in a thread, where no signal arrives, and kills it
without a grace time. Here a thread only watches files; the supervisor does the rest in its loop.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from django.conf import settings
from django.utils import autoreload

from django_taskq.events import one_line, worker_log
from django_taskq.worker.children import Children
from django_taskq.worker.nursery import load_project
from django_taskq.worker.signals import GRACEFUL, NOW

# Seconds between looks at the files, and between looks whether a check has ended.
_LOOK, _CHECK = 1.0, 0.1
# What running tasks get to finish; a task that is cut off runs again.
_GRACE = 3.0
# Signals that wait while there is nobody to take them.
_HELD = (*GRACEFUL, *NOW)


class CodeWatch(threading.Thread):
    """Watch the files of all loaded modules, and what Django's autoreload is told of besides."""

    def __init__(self) -> None:
        super().__init__(name="taskq-reload", daemon=True)
        # Readable when a file has changed.
        self.wake, self._tell = socket.socketpair()
        self._tell.setblocking(False)
        # The last file that did; who has taken note of it sets it to None.
        self.changed: Path | None = None
        self._reloader = autoreload.StatReloader()
        # Templates and translations register themselves here.
        autoreload.autoreload_started.send(sender=self._reloader)
        self._seen = self._look()
        # The same for files that were added since.
        self._seen_too: dict[Path, float] = {}
        self._end = threading.Event()

    def run(self) -> None:
        """Look once a second."""
        while not self._end.wait(_LOOK):
            found = self._look()
            for file, changed_at in found.items():
                # A file that is new was imported just now.
                before = self._seen.get(file, self._seen_too.get(file, changed_at))
                if before != changed_at:
                    self.changed = file
                    with contextlib.suppress(BlockingIOError):
                        self._tell.send(b"c")
            self._seen = found

    def drain(self) -> None:
        """Read what woke us."""
        self.wake.recv(4096)

    def watch_too(self, files: Iterable[str]) -> None:
        """Watch more files: those that an error is in, which no module was loaded from."""
        more = {Path(file) for file in files if Path(file).exists()}
        # Neither is changed in place: the thread may be going through it.
        self._seen_too = {**self._seen_too, **{file: file.stat().st_mtime for file in more}}
        self._reloader.extra_files = self._reloader.extra_files | more

    def close(self) -> None:
        """Watch no more."""
        self._end.set()
        self.join()
        self.wake.close()
        self._tell.close()

    def _look(self) -> dict[Path, float]:
        return dict(self._reloader.snapshot_files())


class Reload:
    """The steps from a change to a fresh start; the supervisor's loop takes them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.watch = CodeWatch()
        self.watch.start()
        self.is_under_way = False
        self._kill_at = float("inf")
        self._check: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None

    def begins(self, now: float, children: Children) -> bool:
        """Say whether it begins now: then children have been asked to end."""
        file = self.watch.changed
        if file is None or self.is_under_way:
            return False
        self.is_under_way = True
        self._kill_at = now + _GRACE
        worker_log.info("%s has changed: starting anew.", _short(file))
        children.stop()
        return True

    def is_done(self, now: float, children: Children, *, settled: bool) -> bool:
        """Go on with what is under way; True when it is time to call `start_anew`.

        `settled`: nothing is left to write down of what children held.
        """
        if not children.are_gone:
            children.stop()  # a child that was being forked, too
            if now >= self._kill_at:
                children.kill()
            return False
        self._kill_at = float("inf")
        if children.nursery is not None:
            children.close_nursery()
        return settled and self._is_sound()

    def wake_at(self, now: float) -> float:
        """Return when to go on at the latest."""
        if self._check is not None:
            return now + _CHECK
        return max(now, self._kill_at)

    def close(self) -> None:
        """Give up whatever is under way."""
        if self._check is not None:
            self._check.kill()
            self._check.wait()
        self.watch.close()

    def _is_sound(self) -> bool:
        """Try the project in a process of its own; an error waits for the next change."""
        if self._check is None:
            if self.watch.changed is not None:
                self.watch.changed = None
                self._said = tempfile.TemporaryFile()  # noqa: SIM115 (read when the check has ended)
                self._check = _start_check(self._said)
            return False
        code = self._check.poll()
        if code is None:
            return False
        self._check = None
        if self.watch.changed is not None:
            return False  # there is something newer to try
        if code:
            self._tell_what_is_wrong()
        return not code

    def _tell_what_is_wrong(self) -> None:
        assert self._said is not None
        self._said.seek(0)
        text = self._said.read().decode(errors="replace").strip()
        self._said.close()
        self.watch.watch_too(re.findall(r'^ *File "(.+?)", line', text, re.MULTILINE))
        self.say(f"{text}\nThe worker waits until that is put right.")


def start_anew() -> None:
    """Become a fresh process with the same id; signals that come meanwhile wait for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [str(word) for word in autoreload.get_child_arguments()])


def hold_signals() -> None:
    """Have signals wait."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def try_project() -> None:
    """Load the project as a worker does, and check it; end with 1 and say why if it is broken.

    `manage.py check` alone would pass over a tasks.py that cannot be imported: web processes live
    with one.
    """
    from django.core.management import call_command
    from django.core.management.base import SystemCheckError

    try:
        load_project()
        call_command("check")
    except SystemCheckError as error:
        sys.exit(str(error))


def _start_check(output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Try the project in a process of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "DJANGO_SETTINGS_MODULE": settings.SETTINGS_MODULE,
    }
    return subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-c",
            "from django_taskq.worker.reload import try_project; try_project()",
        ],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
    )


def _short(file: Path) -> str:
    try:
        return one_line(str(file.relative_to(Path.cwd())))
    except ValueError:
        return one_line(str(file))
