"""How an answer is written: text for people, or one JSON document for programs."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from typing import Any

from django_taskq.events import one_line

# Done, or well; an error, unhealthy, or nothing matched.
EXIT_OK, EXIT_ERROR = 0, 1


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a verb has to say, in both forms, and the exit code."""

    data: Any
    lines: Sequence[str]
    code: int = EXIT_OK


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A word after `manage.py taskqueue`."""

    name: str
    help: str
    add_arguments: Callable[[ArgumentParser], None]
    # Gets the options, `database` among them.
    run: Callable[[dict[str, Any]], Answer]
    # Whether it looks into a database: --database is one of its flags then.
    has_database: bool = True


def as_json(value: Any) -> Any:
    """Turn dataclasses and times into what JSON has; times are ISO 8601 in UTC."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value


def dumps(value: Any, *, ensure_ascii: bool = False) -> str:
    """Write the one JSON document; what JSON lacks is written as text.

    JSON itself escapes few control characters: those that drive a terminal or turn the direction
    of writing are escaped here, which means the same to whoever reads the document.
    """
    text = json.dumps(as_json(value), indent=2, ensure_ascii=ensure_ascii, default=repr)
    return escaped(text)


def escaped(text: str) -> str:
    """Write what cannot be printed in JSON text as JSON's own escapes."""
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def shown(lines: Iterable[str]) -> str:
    """Join lines for a terminal, which none of them may drive, nor break in two."""
    return "\n".join(one_line(line, sys.maxsize) for line in lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: str = "") -> list[str]:
    """Draw a table; `right` has an "r" for each column that holds numbers, else a space."""
    cells = [list(head), *[[one_line(cell) for cell in row] for row in rows]]
    widths = [max(len(row[place]) for row in cells) for place in range(len(head))]
    sides = right.ljust(len(head))
    return [
        "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, sides, strict=False)
        ).rstrip()
        for row in cells
    ]


def cut(text: str, width: int) -> str:
    """Make a name fit into a column; its end says more than its beginning."""
    line = one_line(text)
    return line if len(line) <= width else "…" + line[1 - width :]


def span(seconds: float | None) -> str:
    """Write a time that has passed in at most two units."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60} min"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d"


def moment(when: datetime | None) -> str:
    """Write a time in UTC, to the second."""
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if when else "–"


def block(text: str, indent: str) -> list[str]:
    """Write text of several lines, each fit for a terminal."""
    return [indent + one_line(line, 2000) for line in text.splitlines()]
