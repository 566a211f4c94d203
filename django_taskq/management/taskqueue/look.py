"""status, list, show, workers: look, and change nothing."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from django_taskq import control
from django_taskq.control import QueueStatus, TaskDetail, WorkerLine
from django_taskq.events import one_line
from django_taskq.management.taskqueue.answers import (
    EXIT_ERROR,
    Answer,
    Verb,
    block,
    cut,
    moment,
    span,
    table,
)
from django_taskq.management.taskqueue.parsing import add_filters, filters, whole


def _no_arguments(parser: ArgumentParser) -> None:
    """Add nothing."""


# --- status ---------------------------------------------------------------------------------------


def _status(options: dict[str, Any]) -> Answer:
    status = control.status(database=options["database"])
    head = ["queue", "due", "later", "held", "running", "failed", "ended/h", "oldest"]
    rows = [
        [
            cut(queue.queue_name, 22),
            *(
                _count(queue, name)
                for name in ("due", "later", "held", "running", "failed", "ended_last_hour")
            ),
            span(queue.oldest_due_seconds),
        ]
        for queue in status.queues
    ]
    lines = table(head, rows, right=" rrrrrrr") if rows else ["There are no tasks."]
    silent = f" ({status.silent_workers} silent)" if status.silent_workers else ""
    lines += [
        "",
        f"{status.workers} worker(s){silent}, {status.busy} of {status.slots} places busy. "
        f"{status.rate_last_minute:,.1f} tasks/s in the last minute, "
        f"{status.rate_last_hour:,.1f} in the hour.",
    ]
    return Answer(data=status, lines=lines)


def _count(queue: QueueStatus, name: str) -> str:
    return f"{getattr(queue, name):,}" + ("+" if name in queue.at_least else "")


# --- list -----------------------------------------------------------------------------------------


def _list_arguments(parser: ArgumentParser) -> None:
    add_filters(parser, status_help="READY, HELD, RUNNING, SUCCESSFUL, FAILED, CANCELLED, EXPIRED")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=whole(1, 10_000),
        default=20,
        help="so many at the most (default: 20)",
    )
    parser.add_argument(
        "--before",
        metavar="PLACE",
        help="go on where a list has ended: what it gave as next",
    )


def _list(options: dict[str, Any]) -> Answer:
    page = control.list_tasks(
        **filters(options),
        limit=options["limit"],
        before=options["before"],
        database=options["database"],
    )
    now = datetime.now(UTC)
    rows = [
        [
            line.id,
            line.status.value,
            span((now - (line.finished_at or line.started_at or line.enqueued_at)).total_seconds()),
            one_line(line.queue_name),
            one_line(line.task) + (f"  {_last_name(line.error)}" if line.error else ""),
        ]
        for line in page.tasks
    ]
    lines = table(["id", "status", "since", "queue", "task"], rows, right="  r") if rows else []
    if page.is_cut:
        lines.append("The search went over 100,000 tasks and stopped.")
    elif not rows:
        lines.append("No task matches.")
    if page.next:
        lines.append(f"There may be more: --before {page.next}")
    data = {"tasks": page.tasks, "next": page.next, "is_cut": page.is_cut}
    return Answer(data=data, lines=lines, code=0 if rows else EXIT_ERROR)


def _last_name(path: str) -> str:
    return one_line(path.rpartition(".")[2])


# --- show -----------------------------------------------------------------------------------------


def _show_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the id of a task, or the beginning of one")


def _show(options: dict[str, Any]) -> Answer:
    detail = control.show(options["id"], database=options["database"])
    return Answer(data=detail, lines=[*_facts(detail), *_errors(detail)])


def _facts(detail: TaskDetail) -> Iterator[str]:
    attempts = f"{detail.attempts} of {detail.max_attempts or 'as many as @task says'}"
    if detail.crashes:
        attempts += f", {detail.crashes} crash(es)"
    known = {
        "id": detail.id,
        "task": detail.task,
        "status": detail.status.value,
        "why": detail.why,
        "queue": f"{detail.queue_name}, priority {detail.priority}",
        "attempts": attempts,
        "enqueued": moment(detail.enqueued_at),
        "run after": moment(detail.run_after),
        "expires": moment(detail.expires_at) if detail.expires_at else "",
        "started": moment(detail.started_at) if detail.started_at else "",
        "finished": moment(detail.finished_at) if detail.finished_at else "",
        "worker": detail.worker_id or "",
        "arguments": _json(detail.args),
        "keywords": _json(detail.kwargs),
        "options": _json(detail.options),
        "headers": _json(detail.headers),
        "progress": _json(detail.progress),
        "value": _json(detail.return_value) if detail.finished_at else "",
    }
    for name, text in known.items():
        if text:
            yield f"{name:<10} {one_line(text, 4000)}"


def _json(value: Any) -> str:
    return "" if value in (None, [], {}) else json.dumps(value, ensure_ascii=False)


def _errors(detail: TaskDetail) -> Iterator[str]:
    for record in detail.errors:
        kind = one_line(str(record.get("exception_class_path", "")))
        yield ""
        when = one_line(str(record.get("finished_at", "")))
        message = one_line(str(record.get("message", "")), 2000)
        yield f"attempt {record.get('attempt', '?')}, {when}: {kind}: {message}"
        yield from block(str(record.get("traceback", "")), "  ")


# --- workers --------------------------------------------------------------------------------------


def _workers(options: dict[str, Any]) -> Answer:
    workers = control.workers(database=options["database"])
    head = ["host", "pid", "pool", "queues", "children", "busy", "claimed", "seen"]
    rows = [
        [
            cut(worker.host, 20),
            str(worker.pid or "gone"),
            worker.pool,
            cut(_served(worker), 24),
            str(len(worker.children)),
            f"{worker.busy}/{worker.concurrency}",
            str(worker.claimed),
            span(worker.last_seen_seconds) + (" !" if worker.is_silent else ""),
        ]
        for worker in workers
    ]
    lines = table(head, rows, right=" r  rrrr") if rows else ["No worker runs."]
    return Answer(data={"workers": workers}, lines=lines, code=0 if rows else EXIT_ERROR)


def _served(worker: WorkerLine) -> str:
    names = ",".join(worker.queues) or "all"
    return names + "".join(f" -{name}" for name in worker.excluded)


VERBS = (
    Verb(
        name="status",
        help="what the queues hold, who works on it, and how fast it goes",
        add_arguments=_no_arguments,
        run=_status,
    ),
    Verb(
        name="list",
        help="tasks, newest first; without arguments and messages",
        add_arguments=_list_arguments,
        run=_list,
    ),
    Verb(
        name="show",
        help="everything about one task, and why it does not run",
        add_arguments=_show_arguments,
        run=_show,
    ),
    Verb(
        name="workers",
        help="the workers with their processes",
        add_arguments=_no_arguments,
        run=_workers,
    ),
)
