"""Build an sdist, a wheel from it, and try that wheel in empty environments.

1. `python -m build` makes the sdist, and the wheel from the sdist. Both hold what they should.
2. For each pair of Python and Django that is here: a new project by `django-admin startproject` is
   migrated, enqueues, has its task run by `taskworker --burst`, and reads the result.
3. A typed project that uses the public API is judged by mypy, with and without the plugin of
   django-stubs and without any stubs, and by pyright.
4. The README and the tutorial are followed literally, `pip install` included.

Wants DATABASE_URL: `python example_project/embedded_postgres.py run -- python -m tests.packaging`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.packaging import artifacts, consumer_types, scratch_project

ROOT = Path(__file__).resolve().parent.parent.parent

# The newest Django of each series that pip would find, with the Pythons it is tried on. On Python
# 3.11 the backport comes by itself, later Pythons ask for the extra.
PAIRS = [
    ("3.11", "django>=5.2,<5.3", ""),
    ("3.12", "django>=5.2,<5.3", "django52"),
    ("3.12", "django>=6.0,<6.1", ""),
    ("3.13", "django>=6.1,<6.2", ""),
]


def main() -> None:
    """Run all steps; a failure ends them with its output."""
    parser = argparse.ArgumentParser(description="Build the package and try it.")
    parser.add_argument("--out", type=Path, help="keep sdist and wheel in this directory")
    options = parser.parse_args()
    server_url = os.environ.get("DATABASE_URL")
    if server_url is None:
        parser.error("DATABASE_URL must name a server on which databases may be made")
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        out = (options.out or here / "dist").resolve()
        wheel = artifacts.build(ROOT, out)
        ran = 0
        for number, (python, django, extra) in enumerate(PAIRS):
            interpreter = scratch_project.find_python(python)
            if interpreter is None:
                say(f"SKIPPED: no Python {python} for {django}")
                continue
            scratch_project.try_wheel(
                here / f"pair{number}", wheel, interpreter, django, extra, server_url
            )
            ran += 1
        if not ran:
            sys.exit("the wheel was tried on no Python")
        consumer_types.check(here / "types", wheel)
        follow_pages(out)


def follow_pages(wheels: Path) -> None:
    """Follow what a new user reads, with the package installed as it is written there."""
    say("README and tutorial, followed with the wheel")
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
            *("-k", "README or tutorial", "tests/docs/test_pages_with_processes.py"),
        ],
        cwd=ROOT,
        env={**os.environ, "TASKQ_DOCS_WHEELS": str(wheels)},
        check=True,
    )


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
