"""The class `Task`: a function with its options, and how to get at the one that is registered."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, Unpack, cast

from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from django_taskq import registry, results
from django_taskq.exceptions import UnknownTask
from django_taskq.redact import Rule
from django_taskq.retries import DEFAULT_BACKOFF, backoff_to_json
from django_taskq.task_context import TaskContext
from django_taskq.task_defaults import apply_defaults
from django_taskq.task_options import (
    TaskOptions,
    UsingOptions,
    changes_of_using,
    check_options,
    unknown_option,
)
from django_taskq.tasks_api import (
    BaseTask,
    DjangoTask,
    DjangoTaskContext,
    InvalidTask,
    has_tasks_setting,
    task_backends,
)

if TYPE_CHECKING:
    from django_taskq.results import TaskResult

P = ParamSpec("P")
R = TypeVar("R")

_BACKEND = "django_taskq.backend.TaskqBackend"


@dataclass(frozen=True, kw_only=True, repr=False)
class Task(BaseTask[P, R], Generic[P, R]):
    """A function that can be enqueued, with its options."""

    # What people read; Django's rule (the function's name) unless one is given.
    name: str = ""
    # What rows store and the registry knows: the given name, else the path of the function.
    key: str = ""
    # Names that it had before: rows that hold one run with this function.
    aliases: tuple[str, ...] = ()
    # How often the task is started in all, failed attempts included.
    max_attempts: int = 1
    # Failures of these kinds are retried …
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    # … unless they are of these.
    give_up_on: tuple[type[BaseException], ...] = ()
    # How long to wait before the next attempt.
    backoff: Any = DEFAULT_BACKOFF
    # Seconds after which the process is killed, and after which SoftTimeLimit is raised.
    timeout: float | None = None
    soft_timeout: float | None = None
    # Seconds from the later of enqueue and run_after in which the task must have started.
    expires_after: float | None = None
    # Names of secret arguments, and patterns of such names.
    redact: tuple[Rule, ...] = ()
    # Whether the return value is kept; the row of the finished task is kept in any case.
    store_result: bool = True
    # Whether body, result and what it enqueues commit in one transaction.
    atomic: bool = False
    # Whether it is never started again once it had started.
    at_most_once: bool = False
    # Seconds from enqueue to the earliest start: using(run_after=timedelta or seconds).
    delay: float = 0.0
    # Made by using(): not the task that the registry holds.
    is_copy: bool = False
    # The options that were written down at the decorator; the others follow the project's defaults.
    given: frozenset[str] | None = field(default=None, compare=False)

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Name an unknown option before dataclasses complains about `__init__`."""
        known = [f.name for f in fields(cls)]
        for option in options:
            if option not in known:
                where = f"@task {path_of(options['func'])}" if "func" in options else "@task"
                public = (*TaskOptions.__annotations__, "takes_context")
                raise TypeError(unknown_option(where, option, public))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", self.name or path_of(self.func))
        if not self.name:
            object.__setattr__(self, "name", _qualname_of(self.func).rpartition(".")[2])
        if not self.is_copy:
            apply_defaults(self)
        check_options(self)
        super().__post_init__()
        if self.delay and not self.get_backend().supports_defer:
            raise InvalidTask("Backend does not support run_after.")
        # Here, because Django's own decorator makes our tasks too.
        if not self.is_copy:
            registry.add(self.key, self, self.aliases)

    def __repr__(self) -> str:
        return f"<Task {self.key}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now."""
        return self.func(*args, **kwargs)

    def __reduce__(self) -> Any:
        """Pickle by name and by what using() changed; the rest comes from the registry.

        The function is never imported, and code among the options (a backoff) stays at home.
        """
        registered = find(self.key)
        changes = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name != "func"
            and (registered is None or getattr(self, f.name) != getattr(registered, f.name))
        }
        return _from_registry, (self.key, changes)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> TaskResult[R]:
        """Put the task into its queue, in the caller's transaction."""
        return results.adopt(self.get_backend().enqueue(self, args, kwargs), self)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> TaskResult[R]:
        """See enqueue()."""
        return results.adopt(await self.get_backend().aenqueue(self, args, kwargs), self)

    def enqueue_many(
        self, calls: Iterable[Sequence[Any] | Mapping[str, Any]]
    ) -> Sequence[TaskResult[R]]:
        """Enqueue a call per item (a tuple of arguments, or a dict of keyword ones) by one COPY.

        Return the results in the order of the calls. All are checked before any is stored.
        """
        backend = self.get_backend()
        many = getattr(backend, "enqueue_many", None)
        if many is not None:
            return cast("Sequence[TaskResult[R]]", many(self, calls))
        return [
            results.adopt(backend.enqueue(self, *split_call(self.name, call)), self)
            for call in calls
        ]

    async def aenqueue_many(
        self, calls: Iterable[Sequence[Any] | Mapping[str, Any]]
    ) -> Sequence[TaskResult[R]]:
        """See enqueue_many()."""
        from asgiref.sync import sync_to_async

        return await sync_to_async(self.enqueue_many)(calls)

    def using(self, **options: Unpack[UsingOptions]) -> Self:
        """Return a copy with other options: those that a row can hold."""
        return replace(self, **changes_of_using(self.key, options), is_copy=True)

    def get_result(self, result_id: str) -> TaskResult[R]:
        """Return the result of an enqueued task of this function, by its id.

        Raise TaskResultDoesNotExist, or TaskResultMismatch if it is another function's.
        """
        return results.adopt(super().get_result(result_id), self)

    async def aget_result(self, result_id: str) -> TaskResult[R]:
        """See get_result()."""
        return results.adopt(await super().aget_result(result_id), self)

    def call(self, *args: Any, **kwargs: Any) -> R:
        """Run the function, an `async def` one too; as Django's backends do."""
        return super().call(*_own_context(self, args), **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> R:
        """See call()."""
        return await super().acall(*_own_context(self, args), **kwargs)

    def get_backend(self) -> Any:
        """Return the backend; without a TASKS setting ours, where Django would run at once."""
        if self.backend == "default" and not has_tasks_setting():
            return implicit_backend()
        return task_backends[self.backend]

    def options_for_row(self) -> str | None:
        """Return what differs from the registered task and has no column, as JSON text."""
        if not self.is_copy:
            return None
        registered = find(self.key)
        changed: dict[str, Any] = {
            option: getattr(self, option)
            for option in ("timeout", "soft_timeout", "store_result", "backoff")
            if registered is None or getattr(self, option) != getattr(registered, option)
        }
        if "backoff" in changed:
            changed["backoff"] = backoff_to_json(changed["backoff"])
        return json.dumps(changed) if changed else None


def _own_context(task: Task[..., Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Let a task see our context where one of Django's backends passes its own."""
    if task.takes_context and args and type(args[0]) is DjangoTaskContext:
        result = results.adopt(args[0].task_result, task)
        return (TaskContext(task_result=result), *args[1:])
    return args


def path_of(func: Any) -> str:
    """Return where a function stands: its module and name."""
    return f"{getattr(func, '__module__', '') or ''}.{_qualname_of(func)}"


def _qualname_of(func: Any) -> str:
    return str(getattr(func, "__qualname__", "") or repr(func))


def split_call(name: str, call: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return the arguments of an item of enqueue_many()."""
    if isinstance(call, Mapping):
        return (), call
    if isinstance(call, list | tuple):
        return call, {}
    raise TypeError(
        f"{name}.enqueue_many() takes a tuple of arguments or a dict of keyword arguments per "
        f"task, not {type(call).__name__}. For single arguments write [(x,) for x in …]."
    )


@cache
def implicit_backend() -> Any:
    """Return the backend of a project without a TASKS setting."""
    return import_string(_BACKEND)(alias="default", params={})


# --- the registered task ---------------------------------------------------------------------


def find(key: str) -> Task[..., Any] | None:
    """Return the registered task of this name; Django's plain ones get our default options."""
    found = registry.get(key)
    if found is None or isinstance(found, Task):
        return found
    own = adopt(found)
    registry.replace(key, own)
    return own


def find_or_raise(key: str) -> Task[..., Any]:
    """Return the registered task of this name, importing every tasks.py first if need be.

    Raise UnknownTask if there is none.
    """
    found = find_discovered(key)
    if found is None:
        raise UnknownTask(registry.unknown(key))
    return found


def find_discovered(key: str) -> Task[..., Any] | None:
    """Return the registered task of this name, importing every tasks.py first if need be."""
    if registry.get(key) is None:
        registry.discover()
    return find(key)


def _from_registry(key: str, changes: dict[str, Any]) -> Task[..., Any]:
    return rebuilt(find_or_raise(key), **changes)


def adopt(plain: DjangoTask[..., Any]) -> Task[..., Any]:
    """Turn a task of Django's own class into ours, with default options."""
    if isinstance(plain, Task):
        return plain
    own = rebuilt(
        None,
        func=plain.func,
        priority=plain.priority,
        backend=plain.backend,
        queue_name=plain.queue_name,
        run_after=plain.run_after,
        takes_context=plain.takes_context,
        name=plain.name,
        key=plain.module_path,
    )
    apply_defaults(own)
    return own


def rebuilt(task: Task[..., Any] | None, **changes: Any) -> Task[..., Any]:
    """Make a task without validating it: what a row says may no longer be allowed for new ones."""
    copy: Task[..., Any] = object.__new__(Task if task is None else type(task))
    for f in fields(copy):
        value = changes[f.name] if f.name in changes else getattr(task or _DEFAULTS, f.name, None)
        object.__setattr__(copy, f.name, value)
    return copy


class _Defaults:
    """The value of each option that nothing else gives."""

    priority = 0
    backend = "default"
    queue_name = "default"
    takes_context = False
    aliases = ()
    max_attempts = 1
    retry_on = (Exception,)
    give_up_on = ()
    backoff = DEFAULT_BACKOFF
    redact = ()
    store_result = True
    atomic = False
    at_most_once = False
    delay = 0.0
    is_copy = False


_DEFAULTS = _Defaults()


@receiver(setting_changed)
def _follow_defaults(*, setting: str, **kwargs: Any) -> None:
    """Give the tasks that there are what a test has put into the settings, and take it back."""
    if setting == "DJANGO_TASKQ":
        for key in registry.names():
            if isinstance(known := registry.get(key), Task):
                apply_defaults(known)
