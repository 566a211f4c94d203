"""Let mypy and pyright judge a typed project that uses the installed wheel."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.packaging import environments

CONSUMER = Path(__file__).parent / "consumer"


def check(directory: Path, wheel: Path) -> None:
    """Raise AssertionError with what a checker says against right code, or leaves out of wrong."""
    directory.mkdir()
    needs = [f"django-taskq-pg @ {wheel.as_uri()}", "psycopg[binary]", "mypy"]
    needs.append("pyright[nodejs]")
    bare = environments.make(directory / "bare", sys.executable, *needs)
    stubs = environments.make(directory / "stubs", sys.executable, *needs, "django-stubs")
    project = directory / "project"
    shutil.copytree(CONSUMER, project)
    for number, (name, programs, command) in enumerate(
        [
            ("mypy with the plugin", stubs, ["mypy", "--config-file", "mypy_with_plugin.ini"]),
            ("mypy with stubs, no plugin", stubs, ["mypy", "--config-file", "mypy.ini"]),
            ("mypy without stubs", bare, ["mypy", "--config-file", "mypy.ini"]),
            ("pyright with stubs", stubs, ["pyright", "--pythonpath", str(stubs / "python")]),
            ("pyright without stubs", bare, ["pyright", "--pythonpath", str(bare / "python")]),
        ]
    ):
        if command[0] == "mypy":
            command = [*command, "--cache-dir", str(directory / f"cache{number}")]
        said = environments.run(programs, project, *command).strip().splitlines()
        sys.stdout.write(f"a typed project: {name}: {said[-1]}\n")
        sys.stdout.flush()
