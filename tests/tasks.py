"""Sample tasks: their arguments tell them how to behave. Workers that tests start know them too."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from django.db import transaction

from django_taskq import Cancel, Retry, Snooze, TaskContext, task
from tests.support import nasty

# The longest that a sample task waits for a test to let it go.
PATIENCE = 30.0


@task
def add(a: int, b: int = 0) -> int:
    """Return a sum."""
    return a + b


@task
async def add_async(a: int, b: int = 0) -> int:
    """Return a sum, on an event loop."""
    return a + b


@task
def echo(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return what it was called with."""
    return {"args": list(args), "kwargs": kwargs}


@task(aliases=["tests.old_tasks.moved"])
def moved(x: int) -> int:
    """Return what it was called with; stood in another module once."""
    return x


@task(redact=["pin", re.compile("^card_")], takes_context=True, max_attempts=2)
def pay(
    context: TaskContext,
    pin: Any,
    amount: int = 0,
    *secret_notes: str,
    how: str = "return",
    options: Any = None,
    **extra: Any,
) -> Any:
    """Spill a secret in the way that `how` says."""
    spilled = f"<{pin}>"
    context.progress(1, 2, spilled)
    match how:
        case "message":
            raise ValueError(spilled)
        case "key":
            raise KeyError(pin)
        case "quoted":
            raise ValueError([pin, pin.encode()], json.dumps({"pin": pin}))
        case "url":
            raise ConnectionError(f"https://bank.test/?{urlencode({'pin': pin})} {quote(pin)}")
        case "cause":
            try:
                raise ValueError(spilled)
            except ValueError as error:
                raise RuntimeError("declined") from error
        case "context":
            try:
                raise ValueError(spilled)
            except ValueError:
                raise RuntimeError("declined") from Exception(spilled)
        case "note":
            error = RuntimeError("declined")
            error.add_note(spilled)
            raise error
        case "group":
            raise ExceptionGroup("declined", [ValueError(spilled), ValueError(pin)])
        case "options":
            raise ValueError(options, extra, secret_notes)
        case "cancel":
            raise Cancel(spilled)
        case "retry":
            raise Retry(spilled)
        case "long":
            raise ValueError("x" * 2039 + " " + pin)
        case "unstorable":
            return {pin: {1, 2}}
    return spilled


@task(redact=["pin"])
async def pay_async(pin: Any) -> None:
    """Spill a secret on an event loop."""
    raise ValueError(f"<{pin}>")


@task
def nothing() -> None:
    """Do nothing."""


@task(name="samples.named", queue_name="mail", priority=7)
def named(subject: str, *, urgent: bool = False) -> str:
    """Return the subject; has a name, a queue and a priority of its own."""
    return f"{subject}!" if urgent else subject


@task(store_result=False)
def forgetful(value: Any = None) -> Any:
    """Return a value that is not kept."""
    return value


@task
def unstorable() -> object:
    """Return what JSON cannot hold."""
    return object()


@task
def fail(message: str = "it did not work") -> None:
    """Raise a ValueError."""
    raise ValueError(message)


_given: list[Any] = []


@contextmanager
def giving(values: Sequence[Any]) -> Iterator[None]:
    """Let tasks of this process use values that no row can hold, by their place."""
    _given[:] = values
    yield
    _given.clear()


@task
def give_back(place: int) -> Any:
    """Return one of them."""
    return _given[place]


@task(takes_context=True)
def report_as(context: TaskContext, place: int) -> None:
    """Report one of them as progress."""
    context.progress(*_given[place])


@task
def resize(photo_id: int, *, width: int, colour: str = "any") -> int:
    """Have a signature."""
    return photo_id * width


@task(redact=["secret"], max_attempts=2, backoff=0)
def raise_nasty(kind: str, secret: str = "") -> None:
    """Raise an error that does harm to whoever looks at it."""
    nasty.RAISERS[kind]()


@task(max_attempts=3, backoff=0, retry_on=(ConnectionError, OSError), give_up_on=FileNotFoundError)
def fail_as(kind: str, message: str = "") -> None:
    """Raise the built-in exception of this name; three attempts, unless it is hopeless."""
    raise {
        "ConnectionError": ConnectionError,
        "FileNotFoundError": FileNotFoundError,
        "SystemExit": SystemExit,
        "ValueError": ValueError,
    }[kind](message)


@task(takes_context=True, max_attempts=5, backoff=0)
def succeed_at(context: TaskContext, attempt: int) -> int:
    """Fail until the given attempt, then return its number."""
    if context.attempt < attempt:
        raise ConnectionError(f"attempt {context.attempt}")
    return context.attempt


@task(max_attempts=3, backoff=0)
def say(word: str, seconds: float = 0.0, message: str = "") -> None:
    """Raise Retry, Snooze or Cancel."""
    if word == "retry":
        raise Retry(message, delay=seconds)
    if word == "snooze":
        raise Snooze(seconds)
    if word == "cancel":
        raise Cancel(message)
    raise ValueError(f"say what? {word}")


@task(takes_context=True)
def report(context: TaskContext, done: int, total: int, message: str = "") -> dict[str, Any]:
    """Report progress and return what the context tells about the task."""
    context.progress(done, total, message)
    return {
        "id": context.task_result.id,
        "attempt": context.attempt,
        "max_attempts": context.max_attempts,
        "is_stopping": context.is_stopping,
    }


@task(takes_context=True)
async def report_async(context: TaskContext, done: int, total: int) -> int:
    """Report progress from an event loop."""
    context.progress(done, total)
    return context.attempt


@task
def note(path: str, line: str = "ran", until: str | None = None) -> int:
    """Append a line to a file, then wait until another file exists; return the process id."""
    with Path(path).open("a") as file:
        file.write(f"{line}\n")
    if until is not None:
        wait_for_file(until)
    return os.getpid()


@task
def die(path: str | None = None, number: int = signal.SIGKILL) -> None:
    """Append a line to a file, then kill the process that runs it."""
    if path is not None:
        with Path(path).open("a") as file:
            file.write("started\n")
    os.kill(os.getpid(), number)
    wait_for_file("/nonexistent")


@task
def enqueue_another(value: int, *, roll_back: bool = False) -> str:
    """Enqueue `add` in a transaction, which may be rolled back; return the other task's id."""
    with transaction.atomic():
        other = add.enqueue(value)
        if roll_back:
            transaction.set_rollback(True)
    return other.id


def wait_for_file(path: str) -> None:
    """Return when a file exists. Raise TimeoutError if nobody makes it."""
    deadline = time.monotonic() + PATIENCE
    while not Path(path).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.005)
