"""Tasks with which the helpers for tests are tried."""

from __future__ import annotations

import signal
import time
from typing import Any

from django.contrib.auth.models import Group
from django.db import IntegrityError, transaction

from django_taskq import Cancel, Retry, Snooze, TaskContext, task

# What happened, in order; each test begins with none of it.
EVENTS: list[Any] = []


@task(aliases=("tests.testing.old_note",))
def note(event: Any) -> Any:
    EVENTS.append(event)
    return event


@task(queue_name="mail", max_attempts=2, backoff=3600, retry_on=(ConnectionError,))
def send_mail(to: str, subject: str = "Hello", *, urgent: bool = False) -> int:
    if to == "nobody":
        raise ConnectionError("the mail server is away")
    EVENTS.append(f"{subject}, {to}")
    return len(EVENTS)


@task
async def note_async(event: Any) -> Any:
    EVENTS.append(event)
    await Group.objects.acreate(name=str(event))
    return event


@task
def spread(depth: int) -> int:
    """Enqueue two tasks of the next depth."""
    EVENTS.append(depth)
    if depth:
        spread.enqueue(depth - 1)
        spread.enqueue(depth - 1)
    return depth


@task(redact=("token",))
def log_in(user: str, token: str) -> None:
    EVENTS.append(user)


@task
def again(pause: float = 0.0) -> None:
    """Enqueue itself, for ever."""
    EVENTS.append("again")
    again.using(run_after=pause).enqueue(pause)


@task(takes_context=True, max_attempts=4, backoff=(10, 600, 7200))
def succeed_at(context: TaskContext, attempt: int) -> int:
    EVENTS.append(f"attempt {context.attempt}")
    context.progress(context.attempt, attempt, "trying")
    if context.attempt < attempt:
        raise ConnectionError(f"attempt {context.attempt}")
    return context.attempt


@task(takes_context=True)
async def report_async(context: TaskContext) -> None:
    context.progress(1, 2, "half")


@task(max_attempts=3, backoff=0)
def say(word: str) -> None:
    """Raise what tasks raise to say how they go on."""
    EVENTS.append(word)
    if word == "retry":
        raise Retry
    if word == "snooze":
        raise Snooze(60)
    if word == "cancel":
        raise Cancel("not wanted")
    raise ValueError(word)


@task
def unstorable() -> object:
    return object()


@task(soft_timeout=0.1)
def slow(seconds: float) -> None:
    time.sleep(seconds)


@task
def interrupted() -> None:
    signal.raise_signal(signal.SIGINT)


@task
def write_and_fail(name: str) -> None:
    Group.objects.create(name=name)
    raise ValueError(name)


@task
def write_twice(name: str) -> None:
    """Break a unique constraint, in a savepoint of its own making or not."""
    Group.objects.create(name=name)
    Group.objects.create(name=name)


@task
def write_twice_and_go_on(name: str, careful: bool) -> str:
    Group.objects.create(name=name)
    try:
        if careful:
            with transaction.atomic():
                Group.objects.create(name=name)
        else:
            Group.objects.create(name=name)
    except IntegrityError:
        return "there already"
    return "new"


@task
def note_on_commit(event: Any, fail: bool = False) -> None:
    def callback() -> None:
        EVENTS.append(event)
        note.enqueue(f"after {event}")
        if fail:
            raise ValueError(event)

    with transaction.atomic():
        transaction.on_commit(callback)
    EVENTS.append(f"end of {event}")


@task
def wait_for_another() -> Any:
    return note.enqueue("other").wait(timeout=0.1)


@task(atomic=True, max_attempts=2, backoff=0)
def write_together(name: str, error: str = "") -> str:
    """Write a row and enqueue a task, in the transaction that stores the result; then fail."""
    Group.objects.create(name=name)
    note.enqueue(f"with {name}")
    transaction.on_commit(lambda: EVENTS.append(f"{name} has committed"))
    if error:
        raise ValueError(error)
    return name
