"""The whole worker in one process: tasks run in its main thread, the supervisor in a second one.

For debuggers: a task may set a breakpoint and talk to the terminal. The supervisor believes that it
has a nursery with one child; this is the nursery, and the main thread is the child.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from django_taskq import db
from django_taskq.worker.fork import read_lines

if TYPE_CHECKING:
    from django_taskq.worker.children import Children
    from django_taskq.worker.options import WorkerOptions
    from django_taskq.worker.supervisor import Supervisor


class SoloNursery:
    """What the supervisor takes for a nursery."""

    def __init__(self) -> None:
        self.socket, self._theirs = socket.socketpair()
        # Nothing is forked, and so nothing is shared.
        self.shared: list[str] = []
        # Set when the supervisor gave the main thread up: it is in a task that does not end.
        self.is_abandoned = False
        self._orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._main = threading.main_thread().ident
        self._buffer = b""

    # --- the supervisor's thread -----------------------------------------------------------------

    def wait_until_ready(self, stop: Any, meanwhile: Callable[[], None]) -> list[str] | None:
        """Return at once: the project is loaded, and its threads run."""
        return []

    def fork(self, order: dict[str, Any]) -> None:
        """Have the main thread run tasks."""
        self._orders.put(order)

    def messages(self) -> Iterator[dict[str, Any]]:
        """Read what the main thread says."""
        lines, self._buffer = read_lines(self.socket, self._buffer)
        yield from lines

    def kill(self, pid: int) -> None:
        """Give the main thread up: nothing can end its task but the end of the process."""
        self.is_abandoned = True
        self._say(died=pid, slot=0, status=None)

    def may_be_killed(self) -> bool:
        """Say whether time limits count: not while a debugger follows the task."""
        frame = sys._current_frames().get(self._main or 0)
        while frame is not None:
            if frame.f_trace is not None:
                return False
            frame = frame.f_back
        return True

    def close(self) -> None:
        """Let the main thread go when it has ended its task."""
        self._orders.put(None)

    # --- the main thread -------------------------------------------------------------------------

    def serve(self, options: WorkerOptions, children: Children) -> None:
        """Run tasks whenever the supervisor wants, until it has ended."""
        from django_taskq.worker.child import run_tasks

        while (order := self._orders.get()) is not None:
            self._say(started=os.getpid(), slot=order["slot"])
            status = 0
            try:
                run_tasks(options, children.memory, order)
            except BaseException:
                traceback.print_exc()
                status = 1
            self._say(died=os.getpid(), slot=order["slot"], status=status)

    def _say(self, **message: Any) -> None:
        self._theirs.sendall(json.dumps(message).encode() + b"\n")


def run_solo(options: WorkerOptions, say: Callable[[str], None]) -> int:
    """Run a worker in this process, tasks in this thread; return its exit code."""
    from django_taskq.worker.supervisor import Supervisor

    nursery = SoloNursery()
    supervisor = Supervisor(options, say, nursery)
    supervisor.signals.install()
    db.switch_pools_off()
    codes: list[int] = []
    thread = threading.Thread(
        target=_supervise, args=[supervisor, nursery, codes], name="taskq-supervisor", daemon=True
    )
    thread.start()
    nursery.serve(options, supervisor.children)
    thread.join()
    supervisor.signals.restore()
    return codes[0]


def _supervise(supervisor: Supervisor, nursery: SoloNursery, codes: list[int]) -> None:
    code = 1
    try:
        code = supervisor.run()
    except BaseException:
        traceback.print_exc()
        nursery.is_abandoned = True
    finally:
        codes.append(code)
        nursery.close()
    if nursery.is_abandoned:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
