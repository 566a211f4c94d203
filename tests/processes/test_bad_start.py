"""A worker that cannot start says why, in words that help, and with an exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests.processes.conftest import Starter
from tests.support.databases import ROOT, empty_database, migrate, url_of

pytestmark = pytest.mark.slow

SETTINGS = "from tests.processes.settings import *\n"


def make_app(directory: Path, name: str, tasks: str) -> None:
    """Write an app with a tasks.py."""
    (directory / name).mkdir(parents=True)
    (directory / name / "__init__.py").touch()
    (directory / name / "tasks.py").write_text(tasks)


def test_a_tasks_py_that_cannot_be_imported_shows_its_traceback(
    start: Starter, tmp_path: Path
) -> None:
    make_app(tmp_path, "shop", "import no_such_module\n")
    (tmp_path / "project.py").write_text(SETTINGS + "INSTALLED_APPS = [*INSTALLED_APPS, 'shop']\n")
    worker = start(ready=False, settings="project")
    assert worker.wait() == 1
    assert "shop.tasks" in worker.output
    assert "ModuleNotFoundError: No module named 'no_such_module'" in worker.output
    assert "tasks registered" not in worker.output


def test_a_project_that_fails_only_in_the_nursery_shows_its_traceback(
    start: Starter, tmp_path: Path
) -> None:
    # Such a project exists: what it does at import depends on the process that imports it.
    make_app(
        tmp_path,
        "shop",
        "import os, sys\n"
        "if 'DJANGO_TASKQ_DATABASE_NAMES' in os.environ:\n"
        "    raise RuntimeError('not in here')\n",
    )
    (tmp_path / "project.py").write_text(SETTINGS + "INSTALLED_APPS = [*INSTALLED_APPS, 'shop']\n")
    worker = start(ready=False, settings="project")
    assert worker.wait() == 1
    assert "The project could not be loaded" in worker.output
    assert "RuntimeError: not in here" in worker.output


def test_a_broken_tasks_py_of_an_installed_package_is_only_a_warning(
    start: Starter, tmp_path: Path
) -> None:
    packages = tmp_path / "packages"
    make_app(packages, "celery_app", "import celery_is_not_here\n")
    (tmp_path / "project.py").write_text(
        # As an installed package lies: among those of this Python.
        "import sys, sysconfig\n"
        f"sys.path.append({str(packages)!r})\n"
        "get_path = sysconfig.get_path\n"
        f"sysconfig.get_path = lambda name, *rest: {str(packages)!r} if name == 'purelib' "
        "else get_path(name, *rest)\n"
        + SETTINGS
        + "INSTALLED_APPS = [*INSTALLED_APPS, 'celery_app']\n"
    )
    worker = start("--burst", ready=False, settings="project")
    assert worker.wait() == 0
    assert "celery_app.tasks" in worker.output
    assert "celery_is_not_here" in worker.output
    assert "tasks registered" in worker.output


def test_a_broken_tasks_py_among_the_users_own_packages_is_only_a_warning(
    start: Starter, tmp_path: Path
) -> None:
    base = {**os.environ, "PYTHONUSERBASE": str(tmp_path / "user")}
    asked = [sys.executable, "-m", "site", "--user-site"]
    # Its exit code says whether this Python looks there by itself: not in an environment.
    packages = subprocess.run(asked, env=base, capture_output=True, text=True).stdout.strip()
    make_app(Path(packages), "celery_app", "import celery_is_not_here\n")
    link = tmp_path / "link"
    link.symlink_to(packages, target_is_directory=True)
    (tmp_path / "project.py").write_text(
        SETTINGS + "INSTALLED_APPS = [*INSTALLED_APPS, 'celery_app']\n"
    )
    worker = start(
        "--burst",
        ready=False,
        settings="project",
        environment={
            "PYTHONUSERBASE": base["PYTHONUSERBASE"],
            "PYTHONPATH": os.pathsep.join([str(link), str(tmp_path), str(ROOT)]),
        },
    )
    assert worker.wait() == 0
    assert "django_taskq.W008" in worker.output
    assert "celery_is_not_here" in worker.output


def test_two_tasks_with_one_name_are_refused(start: Starter, tmp_path: Path) -> None:
    make_app(
        tmp_path,
        "shop",
        "from django_taskq import task\n"
        "@task(name='pay')\ndef pay_by_card(): ...\n"
        "@task(name='pay')\ndef pay_by_invoice(): ...\n",
    )
    (tmp_path / "project.py").write_text(SETTINGS + "INSTALLED_APPS = [*INSTALLED_APPS, 'shop']\n")
    worker = start(ready=False, settings="project")
    assert worker.wait() == 1
    assert 'Two tasks are called "pay"' in worker.output
    assert "shop/tasks.py:2" in worker.output and "shop/tasks.py:4" in worker.output
    assert "Traceback" not in worker.output


def test_missing_tables_name_the_command_that_makes_them(start: Starter, server_url: str) -> None:
    with empty_database(server_url) as name:
        worker = start(ready=False, environment={"DATABASE_URL": url_of(server_url, name)})
        assert worker.wait() == 1
        assert "manage.py migrate" in worker.output
        assert "Traceback" not in worker.output


def test_migrations_that_have_not_run_are_named_with_the_command(
    start: Starter, server_url: str
) -> None:
    with empty_database(server_url) as name:
        url = url_of(server_url, name)
        migrate(url, "django_taskq", "0001")
        worker = start(ready=False, environment={"DATABASE_URL": url})
        assert worker.wait() == 1
        assert "lacks migrations of django_taskq (0002_headers, " in worker.output
        assert "run manage.py migrate." in worker.output
        assert "Traceback" not in worker.output
        migrate(url, "django_taskq")
        assert start("--burst", ready=False, environment={"DATABASE_URL": url}).wait() == 0


def test_a_database_that_is_ahead_of_the_code_stops_no_worker(
    start: Starter, server_url: str
) -> None:
    with empty_database(server_url) as name:
        url = url_of(server_url, name)
        migrate(url, "django_taskq")
        with psycopg.connect(url) as next_version:
            next_version.execute(
                "INSERT INTO django_migrations (app, name, applied) "
                "VALUES ('django_taskq', '9999_next_version', now())"
            )
        worker = start("--burst", ready=False, environment={"DATABASE_URL": url})
        assert worker.wait() == 0
        assert "migrat" not in worker.output


def test_another_engine_is_refused(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text(
        SETTINGS + "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', "
        "'NAME': 'db.sqlite3'}}\n"
    )
    worker = start(ready=False, settings="project")
    assert worker.wait() == 1
    assert "PostgreSQL" in worker.output and "SQLite" in worker.output
    assert "django_taskq.E001" in worker.output
    assert "Traceback" not in worker.output


def test_the_other_project_of_our_name_stops_the_worker_with_what_to_do(
    start: Starter, tmp_path: Path
) -> None:
    # As pip leaves it; this directory is in the worker's path.
    installed = tmp_path / "django_taskq-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: django-taskq\nVersion: 1.0\n")
    worker = start("--burst", ready=False)
    assert worker.wait() == 1
    assert "django_taskq.E005" in worker.output
    assert "pip uninstall -y django-taskq django-taskq-pg" in worker.output
    assert "Traceback" not in worker.output
    assert "tasks registered" not in worker.output


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('{"CONCURENCY": 3}', 'Did you mean "CONCURRENCY"?'),
        ('{"LISTEN": "no"}', "True or False"),
    ],
)
def test_a_bad_setting_is_refused(
    setting: str, message: str, start: Starter, tmp_path: Path
) -> None:
    (tmp_path / "project.py").write_text(SETTINGS + f"DJANGO_TASKQ = {setting}\n")
    worker = start(ready=False, settings="project")
    assert worker.wait() == 1
    assert message in worker.output
    assert "Traceback" not in worker.output


def test_a_database_that_is_down_is_waited_for_and_then_given_up(
    start: Starter, tmp_path: Path
) -> None:
    (tmp_path / "project.py").write_text(SETTINGS + "DJANGO_TASKQ = {'DATABASE_WAIT': 1.5}\n")
    worker = start(
        ready=False,
        settings="project",
        environment={"DATABASE_URL": f"postgresql://postgres@/nowhere?host={tmp_path}"},
    )
    worker.wait_for("waiting up to 1.5 s")
    told = time.monotonic()
    assert worker.wait(20) == 75
    assert time.monotonic() - told >= 1.0
    assert "No database after 1.5 s" in worker.output
    assert "Traceback" not in worker.output


def test_a_worker_that_waits_for_its_database_can_be_stopped(
    start: Starter, tmp_path: Path
) -> None:
    worker = start(
        ready=False,
        environment={"DATABASE_URL": f"postgresql://postgres@/nowhere?host={tmp_path}"},
    )
    worker.wait_for("waiting up to")
    worker.send(signal.SIGTERM)
    assert worker.wait(5) == 0
