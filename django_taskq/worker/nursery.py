"""A fork server: loads the project once, forks children, waits for them, reports each death.

Single-threaded, started by the supervisor's main thread. Children start in a millisecond and share
the memory of all that was loaded. It talks JSON lines over a socket: it says `ready` or `failed`
once, then `started` and `died`; it is told `fork`. When the socket ends, so does everything.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
from typing import Any

# Passed by the supervisor: its settings of DATABASES (a test database's name, say) may differ from
# what the settings module says.
DATABASE_NAMES = "DJANGO_TASKQ_DATABASE_NAMES"

# Whether the kernel kills a process with its parent; elsewhere the end of a pipe tells it.
KERNEL_KILLS = sys.platform == "linux"

# The exit code of a child that could not load the project (it was not preloaded).
EXIT_NOT_LOADED = 78


def main(fd: int, parent: int, preload: int) -> None:
    """Run the nursery of the supervisor with process id `parent`."""
    die_with(parent)
    leave_stopping_to_the_supervisor()
    supervisor = socket.socket(fileno=fd)
    try:
        threads = load_project() if preload else []
    except BaseException:
        _say(supervisor, failed=traceback.format_exc())
        return
    _say(supervisor, ready=os.getpid(), threads=threads, shared=open_connections())
    _Nursery(supervisor, is_loaded=bool(preload)).run()


def load_project() -> list[str]:
    """Load settings, apps and tasks; leave no connection open. Return the names of threads."""
    import django
    from django.conf import settings

    names = json.loads(os.environ.get(DATABASE_NAMES, "{}"))
    for alias, name in names.items():
        if alias in settings.DATABASES:
            settings.DATABASES[alias]["NAME"] = name
    django.setup()

    from django_taskq import db, registry

    failures = [f for f in registry.discover() if not f.is_foreign]
    if failures:
        raise ImportError("\n".join(f"{f.module} ({f.app}):\n{f.traceback}" for f in failures))
    # Imported here once instead of in every child.
    import django_taskq.worker.child  # noqa: F401

    db.switch_pools_off()
    db.close_everything()
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, every page of it
    return [t.name for t in threading.enumerate() if t is not threading.main_thread()]


def open_connections() -> list[str]:
    """Return to where this process holds connections: its children would speak on the same ones."""
    found = []
    for name in os.listdir("/dev/fd"):
        try:
            end = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # no socket; or the one that the directory was listed through
            continue
        with end:
            if end.type == socket.SOCK_STREAM:
                with contextlib.suppress(OSError):  # it is not connected
                    # One without a name is of a pair of our own.
                    found += [str(peer) for peer in [end.getpeername()] if peer]
    return found


def leave_stopping_to_the_supervisor() -> None:
    """Do nothing on Ctrl+C, which reaches the whole group of the terminal, nor on SIGTERM.

    By a handler: what is ignored would be ignored by every program that a task starts, too.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)


def die_with(parent: int) -> None:
    """Have this process killed when its parent dies (Linux; elsewhere see `_end_with`)."""
    if KERNEL_KILLS:
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class _Nursery:
    def __init__(self, supervisor: socket.socket, *, is_loaded: bool) -> None:
        self.supervisor = supervisor
        # Else each child loads the project.
        self.is_loaded = is_loaded
        self.children: dict[int, int] = {}  # pid -> slot
        # SIGCHLD wakes the select below.
        self.wake_read, wake_write = socket.socketpair()
        for end in (self.wake_read, wake_write):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        self.wake_write = wake_write
        # Children hold the read end: where the kernel does not kill them, its end of file does.
        self.lifeline = os.pipe()
        self.buffer = b""

    def run(self) -> None:
        """Fork when told, report deaths, until the supervisor is gone."""
        while True:
            readable, _, _ = select.select([self.supervisor, self.wake_read], [], [])
            if self.wake_read in readable:
                _drain(self.wake_read)
                self.reap()
            if self.supervisor in readable and not self.obey():
                self.end()
                return

    def obey(self) -> bool:
        """Read orders; False when the supervisor is gone."""
        try:
            received = self.supervisor.recv(65536)
        except ConnectionError:
            return False
        if not received:
            return False
        *lines, self.buffer = (self.buffer + received).split(b"\n")
        for line in lines:
            self.fork(json.loads(line)["fork"])
        return True

    def fork(self, order: dict[str, Any]) -> None:
        nursery = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self.become_child(nursery, order)
        self.children[pid] = order["slot"]
        _say(self.supervisor, started=pid, slot=order["slot"])

    def become_child(self, nursery: int, order: dict[str, Any]) -> None:
        """Run a child in this freshly forked process, and end it."""
        code = 1
        try:
            die_with(nursery)
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.supervisor.close()
            self.wake_read.close()
            self.wake_write.close()
            os.close(self.lifeline[1])
            if not KERNEL_KILLS:
                # The orders come from the supervisor: a nursery that is suspended is no guardian.
                pipes = [self.lifeline[0], order["orders"]]
                threading.Thread(target=_end_with, args=pipes, daemon=True).start()
            if not self.is_loaded:
                _load_in_child()
            from django_taskq.worker.child import run_child

            code = run_child(order)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def reap(self) -> None:
        for pid in list(self.children):
            reaped, status = os.waitpid(pid, os.WNOHANG)
            if reaped:
                slot = self.children.pop(pid)
                code = os.waitstatus_to_exitcode(status)
                _say(self.supervisor, died=pid, slot=slot, status=code)

    def end(self) -> None:
        for pid in self.children:
            kill_group(pid)


def kill_group(pid: int) -> None:
    """Kill a child and whatever its task has started."""
    for kill in (os.killpg, os.kill):  # the group may not exist yet in a child just forked
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of the dead
            continue


def kill_rest(pid: int) -> None:
    """Kill what the task of a child has started that has died; the number itself may be reused."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _load_in_child() -> None:
    """Load the project in a child; if that fails, say why and end."""
    try:
        load_project()
    except BaseException:
        sys.stderr.write(f"The project could not be loaded:\n{traceback.format_exc()}")
        sys.stderr.flush()
        os._exit(EXIT_NOT_LOADED)


def _end_with(*pipes: int) -> None:
    """End this child, and what its task has started, when one of these pipes has no writer left."""
    poll = select.poll()
    for pipe in pipes:
        poll.register(pipe, 0)  # no data, the hang-up alone
    poll.poll()
    os.killpg(0, signal.SIGKILL)


def _say(supervisor: socket.socket, **message: Any) -> None:
    try:
        supervisor.sendall(json.dumps(message).encode() + b"\n")
    except (BrokenPipeError, ConnectionError):
        os._exit(1)


def _drain(end: socket.socket) -> None:
    try:
        while end.recv(4096):
            pass
    except BlockingIOError:
        pass


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
