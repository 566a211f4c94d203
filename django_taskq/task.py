"""Define tasks: `@task`, and the functions that take a task by its name.

task_class.py     the `Task` that it makes
task_context.py   what a running task is told
task_options.py   the options and their checks; task_defaults.py, the project's own defaults
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Literal,
    Never,
    ParamSpec,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from django_taskq import registry
from django_taskq.distribution import refuse_mixture
from django_taskq.exceptions import UnknownTask
from django_taskq.task_class import (
    Task,
    adopt,
    find,
    find_discovered,
    find_or_raise,
    implicit_backend,
    path_of,
    rebuilt,
    split_call,
)
from django_taskq.task_context import TaskContext
from django_taskq.task_options import TaskOptions
from django_taskq.tasks_api import DjangoTask, InvalidTask, has_tasks_setting, task_backends

if TYPE_CHECKING:
    from django_taskq.results import TaskResult

__all__ = [
    "Task",
    "TaskContext",
    "adopt",
    "aenqueue",
    "aget_result",
    "at_most_once_names",
    "enqueue",
    "find",
    "find_discovered",
    "find_or_raise",
    "get_result",
    "implicit_backend",
    "missing",
    "rebuilt",
    "split_call",
    "task",
]

refuse_mixture()

P = ParamSpec("P")
R = TypeVar("R")


class _Decorator:
    """What `@task(…)` returns."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    @overload
    def __call__(self, f: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, f: Callable[P, R], /) -> Task[P, R]: ...
    def __call__(self, f: Any, /) -> Any:
        return _define(f, self.options)


class _ContextDecorator(_Decorator):
    """What `@task(takes_context=True, …)` returns: the context is not among enqueue's arguments."""

    @overload  # type: ignore[override]
    def __call__(
        self, f: Callable[Concatenate[TaskContext, P], Coroutine[Any, Any, R]], /
    ) -> Task[P, R]: ...
    @overload
    def __call__(self, f: Callable[Concatenate[TaskContext, P], R], /) -> Task[P, R]: ...
    def __call__(self, f: Any, /) -> Any:
        return _define(f, self.options)


@overload
def task(f: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
@overload
def task(f: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(*, takes_context: Literal[True], **options: Unpack[TaskOptions]) -> _ContextDecorator: ...
@overload
def task(*, takes_context: Literal[False] = ..., **options: Unpack[TaskOptions]) -> _Decorator: ...
def task(f: Any = None, /, **options: Any) -> Any:
    """Make a task of a function, with or without options.

    Options: `name` (the path of the function), `aliases` (names that it had before; none),
    `queue_name` ("default"), `priority` (−100 … 100, higher first; 0), `backend` ("default"),
    `takes_context` (False), `max_attempts` (1), `retry_on` ((Exception,)), `give_up_on` (()),
    `backoff` (exponential(base=15, cap=3600) seconds), `timeout` and `soft_timeout` (seconds from
    the start; none), `expires_after` (seconds from enqueue or run_after; never), `store_result`
    (True), `redact` (names of arguments that are secret; none), `atomic` (run in one transaction
    that also stores the result; False), `at_most_once` (never started again once it had started;
    False).

    Raise TypeError for an unknown option and InvalidTask for a function that no worker could find.
    """
    if f is None:
        return (_ContextDecorator if options.get("takes_context") else _Decorator)(options)
    return _define(f, options)


def _define(f: Any, options: dict[str, Any]) -> Task[..., Any]:
    if isinstance(f, DjangoTask):
        raise InvalidTask(f"{f.module_path} is a task already; decorate the function once.")
    for internal in ("key", "delay", "is_copy", "given", "func", "run_after"):
        if internal in options:
            hint = " Use .using(run_after=…) at enqueue." if internal == "run_after" else ""
            raise TypeError(f'@task {path_of(f)} has no option "{internal}".{hint}')
    base = {"priority": 0, "backend": "default", "queue_name": "default", "run_after": None}
    defined: Task[..., Any] = Task(func=f, **{**base, **options}, given=frozenset(options))
    return defined


# --- tasks by name ---------------------------------------------------------------------------


def enqueue(name: str, /, *args: Any, **kwargs: Any) -> TaskResult[Any]:
    """Enqueue a task by its registered name. Raise UnknownTask if there is none."""
    return find_or_raise(name).enqueue(*args, **kwargs)


async def aenqueue(name: str, /, *args: Any, **kwargs: Any) -> TaskResult[Any]:
    """See enqueue()."""
    return await find_or_raise(name).aenqueue(*args, **kwargs)


def get_result(result_id: str) -> TaskResult[Any]:
    """Return the result of any task by its id, from the default backend.

    Raise TaskResultDoesNotExist (of `django.tasks`) if there is none.
    """
    return cast("TaskResult[Any]", _default_backend().get_result(result_id))


async def aget_result(result_id: str) -> TaskResult[Any]:
    """See get_result()."""
    return cast("TaskResult[Any]", await _default_backend().aget_result(result_id))


def _default_backend() -> Any:
    return task_backends["default"] if has_tasks_setting() else implicit_backend()


def at_most_once_names() -> frozenset[str]:
    """Return the names, former ones too, of the tasks that are never started a second time."""
    return frozenset(
        name
        for name in registry.known_names()
        if getattr(registry.get(name), "at_most_once", False)
    )


def missing(key: str) -> Task[..., Any]:
    """Stand in for a task that is not registered here: it can be shown, not run."""
    return rebuilt(None, func=_Missing(key), name=key.rpartition(".")[2], key=key)


class _Missing:
    """Stand in for a function that this process does not know."""

    # Nobody knows which of its arguments are secret.
    is_missing = True

    def __init__(self, key: str) -> None:
        self.__module__, _, self.__qualname__ = key.rpartition(".")
        self.__name__ = self.__qualname__
        self.key = key

    def __call__(self, *args: Any, **kwargs: Any) -> Never:
        raise UnknownTask(registry.unknown(self.key))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Missing) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)
