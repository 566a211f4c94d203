"""What a running task and Django's signals are told: the `TaskResult` of the task."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from django_taskq.carried import decode
from django_taskq.events import is_heard, one_line, task_extra, task_log
from django_taskq.redact import RedactedError, hider
from django_taskq.results import TaskResult, decode_errors
from django_taskq.statuses import TaskStatus
from django_taskq.task import rebuilt
from django_taskq.tasks_api import TaskResultStatus, task_finished, task_started
from django_taskq.transitions.claim import Claimed
from django_taskq.worker.run import Run


class Listeners:
    """Whoever hears Django's signals; mostly nobody, and then nothing is made for them."""

    def __init__(self, worker_id: str) -> None:
        self.worker_id = worker_id
        self.notice()

    def notice(self) -> None:
        """Look, once per batch, whether anybody listens."""
        self.hear_start = is_heard(task_started, logging.INFO)
        self.hear_success = is_heard(task_finished, logging.INFO)
        self.hear_failure = is_heard(task_finished, logging.ERROR)

    def send_start(self, row: Claimed, run: Run) -> None:
        """Say that a task starts."""
        try:
            result = shown_result(row, run, TaskStatus.RUNNING, self.worker_id)
        # A row made by SQL that cannot be shown. What it comes to is for the run to say.
        except (ValueError, RecursionError) as broken:
            self._log_untold(row, "starts", broken)
        else:
            self._send(task_started, run, result)

    def send_success(self, row: Claimed, run: Run, value: Any) -> None:
        """Say that a task has returned this value."""
        result = self._ended(row, run, TaskStatus.SUCCESSFUL)
        object.__setattr__(result, "_return_value", value)
        self._send(task_finished, run, result)

    def send_failure(self, row: Claimed, run: Run, error: str) -> None:
        """Say that a task has failed for good; Django's receiver logs the error being handled."""
        try:
            self._send_failure(row, run, error)
        # A row made by SQL, with a time that Python cannot hold; an error that raises when it is
        # logged. What the task came to is known by now, and must be stored.
        except BaseException as broken:
            self._log_untold(row, "has failed", broken)

    def _send_failure(self, row: Claimed, run: Run, error: str) -> None:
        result = self._ended(row, run, TaskStatus.FAILED)
        result.errors.extend(decode_errors(f"[{error}]"))
        if hider(run.task, row.args, row.kwargs) is None:
            self._send(task_finished, run, result)
            return
        try:
            record = json.loads(error)
            raise RedactedError(record["traceback"] or record["message"]) from None
        except RedactedError as shown:
            shown.__context__ = None
            self._send(task_finished, run, result)

    def _ended(self, row: Claimed, run: Run, status: TaskStatus) -> TaskResult[Any]:
        result = shown_result(row, run, status, self.worker_id)
        object.__setattr__(result, "finished_at", datetime.now(UTC))
        return result

    def _send(self, signal: Any, run: Run, result: TaskResult[Any]) -> None:
        signal.send_robust(sender=type(run.task.get_backend()), task_result=result)

    def _log_untold(self, row: Claimed, what: str, broken: BaseException) -> None:
        task_log.error(
            "Those who listen could not be told that task %s (%s) %s: %s.",
            row.id,
            one_line(row.task),
            what,
            type(broken).__qualname__,
            extra=task_extra(row, self.worker_id),
        )


def shown_result(row: Claimed, run: Run, status: TaskStatus, worker_id: str) -> TaskResult[Any]:
    """Build the handle that contexts and signals show."""
    enqueued_at = datetime.fromisoformat(row.enqueued_at)
    now = datetime.now(UTC)
    errors = decode_errors(row.errors)
    return TaskResult(
        task=rebuilt(run.task, queue_name=row.queue_name, priority=row.priority, is_copy=True),
        id=row.id,
        status=TaskResultStatus(status.value),
        row_status=status,
        enqueued_at=enqueued_at,
        started_at=now,
        finished_at=None,
        last_attempted_at=now,
        args=json.loads(row.args),
        kwargs=json.loads(row.kwargs),
        backend=run.task.backend,
        errors=list(errors),
        worker_ids=[*(e.worker for e in errors if e.worker), worker_id],
        attempts=row.attempts,
        max_attempts=row.max_attempts or run.task.max_attempts,
        run_after=datetime.fromisoformat(row.run_after),
        headers=decode(row.headers),
    )
