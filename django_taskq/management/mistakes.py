"""Answers to a mistyped command line that help."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_taskq.events import one_line
from django_taskq.suggestions import did_you_mean

# What argparse ends with, too.
EXIT_USAGE = 2


def usage(message: str) -> CommandError:
    """Make the error of a command that was used wrongly."""
    return CommandError(one_line(message, 2000), returncode=EXIT_USAGE)


def explain_mistakes(parser: CommandParser, known: Callable[[], Iterable[str]]) -> None:
    """Let a command's parser say what an unknown word might have meant, among those `known`."""

    def error(message: str) -> Any:
        CommandParser.error(parser, one_line(explained(message, known()), 2000))

    setattr(parser, "error", error)  # noqa: B010  # mypy: a method is no attribute


def explained(message: str, known: Iterable[str]) -> str:
    """Add "did you mean" to what argparse says of an unknown word."""
    found = re.search(r"unrecognized arguments: (\S+)|invalid choice: '([^']*)'", message)
    if found is None:
        return message
    word = (found[1] or found[2]).partition("=")[0]
    names = list(known)
    if word in names:  # a flag of a verb, before the verb
        return f"{message}. Write {word} behind the verb that takes it."
    near = did_you_mean(word, names)
    return f"{message}.{near}" if near else message
