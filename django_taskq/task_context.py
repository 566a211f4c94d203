"""What a running task is told about itself, and may tell others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django_taskq.tasks_api import BaseTaskContext


@dataclass(frozen=True, kw_only=True)
class TaskContext(BaseTaskContext):  # type: ignore[misc]  # the stub is not frozen
    """What a task with `takes_context=True` is told about itself, and may tell others.

    Nothing in it touches the database, so it works in `async def` tasks too.
    """

    # How a worker passes reports on; without one (Django's other backends) they go nowhere.
    report: Callable[[dict[str, Any]], None] | None = field(default=None, repr=False)
    stopping: Callable[[], bool] | None = field(default=None, repr=False)
    cancelled: Callable[[], bool] | None = field(default=None, repr=False)

    @property
    def attempt(self) -> int:
        """Return the number of this attempt; the first is 1."""
        return self.task_result.attempts

    @property
    def max_attempts(self) -> int:
        """Return how often the task may be attempted in all."""
        return int(getattr(self.task_result, "max_attempts", 1))

    @property
    def is_cancelled(self) -> bool:
        """Say whether somebody has asked the task to end: put the work down and raise Cancel.

        Seen within 2 s of `TaskResult.cancel()`.
        """
        return self.cancelled() if self.cancelled is not None else False

    @property
    def is_stopping(self) -> bool:
        """Say whether the worker was asked to stop: a long task may put its work down."""
        return self.stopping() if self.stopping is not None else False

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far the task is. Seen in `TaskResult.progress` within a fraction of a second."""
        if self.report is not None:
            self.report({"done": done, "total": total, "message": message})
