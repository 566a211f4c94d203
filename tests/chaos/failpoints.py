"""Places in the worker at which a process dies, loses its connections or is suspended.

`CHAOS_FAILPOINT="before_claim:kill"` makes the processes of a worker die there. Each process does
it at a pass of its own (the second to the twelfth, by chance), and all of them together as often as
there are permits in the directory `CHAOS_PERMITS`: files, taken by removing them. Patched in from
outside; the product knows nothing of it.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakSet

from django_taskq import db
from django_taskq.transitions import claim, presence, rescue
from django_taskq.worker import (
    child,
    claims,
    executor,
    feeder,
    hand,
    lanes,
    store,
    supervisor,
)
from tests.chaos import actors

FAILPOINT, PERMITS = "CHAOS_FAILPOINT", "CHAOS_PERMITS"
# Seconds between the moment at which a supervisor finds another one silent and its judgement.
SLOW_JUDGE = "CHAOS_SLOW_JUDGE"
# Every claim counts as slow, so that claims begin at floors, as behind a long transaction.
SLOW_CLAIMS = "CHAOS_SLOW_CLAIMS"
# Of this process: what a cut breaks.
_connections: WeakSet[Any] = WeakSet()
_lock = threading.Lock()
_passes = 0
# At which pass it is done, and between which passes that is chosen: a process that has just come up
# gets some work done first.
_chosen = 0
_range = (2, 12)


def install() -> None:
    """Patch the places that the environment names, if it names some."""
    if SLOW_JUDGE in os.environ:
        _slow_down_judgements(float(os.environ[SLOW_JUDGE]))
    if SLOW_CLAIMS in os.environ:
        lanes._SLOW = -1.0
    wanted = os.environ.get(FAILPOINT)
    if not wanted:
        return
    global _range
    place, _, action = wanted.partition(":")
    if place in (*ONCE_IN_A_PROCESS, *AT_A_STOP, *AT_A_LOSS):
        _range = (1, 1)  # there will hardly be another
    _know_connections()
    _PLACES[place](lambda *held: _pass(action, *held))


def _slow_down_judgements(seconds: float) -> None:
    declare_dead = presence.declare_dead

    def patched(*args: Any) -> Any:
        actors.say("judges")
        threading.Event().wait(seconds)
        return declare_dead(*args)

    presence.declare_dead = patched  # type: ignore[assignment]


# --- what happens ---------------------------------------------------------------------------------


def _pass(action: str, *held: Any) -> None:
    """Count a pass; at the chosen one, if there is a permit, do what is to be done."""
    global _passes, _chosen
    with _lock:
        _chosen = _chosen or random.randint(*_range)
        _passes += 1
        if _passes < _chosen or not _take_permit():
            return
        _passes, _chosen = 0, 0
    _ACTIONS[action](*held)


def _take_permit() -> bool:
    for permit in Path(os.environ[PERMITS]).iterdir():
        try:
            permit.unlink()
        except FileNotFoundError:
            continue
        return True
    return False


def _kill(*held: Any) -> None:
    _send_all(held)
    actors.say("death", "failpoint")
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()


def _exit(*held: Any) -> None:
    _send_all(held)
    actors.say("death", "failpoint")
    os._exit(3)


def _cut(*held: Any) -> None:
    """Break every connection of the worker in this process."""
    _send_all(held)
    actors.say("cut")
    for connection in list(_connections):
        if not connection.closed:
            _break(connection)


def _stop(*held: Any) -> None:
    """Suspend the process; the rig wakes it up."""
    actors.say("stop", str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)


_ACTIONS: dict[str, Callable[..., None]] = {
    "kill": _kill,
    "exit": _exit,
    "cut": _cut,
    "stop": _stop,
}


def _send_all(held: tuple[Any, ...]) -> None:
    """Have the server do what is in a pipeline, commit it, and answer: nobody will hear it."""
    for connection in held:
        connection.pgconn.pipeline_sync()
        while connection.pgconn.flush():
            pass
        threading.Event().wait(0.1)


def _break(connection: Any) -> None:
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def _know_connections() -> None:
    connect = db.worker_connection

    def noted(*args: Any, **kwargs: Any) -> db.Connection:
        connection = connect(*args, **kwargs)
        _connections.add(connection)
        return connection

    db.worker_connection = noted


# --- where ----------------------------------------------------------------------------------------

Hit = Callable[..., None]


def _before(owner: Any, name: str, hit: Hit, when: Callable[..., bool] | None = None) -> None:
    """Have `hit` called before a function, if `when` says so of its arguments."""
    function = getattr(owner, name)

    def patched(*args: Any, **kwargs: Any) -> Any:
        if when is None or when(*args, **kwargs):
            hit()
        return function(*args, **kwargs)

    setattr(owner, name, patched)


def _after(owner: Any, name: str, hit: Hit, when: Callable[..., bool] | None = None) -> None:
    """Have `hit` called after a function has returned."""
    function = getattr(owner, name)

    def patched(*args: Any, **kwargs: Any) -> Any:
        value = function(*args, **kwargs)
        if when is None or when(*args, **kwargs):
            hit()
        return value

    setattr(owner, name, patched)


def _before_claim(hit: Hit) -> None:
    """A claim is about to be sent."""
    for name in ("claim", "claim_woken"):
        _before(claim, name, hit)


def _after_claim(hit: Hit) -> None:
    """A claim has committed, and its rows are not handed over yet."""
    _before(claims.Claims, "_hand_over", hit, lambda *args: args[-1].cursor.rowcount > 0)


def _before_user_code(hit: Hit) -> None:
    """A task is counted as started, and its function is not called yet."""
    _before(executor.Executor, "execute", hit)


def _after_user_code(hit: Hit) -> None:
    """A function has returned, and its outcome is not handed over yet."""
    _after(executor.Executor, "execute", hit)


def _before_complete(hit: Hit) -> None:
    """Outcomes are about to be sent."""
    _before(store, "send", hit, lambda connection, outcomes: bool(outcomes))


def _complete_sent(hit: Hit) -> None:
    """Outcomes were sent; whether they committed nobody hears."""
    send = store.send

    def patched(connection: Any, outcomes: Any) -> Any:
        cursors = send(connection, outcomes)
        if outcomes:
            hit(connection)
        return cursors

    store.send = patched


def _after_complete(hit: Hit) -> None:
    """Outcomes have committed, and the feeder has not taken note yet."""
    _before(hand.Hand, "stored", hit, lambda self, *args: bool(self.unsent))


def _before_give_back(hit: Hit) -> None:
    """Tasks are about to be given back."""
    _before(rescue, "give_back", hit)


def _in_rescue(hit: Hit) -> None:
    """A dead child's tasks were rescued, and its row is still there."""
    _after(rescue, "rescue", hit)


def _child_start(hit: Hit) -> None:
    """A child is known to the database and has not begun."""
    _before(child, "pool_class", hit)


def _fork(hit: Hit) -> None:
    """A supervisor has made a child known and has not forked it."""
    _after(presence, "arrive", hit, lambda connection, *, kind, **rest: kind == "CHILD")


def _tick(hit: Hit) -> None:
    """A supervisor is about to look for work."""
    _before(claim, "tick", hit)


def _beat(hit: Hit) -> None:
    """A supervisor has beaten."""
    _after(supervisor.Supervisor, "_beat", hit)


def _after_declare(hit: Hit) -> None:
    """A supervisor has taken another worker off the list, and not looked at its tasks."""
    _after(presence, "declare_dead", hit)


def _before_sweep(hit: Hit) -> None:
    """A supervisor is about to take back what a lost process held."""
    _before(rescue, "sweep", hit)


def _drain(hit: Hit) -> None:
    """A child that was asked to stop puts down what has not started."""
    _before(feeder.Feeder, "_put_down", hit)


_PLACES: dict[str, Callable[[Hit], None]] = {
    "before_claim": _before_claim,
    "after_claim": _after_claim,
    "before_user_code": _before_user_code,
    "after_user_code": _after_user_code,
    "before_complete": _before_complete,
    "complete_sent": _complete_sent,
    "after_complete": _after_complete,
    "before_give_back": _before_give_back,
    "in_rescue": _in_rescue,
    "child_start": _child_start,
    "fork": _fork,
    "tick": _tick,
    "beat": _beat,
    "after_declare": _after_declare,
    "before_sweep": _before_sweep,
    "drain": _drain,
}

# Those whose process is a child, which its supervisor replaces; the others end a worker.
IN_CHILDREN = (
    "before_claim",
    "after_claim",
    "before_user_code",
    "after_user_code",
    "before_complete",
    "complete_sent",
    "after_complete",
    "child_start",
)
# These need a worker that is lost.
AT_A_LOSS = ("after_declare", "before_sweep")
IN_SUPERVISORS = ("in_rescue", "fork", "tick", "beat", *AT_A_LOSS)
AT_A_STOP = ("drain", "before_give_back")
ONCE_IN_A_PROCESS = ("child_start",)
ALL = (*IN_CHILDREN, *IN_SUPERVISORS, *AT_A_STOP)
ACTIONS = ("kill", "exit", "cut", "stop")
