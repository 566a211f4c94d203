"""The flags of `manage.py taskworker`; most have an environment variable, too."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandParser

from django_taskq import conf
from django_taskq.management.mistakes import usage


def add_flags(parser: CommandParser) -> None:
    """Declare all flags."""
    _add_what(parser.add_argument_group("What to run"))
    how = parser.add_argument_group("How to run")
    _add_pool(how)
    _add_life_of_a_child(how)
    _add_life(how)
    _add_whereabouts(how)


def _add_what(what: Any) -> None:
    what.add_argument(
        "-Q",
        "--queues",
        metavar="NAMES",
        default=os.environ.get("TASKWORKER_QUEUES", ""),
        help="comma separated, in order of preference; globs allowed (default: all queues)",
    )
    what.add_argument(
        "-X",
        "--exclude-queues",
        metavar="NAMES",
        default=os.environ.get("TASKWORKER_EXCLUDE_QUEUES", ""),
        help="leave these out; comma separated, globs allowed (default: none)",
    )
    what.add_argument(
        "--burst",
        action="store_true",
        help="exit when nothing is due now (for cron, tests, CI)",
    )
    what.add_argument(
        "--max-tasks",
        metavar="N",
        type=_whole(1),
        default=_environment("TASKWORKER_MAX_TASKS", _whole(1), 0),
        help="exit after N tasks; no more are started (default: no limit)",
    )


def _add_pool(how: Any) -> None:
    how.add_argument(
        "-P",
        "--pool",
        metavar="POOL",
        choices=list(conf.POOLS),
        default=_environment("TASKWORKER_POOL", _pool, None),
        help="processes, threads, asyncio or solo, which is for debuggers (default: processes)",
    )
    how.add_argument(
        "-c",
        "--concurrency",
        metavar="N",
        type=_whole(1),
        default=_environment("TASKWORKER_CONCURRENCY", _whole(1), None),
        help="tasks at once (default: number of processors; threads 10, asyncio 100)",
    )


def _add_life_of_a_child(how: Any) -> None:
    how.add_argument(
        "--max-tasks-per-child",
        metavar="N",
        type=_whole(0),
        default=_environment("TASKWORKER_MAX_TASKS_PER_CHILD", _whole(0), None),
        help="replace a process after N tasks (default: 0, no limit)",
    )
    how.add_argument(
        "--max-memory-per-child",
        metavar="MB",
        type=_whole(0),
        default=_environment("TASKWORKER_MAX_MEMORY_PER_CHILD", _whole(0), None),
        help="replace a process that holds more, after its task (default: 0, no limit)",
    )


def _add_life(how: Any) -> None:
    how.add_argument(
        "--shutdown-timeout",
        metavar="SECONDS",
        type=_seconds,
        default=_environment("TASKWORKER_SHUTDOWN_TIMEOUT", _seconds, None),
        help="time that running tasks get to finish after a stop (default: 25)",
    )
    how.add_argument(
        "--reload",
        action=argparse.BooleanOptionalAction,
        default=_environment("TASKWORKER_RELOAD", _yes_or_no, None),
        help="start anew when the code changes (default: if DEBUG is on; never with --burst)",
    )
    how.add_argument(
        "--no-preload",
        dest="preload",
        action="store_false",
        default=not _environment("TASKWORKER_NO_PRELOAD", _yes_or_no, False),
        help="load the project in each process for itself, not once before the fork",
    )


def _add_whereabouts(how: Any) -> None:
    how.add_argument(
        "--health-port",
        metavar="[HOST:]PORT",
        type=_address,
        default=_environment("TASKWORKER_HEALTH_PORT", _address, None),
        help="answer GET /live and /ready there (default: 0, nowhere; HOST: 127.0.0.1)",
    )
    how.add_argument(
        "--database",
        metavar="ALIAS",
        help="the database with the tasks (default: that of the TASKS setting)",
    )


# --- what a flag takes -----------------------------------------------------------------------


def _pool(text: str) -> str:
    if text not in conf.POOLS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(conf.POOLS)}")
    return text


def _whole(least: int) -> Callable[[str], int]:
    """Make a parser of whole numbers from `least` up."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} is less than {least}")
        return number

    return parse


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 up")
    return seconds


def _yes_or_no(text: str) -> bool:
    answers = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    try:
        return answers[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 1 nor 0") from None


def _address(text: str) -> tuple[str, int]:
    try:
        return conf.address_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _environment(name: str, parse: Callable[[str], Any], default: Any) -> Any:
    """Read an option from the environment. Raise CommandError if it is no good."""
    text = os.environ.get(name)
    if not text:
        return default
    try:
        return parse(text)
    except argparse.ArgumentTypeError as error:
        raise usage(f"{name}: {error}") from None
