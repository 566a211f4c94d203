"""run_inline(): enqueue() runs the task, here and now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from unittest import mock

from django.test.utils import TestContextDecorator

from django_taskq import registry
from django_taskq.backend import TaskqBackend
from django_taskq.outcomes import Retrying, Snoozed
from django_taskq.results import TaskResult
from django_taskq.tasks_api import DjangoTask
from django_taskq.testing.databases import backends
from django_taskq.testing.runner import Runner

_enqueue = TaskqBackend.enqueue
_enqueue_many = TaskqBackend.enqueue_many

# The innermost decides. Tasks that are being run one inside the other, and attempts of one task.
_active: list[run_inline] = []
_depth = 0
_MOST_DEPTH, _MOST_ATTEMPTS = 20, 100


class run_inline(TestContextDecorator):  # a decorator and context manager, so in lower case
    """Let enqueue() run the task at once, in this process, to its end; its result is finished.

    A context manager, and a decorator of functions, of coroutine functions and of `TestCase`
    classes. Waiting times are left out: those of `run_after`, of a retry, of `Snooze`. With
    `propagate` the first failed attempt is the last, and enqueue() raises its error.
    """

    def __init__(self, *, propagate: bool = False) -> None:
        super().__init__()
        self.propagate = propagate
        self._patches: list[Any] = []

    def enable(self) -> None:
        """Begin. Raise ImproperlyConfigured where no backend of ours is set up."""
        backends()
        registry.discover()
        if not _active:
            self._patches = [
                mock.patch.object(TaskqBackend, "enqueue", _enqueue_inline),
                mock.patch.object(TaskqBackend, "enqueue_many", _enqueue_many_inline),
            ]
            for patch in self._patches:
                patch.start()
        _active.append(self)

    def disable(self) -> None:
        """End: tasks wait again."""
        _active.remove(self)
        for patch in self._patches:
            patch.stop()
        self._patches = []


def _enqueue_inline(
    self: TaskqBackend, task: DjangoTask[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> TaskResult[Any]:
    result = _enqueue(self, task, args, kwargs)
    _finish(self.database, result)
    return result


def _enqueue_many_inline(
    self: TaskqBackend,
    task: DjangoTask[..., Any],
    calls: Iterable[Sequence[Any] | Mapping[str, Any]],
) -> Sequence[TaskResult[Any]]:
    results = list(_enqueue_many(self, task, calls))
    for result in results:
        _finish(self.database, result)
    return results


def _finish(alias: str, result: TaskResult[Any]) -> None:
    """Run a task that was just enqueued until it has ended."""
    global _depth
    if _depth >= _MOST_DEPTH:
        raise RuntimeError(
            f"run_inline: {_MOST_DEPTH} tasks run one inside the other, because each enqueues the "
            "next. Use drain(), which runs them one after the other."
        )
    propagate = _active[-1].propagate if _active else False
    _depth += 1
    try:
        runner = Runner(alias)
        with runner.present():
            _run_to_its_end(runner, result, propagate)
    finally:
        _depth -= 1
    result.refresh()


def _run_to_its_end(runner: Runner, result: TaskResult[Any], propagate: bool) -> None:
    for _ in range(_MOST_ATTEMPTS):
        row = runner.claim_one(result.id)
        if row is None:
            return
        ran = runner.run(row)
        if propagate and ran.failure is not None:
            raise ran.failure
        if not isinstance(ran.outcome, Retrying | Snoozed):
            return
    raise RuntimeError(
        f"run_inline: {result.task.name} has not ended after {_MOST_ATTEMPTS:,} attempts: does it "
        "snooze for ever? Use drain(limit=…)."
    )
