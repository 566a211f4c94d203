"""Say what happens to the blocks of code in the documentation: `python -m tests.docs`.

--lint    lint what is linted, too, with all programs that it takes
"""

from __future__ import annotations

import os
import sys
from collections import Counter

import django

from tests.docs import linting
from tests.docs.markdown import pages, steps

MEANINGS = {
    "python": "executed",
    "settings": "added to settings, and checked by Django",
    "raises": "executed; must raise what the page says",
    "shell": "typed into a shell, and compared",
    "new shell": "typed into a new shell, and compared",
    "sql": "executed in the database",
    "run": "run",
    "start": "started, and stopped with Ctrl+C",
    "install": "run when the installed wheel is tested, linted otherwise",
    "file": "written to a file of a project",
    "append": "added to a file of a project",
    "output": "compared with what was said",
    "lint": "linted",
    "tested by": "run by a test of its own",
    "shown": "no code: output and drawings",
    "not run": "NOT run",
    "test": "(unseen) assertions and preparations",
    "hidden file": "(unseen) files",
    "hidden append": "(unseen) additions to files",
    "hidden run": "(unseen) commands",
}


def main(arguments: list[str]) -> int:
    """Print the count, and the reasons of what is not run; return an exit code."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    found = [step for page in pages() for step in steps(page) if step.code]
    counts = Counter(step.kind for step in found)
    for kind, meaning in MEANINGS.items():
        if counts[kind]:
            sys.stdout.write(f"{counts[kind]:4}  {meaning}\n")
    for step in found:
        if step.kind == "not run":
            sys.stdout.write(f"not run: {step}: {step.argument}\n")
    if "--lint" not in arguments:
        return 0
    problems = 0
    for step in found:
        if step.kind in {"lint", "install"}:
            try:
                linting.lint(step)
            except Exception as error:
                problems += 1
                sys.stdout.write(f"{step}: {error}\n")
    if linting.left_out:
        sys.stdout.write(f"missing programs: {', '.join(sorted(linting.left_out))}\n")
    return 1 if problems or linting.left_out else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
