"""Find the statements of the package, and see with which parameters its code sends them."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

import psycopg

from django_taskq import control, results, transitions

_TAG = "/* django_taskq:"


def modules() -> list[ModuleType]:
    """Return every module that holds statements."""
    return [
        importlib.import_module(f"{package.__name__}.{module.name}")
        for package in (transitions, control)
        for module in pkgutil.iter_modules(package.__path__)
    ] + [results]


def statements() -> dict[str, str]:
    """Return the text of every statement by its name, such as "claim.CLAIM"."""
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}": value
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, str) and value.strip().startswith(_TAG)
    }


@dataclass(frozen=True)
class Sent:
    """A statement with the parameters that the code has given it."""

    text: str
    parameters: Any


class _Answer:
    """An answer without rows; what is read of it does not matter."""

    rowcount = 0
    description = None

    def fetchall(self) -> list[Any]:
        return []

    def fetchone(self) -> Any:
        raise _EnoughSeen


class _EnoughSeen(Exception):
    """The statement was sent: what the code makes of its answer is not asked."""


class Recorder:
    """Stand in for a connection or a cursor, and note what is sent."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []

    def execute(self, text: str, parameters: Any = None, *, prepare: bool | None = None) -> _Answer:
        self.sent.append(Sent(text, parameters))
        return _Answer()

    def fetchone(self) -> Any:
        raise _EnoughSeen

    def fetchall(self) -> list[Any]:
        raise _EnoughSeen

    @contextmanager
    def transaction(self) -> Iterator[None]:
        yield


def sent_by(call: Callable[[Any], object]) -> list[Sent]:
    """Return what `call` sends, on the connection that it is given or on the user's."""
    recorder = Recorder()

    @contextmanager
    def user_cursor(alias: str) -> Iterator[Recorder]:
        yield recorder

    with ExitStack() as patched:
        for module in ("transitions.enqueue", "transitions.operate", "results"):
            patched.enter_context(mock.patch(f"django_taskq.{module}.user_cursor", user_cursor))
        patched.enter_context(mock.patch("django_taskq.db.reading_cursor", user_cursor))
        with suppress(_EnoughSeen, LookupError):
            call(recorder)
    return recorder.sent


def prepared(sent: Sent, name: str, connection: psycopg.Connection[Any]) -> tuple[str, str]:
    """Return the texts of PREPARE and of EXECUTE for a statement that was sent."""
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        return f"${numbers.setdefault(match[1], len(numbers) + 1)}"

    text = re.sub(r"%\((\w+)\)s|%%", number, sent.text) if sent.parameters else sent.text
    with psycopg.ClientCursor(connection) as cursor:
        values = ", ".join(cursor.mogrify("%s", [sent.parameters[key]]) for key in numbers)
    return f"PREPARE {name} AS {text}", f"EXECUTE {name}" + (f"({values})" if values else "")
