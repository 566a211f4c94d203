"""Follow a page from its first block to its last."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from tests.docs.markdown import PageError, Step, pages, steps
from tests.docs.reader import is_installed, reader

# What starts programs beside the page's own Python.
_STARTS = {"run", "hidden run", "start", "install"}


def _readable(page: Path) -> list[Step]:
    """Return the steps of a page; those of one that cannot be read are reported elsewhere."""
    try:
        return steps(page)
    except PageError:
        return []


def _starts_programs(page: Path) -> bool:
    return any(step.kind in _STARTS for step in _readable(page))


PAGES_WITH_PROCESSES = [page for page in pages() if _starts_programs(page)]
PAGES_OF_ONE_PROCESS = [
    page for page in pages() if _readable(page) and page not in PAGES_WITH_PROCESSES
]


def follow(page: Path, directory: Path, server_url: str, template: str) -> None:
    """Do what each block of a page says; fail with the place of the first that is not so."""
    found = steps(page)
    for step in found:
        if step.kind == "needs":
            for module in step.argument.split(", "):
                if not is_installed(module):
                    pytest.skip(f"{step}: this page was NOT followed: no {module}")
    with reader(directory, server_url, template) as someone:
        for step in found:
            try:
                someone.follow(step)
            except Exception as error:
                what = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
                pytest.fail(f"{step} ({step.kind}):\n{step.code}\n{what}", pytrace=False)
