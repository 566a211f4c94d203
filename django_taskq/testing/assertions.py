"""Look at what was enqueued: rows, whether they still wait or have been run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from django_taskq import registry
from django_taskq.models import FinishedTask, LiveTask
from django_taskq.redact import shown_call
from django_taskq.results import TaskResult
from django_taskq.statuses import FINISHED
from django_taskq.task import Task, find, find_or_raise
from django_taskq.tasks_api import DjangoTask
from django_taskq.testing.databases import backends

# As text: Django 6's class cannot be subscripted at run time.
AnyTask: TypeAlias = "DjangoTask[..., Any] | str"
_Row: TypeAlias = LiveTask | FinishedTask

# How exactly run_after has to be met.
_ABOUT = timedelta(seconds=1)
# As many as a message shows.
_SHOWN = 20


def enqueued(task: AnyTask | None = None) -> list[TaskResult[Any]]:
    """Return what was enqueued, of one task or of all, in that order; run or still waiting."""
    return Enqueued(_rows()).results(task)


def waiting(task: AnyTask | None = None) -> list[TaskResult[Any]]:
    """Return what was enqueued and has not ended yet."""
    return [result for result in enqueued(task) if result.row_status not in FINISHED]


def assert_enqueued(
    task: AnyTask,
    /,
    *args: Any,
    times: int | None = None,
    queue_name: str | None = None,
    run_after: datetime | timedelta | None = None,
    **kwargs: Any,
) -> None:
    """Fail unless the task was enqueued with these arguments, whether it has been run or not.

    Without any argument, any will do. Arguments are compared as the function takes them: by
    position or by keyword, defaults filled in. `times` is how often, exactly; at least once by
    default. `run_after` (a moment, or a timedelta from enqueueing) is met to the second.
    """
    Enqueued(_rows()).assert_enqueued(
        task, *args, times=times, queue_name=queue_name, run_after=run_after, **kwargs
    )


def assert_not_enqueued(
    task: AnyTask | None = None,
    /,
    *args: Any,
    queue_name: str | None = None,
    run_after: datetime | timedelta | None = None,
    **kwargs: Any,
) -> None:
    """Fail if the task was enqueued with these arguments; without a task, if anything was."""
    Enqueued(_rows()).assert_not_enqueued(
        task, *args, queue_name=queue_name, run_after=run_after, **kwargs
    )


@contextmanager
def capture_enqueued() -> Iterator[Enqueued]:
    """Look only at what is enqueued inside the block: by its end, and while it lasts."""
    before = {row.pk for _, row in _rows()}
    inside = Enqueued([], before=before)
    yield inside
    inside.close()


@dataclass
class Enqueued:
    """Some tasks that were enqueued."""

    _known: list[tuple[str, _Row]] = field(repr=False)
    # What was there before: the block of `capture_enqueued` has not ended.
    before: set[Any] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self._found())

    def __iter__(self) -> Iterator[TaskResult[Any]]:
        return iter(self.results())

    def results(self, task: AnyTask | None = None) -> list[TaskResult[Any]]:
        """Return them, or those of one task, in the order in which they were enqueued."""
        key = None if task is None else _key(task)
        ours = backends()
        return [
            ours[alias].get_result(str(row.pk))
            for alias, row in self._found()
            if key is None or _name(row) == key
        ]

    def assert_enqueued(
        self,
        task: AnyTask,
        /,
        *args: Any,
        times: int | None = None,
        queue_name: str | None = None,
        run_after: datetime | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        """Fail unless the task is among them; see the function of this name."""
        wanted = _Wanted(_known(task), args, kwargs, queue_name, run_after)
        count = sum(wanted.is_met_by(row) for _, row in self._found())
        if count == times or (times is None and count):
            return
        often = "" if times is None else f" {_times(times)}, but {_times(count)}"
        raise AssertionError(f"{wanted} was not enqueued{often}.\n{self._story(wanted.task.key)}")

    def assert_not_enqueued(
        self,
        task: AnyTask | None = None,
        /,
        *args: Any,
        queue_name: str | None = None,
        run_after: datetime | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        """Fail if the task is among them; see the function of this name."""
        if task is None:
            if self._found():
                raise AssertionError(f"Something was enqueued.\n{self._story('')}")
            return
        wanted = _Wanted(_known(task), args, kwargs, queue_name, run_after)
        count = sum(wanted.is_met_by(row) for _, row in self._found())
        if count:
            raise AssertionError(
                f"{wanted} was enqueued {_times(count)}.\n{self._story(wanted.task.key)}"
            )

    def close(self) -> None:
        """Look no further: the block of `capture_enqueued` has ended."""
        self._known, self.before = self._found(), None

    def _found(self) -> list[tuple[str, _Row]]:
        if self.before is None:
            return self._known
        return [(alias, row) for alias, row in _rows() if row.pk not in self.before]

    def _story(self, key: str) -> str:
        """Say what was enqueued instead: first what has the name that was asked for."""
        rows = sorted((row for _, row in self._found()), key=lambda row: _name(row) != key)
        if not rows:
            return "Nothing was enqueued."
        more = f"\n  … and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
        shown = "".join(f"\n  {_line(row)}" for row in rows[:_SHOWN])
        return f"What was enqueued:{shown}{more}"


@dataclass
class _Wanted:
    """What an assertion asks for."""

    task: Task[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    queue_name: str | None
    run_after: datetime | timedelta | None

    def __post_init__(self) -> None:
        self.arguments: dict[str, Any] | None = None
        if self.args or self.kwargs:
            try:
                self.arguments = _bound(self.task, self.args, self.kwargs)
            except TypeError as error:
                raise TypeError(
                    f"{self.task.name} cannot be enqueued like this: {error}. The task is "
                    f"{self.task.name}{_signature(self.task)}."
                ) from None

    def is_met_by(self, row: _Row) -> bool:
        return (
            _name(row) == self.task.key
            and (self.queue_name is None or row.queue_name == self.queue_name)
            and self._is_due(row)
            and self._has_arguments(row)
        )

    def _is_due(self, row: _Row) -> bool:
        if self.run_after is None:
            return True
        if isinstance(self.run_after, timedelta):
            return abs(row.run_after - row.enqueued_at - self.run_after) <= _ABOUT
        return abs(row.run_after - self.run_after) <= _ABOUT

    def _has_arguments(self, row: _Row) -> bool:
        if self.arguments is None:
            return True
        try:
            return self.arguments == _bound(self.task, row.args, row.kwargs)
        except TypeError:  # enqueued by SQL, or by an older version of the function
            return False

    def __str__(self) -> str:
        parts = [self.task.key]
        if self.arguments is not None:
            parts = [_call(self.task, self.task.key, self.args, self.kwargs)]
        if self.queue_name is not None:
            parts.append(f"in queue {self.queue_name!r}")
        if self.run_after is not None:
            parts.append(f"for {self.run_after}")
        return " ".join(parts)


def _rows() -> list[tuple[str, _Row]]:
    """Return every task of every database with its alias, in the order of enqueueing."""
    rows: list[tuple[str, _Row]] = []
    for alias in backends():
        rows += [(alias, row) for row in LiveTask.objects.using(alias)]
        rows += [(alias, row) for row in FinishedTask.objects.using(alias)]
    return sorted(rows, key=lambda entry: (entry[1].enqueued_at, entry[1].pk))


def _known(task: AnyTask) -> Task[..., Any]:
    """Return the registered task that somebody means."""
    return find_or_raise(_key(task))


def _key(task: AnyTask) -> str:
    if isinstance(task, str):
        return find_or_raise(task).key
    if isinstance(task, Task):
        return task.key
    if isinstance(task, DjangoTask):
        registry.add_plain(task)
        return task.module_path
    raise TypeError(f"This takes a task or the name of one, not {task!r}.")


def _name(row: _Row) -> str:
    """Return the present name of a row's task, which may stand there under a former one."""
    known = find(row.task)
    return row.task if known is None else known.key


def _signature(task: Task[..., Any]) -> inspect.Signature:
    signature = inspect.signature(task.func)
    if task.takes_context:
        return signature.replace(parameters=list(signature.parameters.values())[1:])
    return signature


def _bound(task: Task[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return arguments by name, defaults filled in, as they come back from JSON."""
    bound = _signature(task).bind(*args, **kwargs)
    bound.apply_defaults()
    return {name: _as_json(value) for name, value in bound.arguments.items()}


def _as_json(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    return value


def _line(row: _Row) -> str:
    known = find(row.task)
    late = row.run_after - row.enqueued_at
    return (
        f"{_call(known, row.task, row.args, row.kwargs)}  queue {row.queue_name}  {row.status}"
        + (f"  due {late} after enqueueing" if late >= _ABOUT else "")
        + ("" if known else "  (no task of this name is registered)")
    )


def _call(
    task: Task[..., Any] | None, key: str, args: Sequence[Any], kwargs: dict[str, Any]
) -> str:
    """Show a call, secret arguments masked: what a test says ends up in many logs."""
    args, kwargs = shown_call(task, args, kwargs)
    if not isinstance(args, list | tuple):  # nobody knows which of them are secret
        return f"{key}(…)"
    shown = [repr(arg) for arg in args] + [f"{name}={value!r}" for name, value in kwargs.items()]
    return f"{key}({', '.join(shown)})"


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")
