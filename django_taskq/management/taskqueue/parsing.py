"""What the verbs' flags share, and errors that help."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from django_taskq.control import ControlError
from django_taskq.control.listing import known_status
from django_taskq.events import one_line
from django_taskq.management.mistakes import explained, usage

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class HelpfulParser(CommandParser):
    """Know what a mistyped flag might have meant."""

    def error(self, message: str) -> Any:
        super().error(one_line(explained(message, self._option_string_actions), 2000))


def add_filters(parser: ArgumentParser, *, status_help: str) -> None:
    """Add the flags that choose among tasks."""
    parser.add_argument("--status", metavar="STATUS", type=status, help=status_help)
    parser.add_argument("--queue", metavar="NAME", help="of this queue; * and ? allowed")
    parser.add_argument("--task", metavar="NAME", help="of this name; * and ? allowed")
    parser.add_argument(
        "--since",
        metavar="TIME",
        type=past,
        help="not older than that: 90s, 10m, 2h, 3d, 1w, or a date or time in ISO format",
    )


def filters(options: dict[str, Any]) -> dict[str, Any]:
    """Return what `add_filters` has read, as `control` takes it."""
    return {
        "status": options["status"],
        "queue_name": options["queue"],
        "task": options["task"],
        "since": options["since"],
    }


def status(text: str) -> str:
    """Read a status, in any case."""
    try:
        return known_status(text).value
    except ControlError as error:
        raise ArgumentTypeError(str(error)) from None


def whole(least: int, most: int) -> Callable[[str], int]:
    """Make a reader of whole numbers."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not least <= number <= most:
            raise ArgumentTypeError(f"{number} is not between {least} and {most}")
        return number

    return read


def seconds(text: str) -> float:
    """Read a duration: a number of seconds, or 90s, 10m, 2h, 3d, 1w."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", text.strip())
    if found is None:
        raise ArgumentTypeError(f"{text!r} is not a duration such as 90s, 10m, 2h, 3d or 1w")
    try:
        return timedelta(**{_UNITS[found[2] or "s"]: float(found[1])}).total_seconds()
    except OverflowError:
        raise ArgumentTypeError(f"{text!r} is too long") from None


def past(text: str) -> datetime:
    """Read a moment: so long ago, or a date or time in ISO format."""
    return _moment(text, -1)


def future(text: str) -> datetime | timedelta:
    """Read when to start: after so long, or at a date or time in ISO format."""
    try:
        return timedelta(seconds=seconds(text))
    except ArgumentTypeError:
        return _moment(text, 1)


def _moment(text: str, direction: int) -> datetime:
    try:
        return timezone.now() + direction * timedelta(seconds=seconds(text))
    except (ArgumentTypeError, OverflowError):
        pass
    try:
        found = parse_datetime(text)
        if found is None and (day := parse_date(text)) is not None:
            found = datetime(day.year, day.month, day.day)
    except ValueError:
        found = None
    if found is None:
        raise ArgumentTypeError(
            f"{text!r} is not a time: write 90s, 10m, 2h, 3d or 1w, or 2026-01-31T12:00"
        )
    return timezone.make_aware(found) if timezone.is_naive(found) else found


def arguments(texts: list[str], kwargs: str | None) -> tuple[list[Any], dict[str, Any]]:
    """Read a task's arguments, each a JSON text. Raise CommandError with what to write instead."""
    args = [_json(text, f"argument {place}") for place, text in enumerate(texts, start=1)]
    named = _json(kwargs, "--kwargs") if kwargs is not None else {}
    if not isinstance(named, dict):
        raise usage(f"""--kwargs takes a JSON object such as '{{"name": "Ada"}}', not {kwargs}""")
    return args, named


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        hint = ""
        if re.fullmatch(r"[^\"'{}\[\]]+", text):
            hint = f" A text has quotes of its own: '{json.dumps(text, ensure_ascii=False)}'"
        raise usage(f"{where} is not JSON: {text} ({error}).{hint}") from None
