"""Tasks whose arguments tell them how to behave. Real workers run them, tests watch.

A *ledger* is a file to which each start appends a line: what a row cannot tell, it can (how often
a task has started, when, and in which process). A *gate* is a file for which a task waits.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.utils import timezone, translation

from django_taskq import Cancel, Retry, Snooze, TaskContext, task
from django_taskq.exceptions import SoftTimeLimit
from django_taskq.ids import new_id
from django_taskq.worker.user_connections import UserConnections
from tests.support import nasty

# The longest that a task waits for its gate: a test that fails leaves nothing behind for long.
PATIENCE = 60.0

_whoever = contextvars.ContextVar("whoever", default="nobody")


def write(ledger: str, tag: str) -> None:
    """Append who runs what when; one write, so that lines of several processes do not mix."""
    line = f"{tag} {os.getpid()} {time.monotonic():.6f}\n"
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def pass_gate(gate: str) -> None:
    """Return when the gate is open."""
    deadline = time.monotonic() + PATIENCE
    while not Path(gate).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(gate)
        time.sleep(0.005)


@task
def add(a: int, b: int) -> int:
    """Return a sum."""
    return a + b


@task(aliases=["tests.processes.old_tasks.moved"])
def moved() -> str:
    """Say that the new function ran; it had another name once."""
    return "new"


@task
def say_language() -> str | None:
    """Return the language in which this runs."""
    return translation.get_language()


@task
async def ask_language() -> list[str | None]:
    """Return the language here and, by id, what a task enqueued from here will say."""
    result = await say_language.aenqueue()
    return [translation.get_language(), result.id]


@task
def note(ledger: str, tag: str, seconds: float = 0.0, gate: str | None = None) -> int:
    """Write into the ledger, take some time, and return the process id."""
    write(ledger, tag)
    if seconds:
        time.sleep(seconds)
    if gate is not None:
        pass_gate(gate)
    return os.getpid()


@task
def hold_the_gil(ledger: str, tag: str, seconds: int) -> None:
    """Stay in C code that does not let other threads run, as some extension modules do."""
    write(ledger, tag)
    ctypes.PyDLL(None).sleep(seconds)


_hoard: list[bytes] = []


@task
def hoard(ledger: str, tag: str, megabytes: int) -> int:
    """Take memory and keep it; return the process id."""
    write(ledger, tag)
    _hoard.append(os.urandom(1024) * (1024 * megabytes))
    return os.getpid()


@task
def fail(message: str) -> None:
    """Raise a ValueError."""
    raise ValueError(message)


@task(takes_context=True, max_attempts=3, backoff=(0.3, 0.6))
def fail_until(context: TaskContext, ledger: str, attempt: int) -> int:
    """Fail until this attempt; waits 0.3 s before the second, 0.6 s before the third."""
    write(ledger, str(context.attempt))
    if context.attempt < attempt:
        raise ConnectionError(f"attempt {context.attempt}")
    return context.attempt


@task(max_attempts=2, backoff=30)
def ask_for_retry(ledger: str, delay: float) -> None:
    """Raise Retry with a delay of its own."""
    write(ledger, "started")
    raise Retry("not yet", delay=delay)


@task(takes_context=True)
def snooze_until(context: TaskContext, gate: str) -> int:
    """Snooze until the gate is open; return the number of the attempt."""
    if not Path(gate).exists():
        raise Snooze(0.1)
    return context.attempt


@task(max_attempts=5)
def cancel_itself(reason: str) -> None:
    """Raise Cancel."""
    raise Cancel(reason)


@task
def raise_as(kind: str) -> None:
    """Raise what is no Exception: it must not end the process."""
    raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[kind]("by the task")


@task
def raise_nasty(kind: str) -> None:
    """Raise an error that does harm to whoever looks at it."""
    nasty.RAISERS[kind]()


@task
async def raise_nasty_async(kind: str) -> None:
    """Do so as a coroutine."""
    nasty.RAISERS[kind]()


@task
def unstorable() -> object:
    """Return what JSON cannot hold."""
    return object()


@task
def unstorable_text() -> str:
    """Return JSON that PostgreSQL cannot hold."""
    return "a\x00b"


@task(takes_context=True)
def report(context: TaskContext, gate: str) -> str:
    """Report progress, then wait."""
    context.progress(1, 4, "a quarter")
    pass_gate(gate)
    context.progress(4, 4, "all")
    return "done"


@task(soft_timeout=0.3)
def tidy_up_when_late(ledger: str) -> str:
    """Run too long, notice, and end by itself."""
    try:
        time.sleep(PATIENCE)
    except SoftTimeLimit:
        write(ledger, "tidied")
        return "late"
    return "in time"


@task(soft_timeout=0.3)
def run_past_the_soft_limit() -> None:
    """Run too long and do not notice."""
    time.sleep(PATIENCE)


@task(timeout=1.0)
def run_past_the_hard_limit(ledger: str) -> None:
    """Start a program, write its process id down, and hang together with it."""
    program = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({PATIENCE})"])
    write(ledger, f"program:{program.pid}")
    program.wait()


@task(timeout=0.5, max_attempts=2, backoff=0)
def hang_once(ledger: str) -> str:
    """Hang in C code at the first attempt."""
    first = not Path(ledger).exists()
    write(ledger, "started")
    if first:
        ctypes.PyDLL(None).sleep(int(PATIENCE))
    return "second time"


@task
def start_and_terminate() -> int:
    """Start a program and stop it by SIGTERM, as tasks do; return its exit code."""
    program = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({PATIENCE})"])
    program.terminate()
    try:
        return program.wait(5)
    finally:
        program.kill()
        program.wait()


@task
def die(ledger: str, tag: str = "died", times: int = 99, code: int | None = None) -> str:
    """Kill the process (or exit it with a code) the first so many times."""
    write(ledger, tag)
    if Path(ledger).read_text().count(f"{tag} ") > times:
        return "survived"
    if code is not None:
        os._exit(code)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(PATIENCE)
    raise AssertionError("still alive")


@task(takes_context=True)
def work_until_stopped(context: TaskContext, ledger: str) -> str:
    """Work until the worker is asked to stop, and put the work down."""
    write(ledger, "started")
    deadline = time.monotonic() + PATIENCE
    while not context.is_stopping:
        if time.monotonic() > deadline:
            return "never asked"
        time.sleep(0.01)
    return "asked to stop"


@task
def enqueue_more(ledger: str, depth: int) -> None:
    """Enqueue itself until the depth is used up."""
    write(ledger, f"depth:{depth}")
    if depth:
        enqueue_more.enqueue(ledger, depth - 1)


@task
def enqueue_and_fail(ledger: str) -> None:
    """Enqueue in a transaction that is rolled back by an error."""
    with transaction.atomic():
        note.enqueue(ledger, "never")
        raise ValueError("rolled back")


@task
def write_group(name: str) -> int:
    """Write with the ORM; return the backend of the connection."""
    with transaction.atomic():
        Group.objects.create(name=name)
    return backend()


def backend() -> int:
    """Return the process id of the server's side of this connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


@task
def leave_things_behind(name: str) -> int:
    """Change everything that a task can change around it and tidy nothing up."""
    translation.activate("de")
    timezone.activate("Asia/Kathmandu")
    _whoever.set("somebody")
    transaction.set_autocommit(False)
    Group.objects.create(name=name)
    return os.getpid()


@task
def leave_an_atomic_block_open(name: str) -> int:
    """Enter a transaction and never leave it."""
    transaction.atomic().__enter__()
    Group.objects.create(name=name)
    return os.getpid()


@task
def break_the_connection() -> None:
    """Lose the connection in the middle of a transaction and swallow the error."""
    with connection.cursor() as cursor:
        try:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        except Exception:
            return
    raise AssertionError("the connection is still there")


@task
def look_around() -> dict[str, Any]:
    """Return what of earlier tasks can be seen."""
    groups = list(Group.objects.order_by("name").values_list("name", flat=True))
    return {
        "pid": os.getpid(),
        "language": translation.get_language(),
        "timezone": timezone.get_current_timezone_name(),
        "whoever": _whoever.get(),
        "autocommit": connection.get_autocommit(),
        "in_atomic_block": connection.in_atomic_block,
        "groups": groups,
    }


# --- coroutines ----------------------------------------------------------------------------------


async def pass_gate_async(gate: str) -> None:
    """Return when the gate is open, and let others run meanwhile."""
    deadline = time.monotonic() + PATIENCE
    while not Path(gate).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(gate)
        await asyncio.sleep(0.005)


@task
async def note_async(ledger: str, tag: str, gate: str | None = None) -> int:
    """Do what `note` does, as a coroutine."""
    write(ledger, tag)
    if gate is not None:
        await pass_gate_async(gate)
    return os.getpid()


@task(soft_timeout=0.3)
async def tidy_up_when_late_async(ledger: str) -> str:
    """Wait too long, notice, and end by itself."""
    try:
        await asyncio.sleep(PATIENCE)
    except asyncio.CancelledError:
        write(ledger, "tidied")
        raise
    return "in time"


@task(timeout=0.5)
async def run_past_the_hard_limit_async(ledger: str) -> None:
    """Wait too long."""
    write(ledger, "started")
    try:
        await asyncio.sleep(PATIENCE)
    finally:
        write(ledger, "ended")


@task(timeout=0.5)
async def block_the_loop(ledger: str) -> None:
    """Wait in a way that lets no other coroutine run."""
    write(ledger, "blocks")
    time.sleep(PATIENCE)


@task(soft_timeout=0.3)
def spin_until_late(ledger: str) -> str:
    """Run Python code for too long, notice, and end by itself."""
    try:
        pass_gate(ledger + "-never")
    except SoftTimeLimit:
        return "late"
    return "in time"


@task(timeout=0.5)
def wait_past_the_hard_limit(ledger: str, gate: str) -> str:
    """Run too long, and end when nobody waits any more."""
    write(ledger, "late")
    pass_gate(gate)
    write(ledger, "too-late")
    return "too late"


@task
async def use_one_connection(ledger: str, tag: str, gate: str) -> list[int]:
    """Ask twice for the server's side of the connection, while others do, too."""
    first = await sync_to_async(backend)()
    write(ledger, tag)
    await pass_gate_async(gate)
    await Group.objects.acreate(name=tag)
    return [first, await sync_to_async(backend)()]


@task
async def leave_a_transaction_open(name: str) -> None:
    """Enter a transaction in the task's thread and never leave it."""

    def leave() -> None:
        transaction.atomic().__enter__()
        Group.objects.create(name=name)
        translation.activate("de")

    await sync_to_async(leave)()


@task
async def look_around_async() -> dict[str, Any]:
    """Do what `look_around` does, as a coroutine."""
    return await sync_to_async(look_around.func)()


@task(atomic=True)
def write_and_enqueue(ledger: str, name: str) -> str:
    """Write a row and enqueue a task, in the transaction that stores the result."""
    Group.objects.create(name=name)
    note.enqueue(ledger, name)
    return name


@task(atomic=True)
def wander_off(name: str) -> str:
    """Write a row, and then look for tables where there are none."""
    Group.objects.create(name=name)
    with connection.cursor() as cursor:
        cursor.execute("SET search_path = pg_catalog")
    return name


@task(atomic=True)
def die_before_commit(ledger: str, name: str) -> str:
    """Kill the process between its completion and COMMIT, the first time."""
    write(ledger, "started")
    Group.objects.create(name=name)
    note.enqueue(ledger, name)
    if Path(ledger).read_text().count("started ") == 1:
        connection._commit = lambda: os.kill(os.getpid(), signal.SIGKILL)
    return name


@task(atomic=True)
def lose_the_answer(ledger: str, name: str, *, commits: bool) -> str:
    """Have the connection cut off in the middle of COMMIT, before or after it took place."""
    write(ledger, "started")
    Group.objects.create(name=name)
    raw = connection.connection

    def commit() -> None:
        del connection._commit
        if commits:
            raw.commit()
        raw.close()
        connection.connection.commit()

    if Path(ledger).read_text().count("started ") == 1:
        connection._commit = commit
    return name


@task(takes_context=True, max_attempts=3, backoff=600)
def work_until_cancelled(context: TaskContext, ledger: str, then: str) -> str:
    """Work until somebody asks it to end, note when it was seen, and go on as told."""
    write(ledger, "started")
    deadline = time.monotonic() + PATIENCE
    while not context.is_cancelled:
        if time.monotonic() > deadline:
            return "never asked"
        time.sleep(0.01)
    write(ledger, "seen")
    match then:
        case "cancel":
            raise Cancel("put down")
        case "fail":
            raise ValueError("secret")
        case "snooze":
            raise Snooze(600)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
    return "done all the same"


@task(takes_context=True)
async def wait_until_cancelled(context: TaskContext, ledger: str) -> None:
    """Wait as a coroutine until somebody asks it to end."""
    write(ledger, "started")
    deadline = time.monotonic() + PATIENCE
    while not context.is_cancelled and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    write(ledger, "seen")
    raise Cancel("put down")


@task(at_most_once=True)
def note_once(ledger: str, tag: str, gate: str | None = None) -> int:
    """Do what `note` does, and never twice."""
    write(ledger, tag)
    if gate is not None:
        pass_gate(gate)
    return os.getpid()


@task(at_most_once=True)
def die_once(ledger: str) -> None:
    """Kill the process."""
    write(ledger, "started")
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(PATIENCE)


@task(at_most_once=True, timeout=0.5)
def hang_only_once(ledger: str) -> None:
    """Hang in C code."""
    write(ledger, "started")
    ctypes.PyDLL(None).sleep(int(PATIENCE))


@task
def break_the_pool(ledger: str) -> None:
    """Have the worker itself fail behind this task, at the first attempt."""
    write(ledger, "broken")
    if Path(ledger).read_text().count("broken ") == 1:

        def fail_to_clean(self: UserConnections, **how: bool) -> None:
            raise RuntimeError("an error of the worker's own")

        UserConnections.clean = fail_to_clean  # type: ignore[method-assign]


@task
def die_beside_a_program(ledger: str) -> str:
    """Start a program, write its process id down, and kill this process: once."""
    if Path(ledger).exists():
        write(ledger, "again")
        return "survived"
    program = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({PATIENCE})"])
    write(ledger, f"program:{program.pid}")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


@task
def roll_dice() -> list[Any]:
    """Return this process, what a fork might share with another one, and its connection."""
    numbers = [random.random(), secrets.token_hex(8), str(uuid.uuid4()), str(uuid.uuid1())]
    name = tempfile.mktemp()  # a name, no file
    return [os.getpid(), backend(), *numbers, name, new_id()]


@task
def tell_signals() -> dict[str, str]:
    """Return what this process does about each signal that has a handler in Python."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    return {
        signal.Signals(number).name: getattr(handler, "__qualname__", repr(handler))
        for number, handler in handlers.items()
        if callable(handler) and not isinstance(handler, signal.Handlers)
    }
