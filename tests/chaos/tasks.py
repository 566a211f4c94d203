"""Tasks that write a ledger: when they begin, end or raise, in which process, under which claim."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django_taskq import TaskContext, task
from tests.chaos import actors
from tests.chaos.evidence import END, RAISED, START

# Longer than any run waits for it.
_LONG = 60.0


@contextmanager
def noted(context: TaskContext, *, says_end: bool = True) -> Iterator[dict[str, Any]]:
    """Note in the ledger that a task runs; yield what it is to return."""
    id, attempt = context.task_result.id, context.attempt
    actors.note(id, attempt, START)
    try:
        yield {"claim": actors.claims[id]}
    except Exception:
        actors.note(id, attempt, RAISED)
        raise
    if says_end:
        actors.note(id, attempt, END)


@task(takes_context=True)
def work(context: TaskContext, seconds: float = 0.0, says_end: bool = True) -> dict[str, Any]:
    """Take some time. Without `says_end` nothing is written when it is over."""
    with noted(context, says_end=says_end) as value:
        if seconds:
            time.sleep(seconds)
    return value


@task(takes_context=True, max_attempts=3, backoff=0)
def fail_first(context: TaskContext, seconds: float = 0.0) -> dict[str, Any]:
    """Raise in the first attempt and succeed in the second."""
    with noted(context) as value:
        time.sleep(seconds)
        if context.attempt == 1:
            raise ConnectionError("the first attempt fails")
    return value


@task(takes_context=True, atomic=True)
def work_atomically(context: TaskContext, seconds: float = 0.0) -> dict[str, Any]:
    """Take some time in a transaction that completes the task too."""
    with noted(context) as value:
        time.sleep(seconds)
    return value


@task(takes_context=True, at_most_once=True)
def work_once(context: TaskContext, seconds: float = 0.0) -> dict[str, Any]:
    """Take some time, and never twice."""
    with noted(context) as value:
        time.sleep(seconds)
    return value


# --- poison ---------------------------------------------------------------------------------------


def _kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(_LONG)


def _segfault() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def _overflow_the_stack() -> None:
    """Recurse in C until the stack is used up."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    numbers = (ctypes.c_int * 2)(1, 0)
    sort = ctypes.CDLL(None).qsort
    sys.setrecursionlimit(10**9)

    def compare(left: int, right: int) -> int:
        sort(numbers, 2, 4, callback)
        return 0

    callback = callback_type(compare)
    compare(0, 0)


KILLERS: dict[str, Callable[[], None]] = {
    "SIGKILL": _kill_itself,
    "exit": lambda: os._exit(1),
    "exit 0": lambda: os._exit(0),
    "segfault": _segfault,
    "stack": _overflow_the_stack,
}


@task(takes_context=True)
def poison(context: TaskContext, how: str) -> None:
    """Kill the process that runs this."""
    actors.note(context.task_result.id, context.attempt, START)
    actors.say("death", how)
    KILLERS[how]()
    time.sleep(_LONG)


@task(takes_context=True, at_most_once=True)
def poison_once(context: TaskContext) -> None:
    """Kill the process that runs this; it never starts again."""
    actors.note(context.task_result.id, context.attempt, START)
    actors.say("death", "once")
    _kill_itself()


@task(takes_context=True, max_attempts=3, backoff=0, retry_on=(Exception, SystemExit))
def exhaust(context: TaskContext, how: str) -> None:
    """Raise what is no ordinary error: the process survives it, and the attempt fails."""
    id, attempt = context.task_result.id, context.attempt
    actors.note(id, attempt, START)
    actors.note(id, attempt, RAISED)
    if how == "sys.exit":
        sys.exit(3)
    if how == "recursion":
        _recurse()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + (64 << 20), before[1]))
    try:
        bytearray(1 << 34)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _recurse() -> None:
    _recurse()


def _address_space() -> int:
    """Return how many bytes of addresses this process has taken."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
