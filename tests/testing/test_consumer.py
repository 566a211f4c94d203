"""A small project with tests of its own uses the helpers, in every way that projects have."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.databases import ROOT, empty_database, url_of

CONSUMER = Path(__file__).resolve().parent / "consumer"
PLUGIN = "django_taskq.testing.pytest_plugin"

pytestmark = pytest.mark.slow


@pytest.fixture
def environment(server_url: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of the project's developer; the package is installed in it."""
    # What an installer writes: this is how pytest finds the plugin.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = tmp_path / "site" / "django_taskq_pg-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(f"Name: {project['name']}\nVersion: 0\n")
    points = project["entry-points"]["pytest11"]
    lines = "\n".join(f"{name} = {target}" for name, target in points.items())
    (installed / "entry_points.txt").write_text(f"[pytest11]\n{lines}\n")
    with empty_database(server_url) as name:
        yield {
            **{
                key: value
                for key, value in os.environ.items()
                if not key.startswith(("PYTEST", "DJANGO_", "TASKWORKER_"))
            },
            "DATABASE_URL": url_of(server_url, name),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(CONSUMER), str(installed.parent)]),
        }


def run(*command: str, environment: dict[str, str], cwd: Path = CONSUMER) -> Any:
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.timeout(300)
def test_pytest_with_the_plugin_and_xdist(environment: dict[str, str]) -> None:
    ran = run("-m", "pytest", "shop/check_with_pytest.py", "-n", "2", environment=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "12 passed" in ran.stdout


@pytest.mark.timeout(300)
def test_djangos_classes_under_pytest(environment: dict[str, str]) -> None:
    ran = run("-m", "pytest", "shop/check_with_unittest.py", environment=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "7 passed" in ran.stdout


@pytest.mark.timeout(300)
def test_djangos_own_runner_in_parallel(environment: dict[str, str]) -> None:
    command = ["manage.py", "test", "--parallel", "2", "-p", "check_with_unittest.py"]
    ran = run("-W", "error", *command, environment=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Ran 7 tests" in ran.stderr


@pytest.mark.timeout(300)
def test_a_failing_test_shows_what_the_worker_has_written(environment: dict[str, str]) -> None:
    ran = run("-m", "pytest", "shop/check_failing.py", environment=environment)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    failures = dict(re.findall(r"_{3,} (\w+) _{3,}\n(.*?)(?=\n_{3,}|\n={3,})", ran.stdout, re.S))
    assert len(failures) == 5, ran.stdout
    for name in ("test_that_fails_beside_the_fixture", "test_that_fails_inside_a_block"):
        assert "✓ shop.tasks.add_group" in failures[name], failures[name]
    assert "The worker has ended with exit code -9" in failures["test_whose_worker_dies"]
    assert "unknown key 'NO_SUCH'" in failures["test_whose_worker_does_not_come_up"]
    said = failures["test_that_misspells_an_option"]
    assert """unknown option 'concurency'. Did you mean "concurrency"?""" in said


def test_the_plugin_leaves_projects_without_django_alone(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "test_plain.py").write_text(
        "import sys\n\n\n"
        "def test_nothing_is_configured():\n"
        "    from django.conf import settings\n\n"
        "    assert not settings.configured\n"
        f"    assert '{PLUGIN}' in sys.modules\n"
        "    assert 'django_taskq.models' not in sys.modules\n"
    )
    without = ["-p", "no:django", "-p", "no:cacheprovider", "-W", "error"]
    ran = run("-m", "pytest", *without, environment=environment, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    listed = run("-m", "pytest", "--fixtures", *without, environment=environment, cwd=tmp_path)
    assert "taskq_worker" in listed.stdout
