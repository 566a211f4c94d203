"""Atomic tasks for the tests; what happens while one runs is put into MEANWHILE."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib.auth.models import Group, User
from django.db import DatabaseError, connection, transaction

from django_taskq import Cancel, Retry, Snooze, TaskContext, task
from tests.worker import samples

# One is taken and called at each start of a task, after its transaction has taken its snapshot.
MEANWHILE: list[Callable[[], object]] = []
# What has been started.
STARTS: list[str] = []


def begin(name: str) -> None:
    STARTS.append(name)
    Group.objects.count()
    if MEANWHILE:
        MEANWHILE.pop(0)()


@task(atomic=True)
def write(name: str) -> str:
    """Write a row, enqueue a task, and return what was written."""
    begin(name)
    Group.objects.create(name=name)
    samples.give.enqueue(name)
    return name


@task(atomic=True)
def rename(old: str, new: str) -> int:
    """Change a row that somebody else may have changed meanwhile."""
    begin(old)
    return Group.objects.filter(name=old).update(name=new)


@task(atomic=True, max_attempts=3)
def write_and_raise(name: str, what: str) -> None:
    Group.objects.create(name=name)
    samples.give.enqueue(name)
    raise {
        "error": ValueError("no"),
        "retry": Retry(delay=1),
        "snooze": Snooze(1),
        "cancel": Cancel("no need"),
        "exit": SystemExit(1),
    }[what]


@task(atomic=True)
def write_and_return_a_set(name: str) -> object:
    Group.objects.create(name=name)
    return {name}


@task(atomic=True)
def break_a_foreign_key(name: str) -> None:
    """Write what is refused at COMMIT only."""
    Group.objects.create(name=name)
    User.groups.through.objects.create(user_id=987654, group_id=987654)


@task(atomic=True)
def swallow_an_error(name: str, how: str) -> str:
    """Leave a transaction that can only be rolled back."""
    Group.objects.create(name=name)
    if how == "error":
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 / 0")
        except DatabaseError:
            pass
    elif how == "rollback":
        transaction.set_rollback(True)
    else:
        connection.close()
    return "all is well"


@task(atomic=True)
def recover_in_a_block_of_its_own(name: str) -> str:
    Group.objects.create(name=name)
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")
    except DatabaseError:
        return "recovered"
    return "not reached"


@task(atomic=True)
def fail_after_commit(name: str) -> str:
    Group.objects.create(name=name)

    def fail() -> None:
        raise ValueError(f"secret of {name}")

    transaction.on_commit(fail)
    return name


@task(atomic=True)
def meet_a_deadlock(name: str) -> str:
    begin(name)
    Group.objects.create(name=name)
    if STARTS.count(name) < 3:
        with connection.cursor() as cursor:
            cursor.execute("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$")
    return name


@task(atomic=True, takes_context=True)
def report(context: TaskContext) -> None:
    context.progress(1, 2)
    begin("report")
    context.progress(2, 2, "done")


@task(atomic=True)
def lose_the_answer(name: str, *, commits: bool) -> str:
    """Have the connection cut off in the middle of COMMIT, before or after it took place."""
    Group.objects.create(name=name)
    raw = connection.connection

    def commit() -> None:
        del connection._commit
        if commits:
            raw.commit()
        raw.close()
        connection.connection.commit()  # fails as it does when the server is gone

    connection._commit = commit
    return name


@task(atomic=True)
def look_before_the_commit() -> None:
    """Note what holds for the server between the completion and COMMIT."""

    def commit() -> None:
        del connection._commit
        with connection.cursor() as cursor:
            for setting in ("idle_in_transaction_session_timeout", "lock_timeout"):
                cursor.execute(f"SHOW {setting}")
                STARTS.append(f"{setting}={cursor.fetchone()[0]}")
        connection._commit()

    connection._commit = commit
