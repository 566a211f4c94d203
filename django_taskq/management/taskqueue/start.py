"""enqueue, run: start a task by its name."""

from __future__ import annotations

import contextlib
import json
import sys
from argparse import ArgumentParser
from typing import Any

from django_taskq import control, registry
from django_taskq.events import one_line
from django_taskq.exceptions import ArgumentsError, PayloadTooLarge, TaskControl, UnknownTask
from django_taskq.management.mistakes import usage
from django_taskq.management.taskqueue.answers import EXIT_ERROR, EXIT_OK, Answer, Verb, escaped
from django_taskq.management.taskqueue.parsing import arguments, future, seconds, whole
from django_taskq.router import our_backends
from django_taskq.task import Task, find_or_raise
from django_taskq.tasks_api import InvalidTask


def _call_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", help="the name of the task, such as shop.tasks.send"
    )
    parser.add_argument(
        "arguments",
        metavar="JSON",
        nargs="*",
        help="""an argument as JSON: 42, '"text"', '[1, 2]'""",
    )
    parser.add_argument("--kwargs", metavar="JSON", help="""keyword arguments: '{"name": "Ada"}'""")


def _find(name: str) -> Task[..., Any]:
    failures = registry.discover()
    try:
        return find_or_raise(name)
    except UnknownTask as error:
        broken = [failure.module for failure in failures if not failure.is_foreign]
        more = f" These could not be imported: {', '.join(broken)}." if broken else ""
        raise usage(f"{error}{more}") from None


# --- enqueue --------------------------------------------------------------------------------------


def _enqueue_arguments(parser: ArgumentParser) -> None:
    _call_arguments(parser)
    parser.add_argument("--queue", metavar="NAME", help="another queue than the task's own")
    parser.add_argument(
        "--priority", metavar="N", type=whole(-100, 100), help="-100 to 100, higher first"
    )
    parser.add_argument(
        "--run-after",
        metavar="TIME",
        type=future,
        help="not before: 90s, 10m, 2h, 3d, 1w from now, or a date or time in ISO format",
    )
    parser.add_argument(
        "--max-attempts", metavar="N", type=whole(1, 32767), help="so many attempts in all"
    )
    parser.add_argument(
        "--expires-after", metavar="TIME", type=seconds, help="do not start it later: 90s, 10m, 2h"
    )


def _enqueue(options: dict[str, Any]) -> Answer:
    task = _find(options["name"])
    args, kwargs = arguments(options["arguments"], options["kwargs"])
    changes = {
        "queue_name": options["queue"],
        "priority": options["priority"],
        "run_after": options["run_after"],
        "max_attempts": options["max_attempts"],
        "expires_after": options["expires_after"],
        "backend": _backend(task, options["database"]),
    }
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        result = (task.using(**given) if given else task).enqueue(*args, **kwargs)
    except (ArgumentsError, PayloadTooLarge, InvalidTask) as error:
        raise usage(str(error)) from None
    data = {
        "id": result.id,
        "task": task.key,
        "queue_name": result.task.queue_name,
        "priority": result.task.priority,
        "status": result.row_status,
        "run_after": result.run_after,
    }
    return Answer(data=data, lines=[result.id])


def _backend(task: Task[..., Any], database: str | None) -> str | None:
    """Return the backend that keeps its tasks in this database, if it is not the task's own."""
    if database is None or getattr(task.get_backend(), "database", None) == database:
        return None
    alias = control.database_of(database)
    for backend in our_backends():
        if backend.database == alias:
            return str(backend.alias)
    raise usage(f'No backend in TASKS keeps its tasks in the database "{alias}".')


# --- run ------------------------------------------------------------------------------------------


def _run(options: dict[str, Any]) -> Answer:
    task = _find(options["name"])
    args, kwargs = arguments(options["arguments"], options["kwargs"])
    # What the task prints must not get into the document.
    aside: Any = (
        contextlib.redirect_stdout(sys.stderr) if options["json"] else contextlib.nullcontext()
    )
    try:
        with aside:
            ran = control.run_here(task.key, args, kwargs, report=_tell)
    except (ArgumentsError, PayloadTooLarge) as error:
        raise usage(str(error)) from None
    except TaskControl as wish:
        said = f"{type(wish).__name__}: {wish}" if str(wish) else type(wish).__name__
        return Answer(
            data={"task": task.key, "raised": type(wish).__name__, "message": str(wish)},
            lines=[f"The task raised {one_line(said)}: a worker would act on that."],
            code=EXIT_ERROR,
        )
    value = escaped(json.dumps(ran.return_value, ensure_ascii=False, default=repr))
    lines = [value]
    if ran.problem:
        lines.append(f"A worker could not store this value: {ran.problem}")
    return Answer(data=ran, lines=lines, code=EXIT_ERROR if ran.problem else EXIT_OK)


def _tell(progress: dict[str, Any]) -> None:
    done, total = progress["done"], progress["total"]
    text = f"{done:g} of {total:g}" if total is not None else f"{done:g}"
    sys.stderr.write(f"{text} {one_line(str(progress['message']))}".rstrip() + "\n")


VERBS = (
    Verb(
        name="enqueue",
        help="put a task into its queue",
        add_arguments=_enqueue_arguments,
        run=_enqueue,
    ),
    Verb(
        name="run",
        help="run a task here and now, without a row and a worker: for debuggers",
        add_arguments=_call_arguments,
        run=_run,
        has_database=False,
    ),
)
