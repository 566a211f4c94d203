"""The options of a task: their types, and what is wrong with a given one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from inspect import iscoroutinefunction
from typing import Any, TypedDict

from django_taskq.redact import check_rules
from django_taskq.retries import Backoff, backoff_to_json, check_backoff
from django_taskq.serialization import is_storable
from django_taskq.suggestions import did_you_mean
from django_taskq.tasks_api import TASK_MAX_PRIORITY, TASK_MIN_PRIORITY, InvalidTask

# The longest name of a task or queue, in characters.
MAX_NAME = 128


class TaskOptions(TypedDict, total=False):
    """What `@task(…)` takes, beside takes_context."""

    name: str
    aliases: Sequence[str]
    queue_name: str
    priority: int
    backend: str
    max_attempts: int
    retry_on: type[BaseException] | Sequence[type[BaseException]]
    give_up_on: type[BaseException] | Sequence[type[BaseException]]
    backoff: Backoff
    timeout: float | timedelta | None
    soft_timeout: float | timedelta | None
    expires_after: float | timedelta | None
    store_result: bool
    redact: Sequence[str | re.Pattern[str]]
    atomic: bool
    at_most_once: bool


class UsingOptions(TypedDict, total=False):
    """What `using(…)` takes: what a row can hold."""

    priority: int | None
    queue_name: str | None
    run_after: datetime | timedelta | float | None
    backend: str | None
    max_attempts: int
    backoff: Backoff
    timeout: float | timedelta | None
    soft_timeout: float | timedelta | None
    expires_after: float | timedelta | None
    store_result: bool


# Django's own, whose using() takes None for "as it is". None for one of ours is a value.
_NONE_IS_NO_CHANGE = ("priority", "queue_name", "run_after", "backend")


def changes_of_using(task: str, options: UsingOptions) -> dict[str, Any]:
    """Return what using() of a task changes. Raise TypeError for an option that is none of its."""
    changes: dict[str, Any] = {**options}
    for option in changes:
        if option not in UsingOptions.__annotations__:
            raise TypeError(refuse_in_using(task, option))
    for option in _NONE_IS_NO_CHANGE:
        if option in changes and changes[option] is None:
            del changes[option]
    if "backoff" in changes:
        backoff_to_json(changes["backoff"])  # refuses a function
    if "run_after" in changes:
        when = changes["run_after"]
        if isinstance(when, datetime):
            changes["delay"] = 0.0
        else:
            changes |= {"run_after": None, "delay": in_seconds("run_after", when, low=0.0)}
    return changes


def check_options(task: Any) -> None:
    """Check the options of a Task in the making and bring them into hashable form.

    Raise InvalidTask, with the name of the task and what the option takes.
    """
    where = f"@task {task.key}"
    _check_names(where, task)
    _check_numbers(where, task)
    if not isinstance(task.store_result, bool):
        raise InvalidTask(f"{where}: store_result is True or False, not {task.store_result!r}.")
    _check_atomic(where, task)
    _check_at_most_once(where, task)
    _check_kinds(where, task)
    try:
        _put(task, "redact", check_rules(task.redact))
        _put(task, "backoff", check_backoff(task.backoff))
        for option in ("timeout", "soft_timeout", "expires_after"):
            if getattr(task, option) is not None:
                _put(task, option, in_seconds(option, getattr(task, option)))
    except (TypeError, ValueError) as error:
        raise InvalidTask(f"{where}: {error}") from None
    if task.timeout and task.soft_timeout and task.soft_timeout >= task.timeout:
        raise InvalidTask(
            f"{where}: soft_timeout={task.soft_timeout:g} s must be shorter than "
            f"timeout={task.timeout:g} s, which kills the process.{_whence(task)}"
        )


def _put(task: Any, option: str, value: Any) -> None:
    """Set an option of a frozen dataclass."""
    object.__setattr__(task, option, value)


def _check_names(where: str, task: Any) -> None:
    if not isinstance(task.name, str) or len(task.key) > MAX_NAME:
        raise InvalidTask(f"{where}: a name is text of at most {MAX_NAME} characters.")
    if not isinstance(task.aliases, list | tuple) or not all(map(_is_name, task.aliases)):
        raise InvalidTask(
            f"{where}: aliases takes a list of names, each of at most {MAX_NAME} characters, not "
            f"{task.aliases!r}."
        )
    _put(task, "aliases", tuple(alias for alias in task.aliases if alias != task.key))
    for option, text in (("name", task.key), ("queue_name", task.queue_name)):
        if isinstance(text, str) and not is_storable(text):
            raise InvalidTask(f"{where!r}: {option} holds what PostgreSQL cannot store: {text!r}.")


def _check_numbers(where: str, task: Any) -> None:
    if isinstance(task.priority, bool) or not isinstance(task.priority, int):
        raise InvalidTask(f"{where}: priority is a whole number, not {task.priority!r}.")
    if not TASK_MIN_PRIORITY <= task.priority <= TASK_MAX_PRIORITY:
        raise InvalidTask(
            f"{where}: priority={task.priority} is not within {TASK_MIN_PRIORITY} … "
            f"{TASK_MAX_PRIORITY}."
        )
    if isinstance(task.max_attempts, bool) or not isinstance(task.max_attempts, int):
        raise InvalidTask(f"{where}: max_attempts is a whole number, not {task.max_attempts!r}.")
    if not 1 <= task.max_attempts <= 32_767:
        raise InvalidTask(f"{where}: max_attempts={task.max_attempts} is not within 1 … 32767.")


def _check_kinds(where: str, task: Any) -> None:
    for option in ("retry_on", "give_up_on"):
        kinds = getattr(task, option)
        kinds = tuple(kinds) if isinstance(kinds, list | tuple | set | frozenset) else (kinds,)
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
            raise InvalidTask(f"{where}: {option} takes exception classes, not {kinds!r}.")
        _put(task, option, kinds)


def _whence(task: Any) -> str:
    """Say where a time limit comes from that the decorator does not show."""
    if {"timeout", "soft_timeout"} <= (getattr(task, "given", None) or {"timeout", "soft_timeout"}):
        return ""
    return ' One of them is from DJANGO_TASKQ["TASK_DEFAULTS"].'


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= MAX_NAME and is_storable(name)


def _check_atomic(where: str, task: Any) -> None:
    if not isinstance(task.atomic, bool):
        raise InvalidTask(f"{where}: atomic is True or False, not {task.atomic!r}.")
    if task.atomic and iscoroutinefunction(task.func):
        raise InvalidTask(
            f"{where}: atomic=True does not work with async def, because Django's transactions "
            "are synchronous. Write it as def, or use transaction.atomic() in a function that you "
            "call through sync_to_async."
        )


def _check_at_most_once(where: str, task: Any) -> None:
    if not isinstance(task.at_most_once, bool):
        raise InvalidTask(f"{where}: at_most_once is True or False, not {task.at_most_once!r}.")
    if task.at_most_once and task.max_attempts > 1:
        raise InvalidTask(
            f"{where}: at_most_once=True allows one start, max_attempts={task.max_attempts} more. "
            "Leave out one of them."
        )
    if task.at_most_once and task.atomic:
        raise InvalidTask(
            f"{where}: at_most_once=True and atomic=True exclude each other: an atomic task is "
            "started again when another transaction is in its way, because nothing of it is left."
        )


def in_seconds(option: str, value: Any, *, low: float | None = None) -> float:
    """Return a duration in seconds. Raise TypeError or ValueError if it is none."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise TypeError(f"{option} takes seconds or a timedelta, not {value!r}.")
    if low is None and value <= 0:
        raise ValueError(f"{option}={value!r} must be above 0 seconds.")
    if not -1e9 <= value <= 1e9:
        raise ValueError(f"{option}={value!r} seconds is more than 30 years.")
    return float(value if low is None else max(low, value))


def refuse_in_using(task: str, option: str) -> str:
    """Say why using() of a task does not take an option."""
    if option in {*TaskOptions.__annotations__, "takes_context"}:
        return (
            f"{task}.using() cannot change {option}: it is code, which a row cannot hold. "
            "Give it to @task."
        )
    return unknown_option(f"{task}.using()", option, UsingOptions.__annotations__)


def unknown_option(where: str, option: str, known: Iterable[str]) -> str:
    """Say that there is no such option: the nearest known one, or all if none is near."""
    hint = did_you_mean(option, known) or f" It takes {', '.join(known)}."
    return f'{where} got an unknown option "{option}".{hint}'
