"""retry, cancel: tasks by their ids, or all that filters leave. prune: what ended long ago."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from django_taskq import control
from django_taskq.control import Changed, ControlError, Skipped
from django_taskq.control.bulk import to_cancel, to_retry
from django_taskq.control.listing import every_line
from django_taskq.management.mistakes import usage
from django_taskq.management.taskqueue.answers import EXIT_ERROR, EXIT_OK, Answer, Verb
from django_taskq.management.taskqueue.parsing import add_filters, filters, seconds, whole
from django_taskq.statuses import TaskStatus
from django_taskq.tasks_api import TaskResultDoesNotExist

# Skipped tasks that are told to people one by one.
_TOLD = 20


def _common(parser: ArgumentParser) -> None:
    parser.add_argument("ids", metavar="ID", nargs="*", help="ids of tasks, or beginnings of ids")
    parser.add_argument(
        "--dry-run", action="store_true", help="say how many it would be, and change nothing"
    )
    parser.add_argument(
        "--no-input",
        "--noinput",
        action="store_true",
        help="do not ask (it asks before it cancels by filters, in a terminal)",
    )


# --- retry ----------------------------------------------------------------------------------------


def _retry_arguments(parser: ArgumentParser) -> None:
    _common(parser)
    parser.add_argument(
        "--all-failed", action="store_true", help="every FAILED task that the other flags leave"
    )
    add_filters(
        parser, status_help="every task of this status: FAILED, CANCELLED, EXPIRED, SUCCESSFUL"
    )
    parser.add_argument(
        "--force", action="store_true", help="SUCCESSFUL ones too; their value is lost"
    )


def _retry(options: dict[str, Any]) -> Answer:
    if options["ids"]:
        _refuse_filters(options, "all_failed")
        return _by_ids("retried", control.retry, options, force=options["force"])
    if not options["all_failed"] and options["status"] is None:
        raise usage("Say what to retry: ids, or --all-failed, or --status EXPIRED.")
    if options["all_failed"] and options["status"] not in (None, TaskStatus.FAILED):
        raise usage(f"--all-failed and --status {options['status']} contradict each other.")
    chosen = {**filters(options), "status": options["status"] or TaskStatus.FAILED.value}
    if to_retry(chosen["status"]) == TaskStatus.SUCCESSFUL and not options["force"]:
        raise usage("SUCCESSFUL tasks run a second time only with --force.")
    if options["dry_run"]:
        return _would("retried", [chosen], options)
    changed = control.retry_all(**chosen, force=options["force"], database=options["database"])
    return _answer("retried", changed)


# --- cancel ---------------------------------------------------------------------------------------


def _cancel_arguments(parser: ArgumentParser) -> None:
    _common(parser)
    parser.add_argument("--all", action="store_true", help="every unfinished task")
    add_filters(parser, status_help="READY, HELD or RUNNING (default: all three)")
    parser.add_argument("--reason", metavar="TEXT", help="is kept in the errors of the tasks")


def _cancel(options: dict[str, Any]) -> Answer:
    more = {} if options["reason"] is None else {"reason": options["reason"]}
    if options["ids"]:
        _refuse_filters(options, "all")
        return _by_ids("cancelled", control.cancel, options, **more)
    chosen = filters(options)
    if not options["all"] and not any(chosen.values()):
        raise usage("Say what to cancel: ids, or --queue, --task, --status, --since, or --all.")
    each = [{**chosen, "status": status.value} for status in to_cancel(chosen["status"])]
    if options["dry_run"]:
        return _would("cancelled", each, options)
    _ask(options, each)
    return _answer("cancelled", control.cancel_all(**chosen, **more, database=options["database"]))


def _ask(options: dict[str, Any], chosen: list[dict[str, Any]]) -> None:
    """Ask before many tasks end, if there is somebody to ask."""
    if options["no_input"] or options["json"] or not sys.stdin.isatty():
        return
    try:
        answer = input(f"Cancel {_count(chosen, options):,} task(s)? [y/N] ")
    except (EOFError, KeyboardInterrupt):
        sys.stdout.write("\n")
        answer = ""
    if answer.strip().lower() not in {"y", "yes"}:
        raise CommandError("Nothing was changed.", returncode=EXIT_ERROR)


# --- prune ----------------------------------------------------------------------------------------


def _prune_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--older-than",
        metavar="TIME",
        type=seconds,
        help="that ended longer ago: 90s, 10m, 2h, 3d, 1w (default: the setting RETENTION)",
    )
    parser.add_argument(
        "--limit", metavar="N", type=whole(1, 10**12), help="so many at the most (default: all)"
    )


def _prune(options: dict[str, Any]) -> Answer:
    deleted = control.prune(
        older_than=options["older_than"], limit=options["limit"], database=options["database"]
    )
    return Answer(data={"deleted": deleted}, lines=[f"{deleted:,} task(s) deleted."])


# --- both -----------------------------------------------------------------------------------------


def _refuse_filters(options: dict[str, Any], everything: str) -> None:
    if options[everything] or any(filters(options).values()):
        raise usage("Give either ids or filters, not both.")
    if options["dry_run"]:
        raise usage("--dry-run is for filters: it says how many tasks they leave.")


def _by_ids(verb: str, act: Any, options: dict[str, Any], **more: Any) -> Answer:
    """Act on tasks by ids; what was asked for by name and not done is an error."""
    known, unknown = [], []
    for text in options["ids"]:
        try:
            known.append(control.find_id(text, database=options["database"]))
        except TaskResultDoesNotExist:
            unknown.append(Skipped(id=text, why="there is no such task"))
        except ControlError as error:
            unknown.append(Skipped(id=text, why=str(error).removeprefix(f"{text!r} ")))
    changed = act(known, database=options["database"], **more)
    changed += Changed(skipped=unknown, skipped_count=len(unknown))
    return _answer(verb, changed, is_strict=True)


def _answer(verb: str, changed: Changed, *, is_strict: bool = False) -> Answer:
    left_out = len(changed.skipped[:_TOLD])
    lines = [f"{changed.count:,} task(s) {verb}."]
    if changed.asked:
        lines.append(f"{changed.asked:,} running task(s) asked to end.")
    lines += [f"{skipped.id}: {skipped.why}" for skipped in changed.skipped[:_TOLD]]
    if changed.skipped_count > left_out:
        lines.append(f"… and {changed.skipped_count - left_out:,} more were skipped.")
    failed = changed.skipped_count if is_strict else not changed.count + changed.asked
    data = {
        verb: changed.count,
        **({"asked": changed.asked} if verb == "cancelled" else {}),
        "skipped_count": changed.skipped_count,
        "skipped": changed.skipped,
    }
    return Answer(data=data, lines=lines, code=EXIT_ERROR if failed else EXIT_OK)


def _would(verb: str, chosen: list[dict[str, Any]], options: dict[str, Any]) -> Answer:
    count = _count(chosen, options)
    return Answer(
        data={f"would_be_{verb}": count},
        lines=[f"{count:,} task(s) would be {verb}."],
        code=EXIT_OK if count else EXIT_ERROR,
    )


def _count(chosen: list[dict[str, Any]], options: dict[str, Any]) -> int:
    alias = control.database_of(options["database"])
    return sum(len(lines) for one in chosen for lines in every_line(alias, **one))


VERBS = (
    Verb(
        name="retry",
        help="run finished tasks again, under their ids",
        add_arguments=_retry_arguments,
        run=_retry,
    ),
    Verb(
        name="cancel",
        help="end tasks that wait, and ask those that run to end",
        add_arguments=_cancel_arguments,
        run=_cancel,
    ),
    Verb(
        name="prune",
        help="delete finished tasks that are old",
        add_arguments=_prune_arguments,
        run=_prune,
    ),
)
