"""Read the blocks of code, and the comments that say how to try them, from a page of Markdown."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"

# What happens to a block without a comment, by its language.
BY_LANGUAGE = {
    "python": "python",
    "pycon": "shell",
    "console": "run",
    "sh": "run",
    "bash": "run",
    "sql": "sql",
    "dockerfile": "lint",
    "html": "lint",
    "ini": "lint",
    "json": "lint",
    "toml": "lint",
    "yaml": "lint",
    # What a program says, and drawings: no code.
    "text": "shown",
}

# The comments that stand above a block, and the languages that they may stand above.
ABOVE = {
    "file": set(BY_LANGUAGE),
    "append": set(BY_LANGUAGE),
    "settings": {"python"},
    "raises": {"python"},
    "run": {"console", "sh", "bash"},
    "install": {"console", "sh", "bash"},
    "start": {"console", "sh", "bash"},
    "shell": {"pycon"},
    "new shell": {"pycon"},
    "sql": {"sql"},
    "output": {"text"},
    "lint": {"console", "sh", "bash", "dockerfile", "html", "ini", "json", "toml", "yaml"},
    "tested by": set(BY_LANGUAGE),
    "not run": set(BY_LANGUAGE),
}
# Those that stand alone, and those that hold hidden code themselves.
ALONE = {"stop", "terminal", "project", "needs"}
HIDDEN = {"test", "hidden file", "hidden append", "hidden run"}
NEEDS_ARGUMENT = {"file", "append", "raises", "tested by", "not run", "project", "needs"}
NEEDS_ARGUMENT |= {"hidden file", "hidden append"}

# Directives of MyST that hold no code; of the others the contents are read like the page itself.
_NO_CODE = {"toctree", "include", "image", "figure"}


class PageError(Exception):
    """A page says something that the tests do not understand; the text says where and what."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing to do with a page: most often a block of code."""

    page: Path
    line: int
    kind: str
    argument: str = ""
    language: str = ""
    code: str = ""

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def pages() -> list[Path]:
    """Return the README and all pages of the documentation."""
    return [README, *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)]


def name_of(page: Path) -> str:
    """Return the path of a page as readers of messages know it."""
    return page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name


def steps(page: Path) -> list[Step]:
    """Return what there is to do with a page, in order; raise PageError for what is unclear."""
    return list(_Parser(page).steps())


_FENCE = re.compile(r"^(?P<indent>\s*)(?P<marks>`{3,}|~{3,}|:{3,})(?P<info>[^`]*)$")
_COMMENT = re.compile(r"^\s*<!--\s?(.*)$")


class _Parser:
    def __init__(self, page: Path) -> None:
        self.page = page
        self.lines = page.read_text().splitlines()
        self.at = 0
        self.mark: tuple[str, str] = ("", "")
        # The fences of directives whose contents are read like the page.
        self.open: list[str] = []

    def steps(self) -> Iterator[Step]:
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if found := _FENCE.match(line):
                yield from self._fence(found)
            elif found := _COMMENT.match(line):
                yield from self._comment(found[1])
            elif line.strip() and self.mark[0]:
                raise self._error(f"no block of code follows the comment {self.mark[0]!r}")
            else:
                self.at += 1
        if self.mark[0]:
            raise self._error(f"no block of code follows the comment {self.mark[0]!r}")

    def _error(self, problem: str) -> PageError:
        return PageError(f"{name_of(self.page)}:{self.at + 1}: {problem}")

    def _comment(self, first: str) -> Iterator[Step]:
        began, text = self.at + 1, [first]
        while "-->" not in text[-1]:
            self.at += 1
            if self.at == len(self.lines):
                raise self._error("a comment without an end")
            text.append(self.lines[self.at])
        self.at += 1
        text[-1] = text[-1].partition("-->")[0]
        kind, _, argument = (part.strip() for part in text[0].strip().partition(":"))
        if kind not in ABOVE.keys() | ALONE | HIDDEN:
            raise self._error(f"no such comment: {kind!r}; CONTRIBUTING.md lists them")
        if bool(argument) < (kind in NEEDS_ARGUMENT):
            raise self._error(f"the comment {kind!r} needs words after a colon")
        if kind in ABOVE:
            self.mark = (kind, argument)
            return
        code = "\n".join(text[1:]).rstrip()
        yield Step(
            page=self.page,
            line=began,
            kind=kind,
            argument=argument,
            language="console" if kind == "hidden run" else "python",
            code=f"{code}\n" if code else "",
        )

    def _fence(self, found: re.Match[str]) -> Iterator[Step]:
        info, marks = found["info"].strip(), found["marks"]
        if not info and self.open and marks.startswith(self.open[-1]):
            self.open.pop()
            self.at += 1
            return
        directive = re.match(r"\{([\w-]+)\}\s*(.*)$", info)
        if directive and directive[1] not in {"code-block", "literalinclude", *_NO_CODE}:
            self.open.append(marks)
            self.at += 1
            return
        began = self.at + 1
        code = self._until(marks, len(found["indent"]))
        if directive and directive[1] in _NO_CODE:
            return
        if directive and directive[1] == "literalinclude":
            yield self._included(began, directive[2].strip())
            return
        language = directive[2].strip() if directive else info.split()[0] if info else ""
        if directive:
            code = re.sub(r"\A(?::[\w-]+:.*\n)+\n*", "", code)
        yield self._block(began, language, code)

    def _until(self, marks: str, indent: int) -> str:
        """Return the lines up to the closing fence, and go behind it."""
        code: list[str] = []
        self.at += 1
        while self.at < len(self.lines):
            line = self.lines[self.at]
            self.at += 1
            if line.strip().startswith(marks) and not line.strip(marks[0] + " "):
                return "".join(f"{row}\n" for row in code)
            code.append(line[indent:] if line[:indent].isspace() or not indent else line)
        raise self._error(f"the block that begins with {marks} has no end")

    def _included(self, line: int, path: str) -> Step:
        included = self.page.parent / path
        if not included.is_file():
            raise self._error(f"no file {path}")
        kind, argument = self._taken_mark()
        return Step(
            page=self.page,
            line=line,
            kind=kind or "lint",
            argument=argument,
            language=included.suffix.lstrip("."),
            code=included.read_text(),
        )

    def _taken_mark(self) -> tuple[str, str]:
        mark, self.mark = self.mark, ("", "")
        return mark

    def _block(self, line: int, language: str, code: str) -> Step:
        kind, argument = self._taken_mark()
        if language not in BY_LANGUAGE:
            raise PageError(
                f"{name_of(self.page)}:{line}: a block of {language or 'no language'!r}; "
                f"the tests know {', '.join(BY_LANGUAGE)}"
            )
        if kind and language not in ABOVE[kind]:
            raise PageError(
                f"{name_of(self.page)}:{line}: {kind!r} is nothing for a block of {language}"
            )
        kind = kind or BY_LANGUAGE[language]
        if kind == "python" and is_settings(code):
            kind = "settings"
        return Step(
            page=self.page,
            line=line,
            kind=kind,
            argument=argument,
            language=language,
            code=code,
        )


def is_settings(code: str) -> bool:
    """Return whether code does nothing but assign names in capitals, as a settings.py does."""
    try:
        body = ast.parse(code).body
    except SyntaxError:
        return False
    assigned = False
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) if name.isupper():
                assigned = True
            case ast.AugAssign(target=target):
                while isinstance(target, ast.Subscript | ast.Attribute):
                    target = target.value  # type: ignore[assignment]
                assigned = isinstance(target, ast.Name) and target.id.isupper()
            case ast.Assign(targets=[ast.Subscript() as place]):
                while isinstance(place, ast.Subscript):
                    place = place.value  # type: ignore[assignment]
                assigned = isinstance(place, ast.Name) and place.id.isupper()
            case ast.Import() | ast.ImportFrom():
                continue
            case _:
                return False
        if not assigned:
            return False
    return assigned


def commands(code: str) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with what the page says it prints."""
    found: list[tuple[list[str], list[str]]] = []
    goes_on = False
    for line in code.splitlines():
        if line.startswith("$ "):
            found.append(([line[2:]], []))
        elif found and (goes_on or line.startswith("> ")):
            found[-1][0].append(line.removeprefix("> "))
        elif found:
            found[-1][1].append(line)
        elif line.strip():
            raise ValueError(f"what a console shows begins with a command after '$ ': {line!r}")
        goes_on = line.endswith("\\")
    return [("\n".join(command), "\n".join(said)) for command, said in found]
