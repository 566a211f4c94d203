"""The `django.tasks` backend. It holds no state and imports no model: `@task` makes it early."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core import checks
from django.db import DEFAULT_DB_ALIAS
from django.utils import timezone

from django_taskq import carried, registry, results
from django_taskq.events import is_heard
from django_taskq.exceptions import ArgumentsError
from django_taskq.hints import enqueue_with_hint, hint_after_commit
from django_taskq.ids import new_id, new_ids
from django_taskq.results import TaskResult
from django_taskq.serialization import dump_arguments
from django_taskq.statuses import TaskStatus
from django_taskq.suggestions import did_you_mean
from django_taskq.task import Task, adopt, find, missing, rebuilt, split_call
from django_taskq.task_options import MAX_NAME
from django_taskq.tasks_api import (
    BaseTaskBackend,
    DjangoTask,
    InvalidTask,
    TaskResultStatus,
    task_enqueued,
)
from django_taskq.transitions import enqueue as transition
from django_taskq.transitions.enqueue import NewRow, Settled

# What OPTIONS of the backend may hold: the alias of the database with the tables.
_OPTIONS = ("DATABASE",)


class TaskqBackend(BaseTaskBackend):
    """Keep tasks as rows in PostgreSQL; `manage.py taskworker` runs them."""

    task_class = Task
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        # Without QUEUES every queue name is welcome; Django would allow "default" only.
        super().__init__(alias, {**params, "QUEUES": params.get("QUEUES", [])})
        # The alias of the database that holds the tables.
        self.database: str = self.options.get("DATABASE", DEFAULT_DB_ALIAS)

    def validate_task(self, task: DjangoTask[..., Any]) -> None:
        """Raise InvalidTask, with the way out, for a task that no worker could run."""
        path = f"{getattr(task.func, '__module__', '?')}.{getattr(task.func, '__qualname__', '?')}"
        if not inspect.isroutine(task.func):
            raise InvalidTask(f"@task takes a function, not {task.func!r}.")
        if "<lambda>" in path:
            raise InvalidTask(f"{path}: a lambda cannot be a task; write a function with a name.")
        if "<locals>" in path:
            raise InvalidTask(
                f"{path}: a function inside another one cannot be a task, no worker could find "
                "it. Move it to the module level. (A decorator below @task needs functools.wraps.)"
            )
        if task.run_after is not None and settings.USE_TZ and timezone.is_naive(task.run_after):
            raise InvalidTask(
                f"{path}: run_after={task.run_after!r} is naive. Pass an aware datetime, such as "
                "timezone.now() + timedelta(…), or the timedelta itself."
            )
        if not isinstance(task.queue_name, str) or not 0 < len(task.queue_name) <= MAX_NAME:
            raise InvalidTask(
                f"{path}: queue_name is text of 1 to {MAX_NAME} characters, not "
                f"{task.queue_name!r}."
            )
        if self.queues and task.queue_name not in self.queues:
            near = did_you_mean(task.queue_name, self.queues)
            raise InvalidTask(
                f'{path}: the queue "{task.queue_name}" is not among the QUEUES of '
                f'TASKS["{self.alias}"]: {", ".join(sorted(self.queues))}.{near}'
            )
        super().validate_task(task)
        if not isinstance(task, Task):
            registry.add_plain(task)

    def enqueue(
        self, task: DjangoTask[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> TaskResult[Any]:
        """Insert a task in the caller's transaction."""
        own = self._checked(task)
        _check_call(own, args, kwargs)
        row = NewRow(new_id(), *dump_arguments(own.name, args, kwargs))
        settled = _settled(own)
        stored = enqueue_with_hint(self.database, settled, row)
        result = self.new_result(task, own, row.id, args, kwargs, settled, stored)
        self._announce([result])
        return result

    def enqueue_many(
        self, task: DjangoTask[..., Any], calls: Iterable[Sequence[Any] | Mapping[str, Any]]
    ) -> Sequence[TaskResult[Any]]:
        """Insert many tasks by one COPY; the results are made when they are looked at."""
        own = self._checked(task)
        dumped = []
        try:
            for call in calls:
                args, kwargs = split_call(own.name, call)
                _check_call(own, args, kwargs)
                dumped.append(dump_arguments(own.name, args, kwargs))
        except Exception as error:
            error.add_note(f"This was in item {len(dumped)} of enqueue_many(); the first is 0.")
            raise
        rows = [NewRow(id, *texts) for id, texts in zip(new_ids(len(dumped)), dumped, strict=True)]
        if not rows:
            return []
        settled = _settled(own)
        stored = transition.enqueue_many(self.database, settled, rows)
        hint_after_commit(self.database)
        made = _LazyResults(self, task, own, rows, settled, stored)
        self._announce(made)
        return made

    def get_result(self, result_id: str) -> TaskResult[Any]:
        """Return the result with this id. Raise TaskResultDoesNotExist."""
        row = results.read_row(self.database, result_id)
        known = find(row.task)
        if known is None:
            registry.discover()
            known = find(row.task) or missing(row.task)
        own = rebuilt(
            known,
            queue_name=row.queue_name,
            priority=row.priority,
            backend=self.alias,
            is_copy=True,
        )
        return TaskResult(
            task=own,
            backend=self.alias,
            max_attempts=row.max_attempts or known.max_attempts,
            **results.result_values(row),
        )

    def check(self, **kwargs: Any) -> Iterable[checks.CheckMessage]:  # type: ignore[override]
        """Yield what is wrong with this backend's settings."""
        yield from super().check(**kwargs)
        for option in self.options:
            if option not in _OPTIONS:
                yield checks.Error(
                    f'TASKS["{self.alias}"]["OPTIONS"] has an unknown key {option!r}.'
                    f"{did_you_mean(str(option), _OPTIONS)}",
                    hint=f"Known keys: {', '.join(_OPTIONS)}.",
                    id="django_taskq.E002",
                )
        if self.database not in settings.DATABASES:
            yield checks.Error(
                f'TASKS["{self.alias}"]["OPTIONS"]["DATABASE"] is {self.database!r}, which is not '
                f"in DATABASES.{did_you_mean(str(self.database), settings.DATABASES)}",
                id="django_taskq.E002",
            )

    def _checked(self, task: DjangoTask[..., Any]) -> Task[..., Any]:
        """Return our form of a task that may be enqueued now."""
        self.validate_task(task)
        if task.func.__module__ == "__main__":
            raise InvalidTask(
                f"{task.name}: a task that is defined in __main__ (a script, the shell) cannot be "
                "found by a worker. Move it to a module, such as the tasks.py of an app."
            )
        return adopt(task)

    def new_result(
        self,
        task: DjangoTask[..., Any],
        own: Task[..., Any],
        id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        settled: Settled,
        stored: transition.Enqueued,
    ) -> TaskResult[Any]:
        """Make the handle of a task that was just inserted."""
        return TaskResult(
            task=own if isinstance(task, Task) else task,
            id=id,
            status=TaskResultStatus.READY,
            row_status=TaskStatus.READY,
            enqueued_at=stored.enqueued_at,
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=list(args),
            kwargs=dict(kwargs),
            backend=self.alias,
            errors=[],
            worker_ids=[],
            max_attempts=own.max_attempts,
            run_after=stored.run_after,
            headers=carried.decode(settled.headers),
        )

    def _announce(self, made: Iterable[TaskResult[Any]]) -> None:
        """Send task_enqueued where somebody hears it; the transaction may still roll back."""
        if is_heard(task_enqueued, logging.DEBUG):
            for result in made:
                task_enqueued.send(sender=type(self), task_result=result)


class _LazyResults(Sequence[TaskResult[Any]]):
    """The results of enqueue_many(), each made when it is first looked at."""

    def __init__(
        self,
        backend: TaskqBackend,
        task: DjangoTask[..., Any],
        own: Task[..., Any],
        rows: Sequence[NewRow],
        settled: Settled,
        stored: transition.Enqueued,
    ) -> None:
        self._backend, self._task, self._own = backend, task, own
        self._rows, self._settled, self._stored = rows, settled, stored
        self._made: dict[int, TaskResult[Any]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[TaskResult[Any]]:
        return (self[place] for place in range(len(self._rows)))

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[single] for single in range(*place.indices(len(self._rows)))]
        if place < 0:
            place += len(self._rows)
        if not 0 <= place < len(self._rows):
            raise IndexError(place)
        if place not in self._made:
            # What was stored: the caller may have changed his lists since.
            id, args, kwargs = self._rows[place]
            self._made[place] = self._backend.new_result(
                self._task,
                self._own,
                id,
                json.loads(args),
                json.loads(kwargs),
                self._settled,
                self._stored,
            )
        return self._made[place]

    def __repr__(self) -> str:
        return f"<{len(self._rows)} task results>"


def _settled(task: Task[..., Any]) -> Settled:
    return Settled(
        task=task.key,
        queue_name=task.queue_name,
        priority=task.priority,
        max_attempts=task.max_attempts,
        run_after=task.run_after,
        delay=task.delay,
        expires_after=task.expires_after,
        options=task.options_for_row(),
        headers=carried.capture(),
    )


@lru_cache(maxsize=1024)
def _shape(func: Any, takes_context: bool) -> tuple[inspect.Signature, int, int]:
    """Return a function's signature, and how few and how many plain arguments satisfy it."""
    signature = inspect.signature(func)
    fewest = most = 0
    for parameter in signature.parameters.values():
        match parameter.kind:
            case parameter.POSITIONAL_ONLY | parameter.POSITIONAL_OR_KEYWORD:
                most += 1
                fewest += parameter.default is parameter.empty
            case parameter.VAR_POSITIONAL:
                most = 1_000_000
            case parameter.KEYWORD_ONLY if parameter.default is parameter.empty:
                fewest = 1_000_001  # plain arguments alone never satisfy it
    return signature, fewest - takes_context, most - takes_context


def _check_call(task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise ArgumentsError unless the function takes these arguments."""
    signature, fewest, most = _shape(task.func, task.takes_context)
    if not kwargs and fewest <= len(args) <= most:
        return
    context = (None,) if task.takes_context else ()
    try:
        signature.bind(*context, *args, **kwargs)
    except TypeError as error:
        shown = signature
        if task.takes_context:
            shown = signature.replace(parameters=list(signature.parameters.values())[1:])
        raise ArgumentsError(
            f"{task.name}.enqueue(): {error}. The task is {task.name}{shown}."
        ) from None
