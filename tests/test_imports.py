"""Early imports: `@task` stands in models.py files, which are imported before any model exists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(code: str, *, cwd: Path = ROOT, **environment: str) -> str:
    """Run a program in a fresh interpreter and return what it prints."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{cwd}", **environment},
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.parametrize(
    "module",
    ["django_taskq", "django_taskq.task", "django_taskq.backend", "django_taskq.registry"],
)
def test_importing_imports_no_model(module: str) -> None:
    printed = run(
        f"""
        from django.conf import settings
        settings.configure(DATABASES={{"default": {{"ENGINE": "django.db.backends.postgresql"}}}})
        import sys
        import {module}
        from django.apps import apps
        assert not apps.models_ready
        print([name for name in sys.modules if name.startswith("django_taskq.models")])
        """
    )
    assert printed == "[]"


def test_a_web_process_never_imports_the_worker() -> None:
    printed = run(
        """
        import sys, django
        django.setup()
        import django_taskq.admin, django_taskq.backend, tests.tasks
        print([name for name in sys.modules if name.startswith("django_taskq.worker")])
        """,
        DJANGO_SETTINGS_MODULE="tests.settings",
    )
    assert printed == "[]"


# Takes away from a Linux what Windows lacks.
WINDOWS = """
import ctypes, importlib, os, signal, sys

# psycopg and Django are loaded before: they know Windows, and look at it themselves.
import django, psycopg
import django.contrib.admin, django.test, django.db.backends.postgresql.base

for module in ("fcntl", "pwd", "grp", "resource", "termios", "_posixshmem", "syslog"):
    sys.modules[module] = None  # an import of it fails
for name in ("fork", "killpg", "setpgid", "setsid", "getpgid", "register_at_fork"):
    delattr(os, name)
for name in ("SIGALRM", "SIGQUIT", "SIGHUP", "SIGKILL", "setitimer", "pthread_sigmask"):
    delattr(signal, name)

def refuse(*args, **kwargs):
    raise TypeError("Windows: bad argument type for built-in operation")

ctypes.CDLL = ctypes.PyDLL = refuse
sys.platform = "win32"

from django.conf import settings

settings.INSTALLED_APPS.remove("tests")  # whose tasks kill themselves with signals
"""


def run_on_windows(code: str) -> str:
    """Run a program in a fresh interpreter without what Windows lacks."""
    return run(WINDOWS + textwrap.dedent(code), DJANGO_SETTINGS_MODULE="tests.settings")


def test_the_web_side_needs_nothing_that_windows_lacks() -> None:
    printed = run_on_windows(
        """
        django.setup()
        for module in ("admin", "backend", "carried", "checks", "mail", "results", "tasks", "task"):
            importlib.import_module(f"django_taskq.{module}")
        from django.contrib import admin
        from django.core.checks import run_checks
        from django_taskq import models
        from django_taskq.tasks import send_mail

        assert not run_checks(), run_checks()
        assert admin.site.is_registered(models.LiveTask)
        print(type(send_mail.using(run_after=5).get_backend()).__name__)
        """
    )
    assert printed == "TaskqBackend"


@pytest.mark.parametrize("pool", ["processes", "threads"])
def test_a_worker_on_windows_says_that_it_cannot_run_there_and_where_it_can(pool: str) -> None:
    printed = run_on_windows(
        f"""
        import sys
        from django.core.management import execute_from_command_line

        sys.stderr = sys.stdout
        try:
            execute_from_command_line(["manage.py", "taskworker", "-P", "{pool}"])
        except SystemExit as end:
            print(end.code)
        """
    )
    assert printed.startswith("CommandError: The worker does not run on Windows")
    assert "WSL" in printed and printed.endswith("1")


def test_starting_a_project_imports_no_tasks_module() -> None:
    printed = run(
        """
        import sys, django
        django.setup()
        print("tests.tasks" in sys.modules)
        """,
        DJANGO_SETTINGS_MODULE="tests.settings",
    )
    assert printed == "False"


@pytest.mark.parametrize("setting", ["", 'TASKS = {"default": {"BACKEND": "%s"}}'])
@pytest.mark.parametrize("where", ["models.py", "__init__.py"])
def test_a_task_may_stand_in_models_or_in_an_apps_init(
    tmp_path: Path, where: str, setting: str
) -> None:
    app = tmp_path / "shop"
    app.mkdir()
    for name in ("__init__.py", "models.py"):
        (app / name).touch()
    (app / where).write_text(
        "from django_taskq import task\n\n\n@task(max_attempts=3)\ndef send(x: int) -> int:\n"
        "    return x\n"
    )
    backend = "django_taskq.backend.TaskqBackend"
    (tmp_path / "early_settings.py").write_text(
        "from tests.settings import *\n"
        'INSTALLED_APPS = ["shop", *INSTALLED_APPS]\n'
        + (setting % backend if setting else "")
        + "\n"
    )
    printed = run(
        """
        import django
        django.setup()
        from django_taskq.task import find
        import shop, shop.models
        key = "shop.models.send" if hasattr(shop.models, "send") else "shop.send"
        print(find(key).max_attempts, type(find(key).get_backend()).__name__)
        """,
        cwd=tmp_path,
        DJANGO_SETTINGS_MODULE="early_settings",
    )
    assert printed == "3 TaskqBackend"


@pytest.mark.parametrize("left", ["overwritten", "removed"])
def test_files_of_the_other_project_are_named_instead_of_a_riddle(
    tmp_path: Path, left: str
) -> None:
    shutil.copytree(ROOT / "django_taskq", tmp_path / "django_taskq")
    first_file = tmp_path / "django_taskq" / "__init__.py"
    if left == "overwritten":
        first_file.write_text("")
    else:
        first_file.unlink()
    said = run(
        """
        import sys
        from pathlib import Path
        # Where it is installed from is not to be found.
        here = ["", str(Path.cwd())]
        files = "django_taskq/__init__.py"
        sys.path[:] = [p for p in sys.path if p in here or not Path(p, files).exists()]
        try:
            from django_taskq import task
        except ImportError as error:
            print(error)
        """,
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path),
    )
    assert "another project" in said
    assert "pip uninstall -y django-taskq django-taskq-pg" in said


def test_settings_may_import_what_they_need() -> None:
    # Some projects set their backoff or a schedule in settings.py, before anything is configured.
    assert run("import django_taskq; print(django_taskq.exponential(base=1).base)") == "1.0"


def test_contributors_are_shown_every_layer_in_its_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "layers")
    place = {name: at for at, layer in enumerate(layers) for name in re.findall(r"\w+", layer)}

    text = (ROOT / "CONTRIBUTING.md").read_text()
    drawn = text.partition("## The layers")[2].split("```")[1]
    lines = drawn.splitlines()[1:]
    shown = [name for line in lines for name in line[13:].partition("#")[0].split()]
    assert {place[name] for name in shown} == set(range(len(layers)))
    assert [place[name] for name in shown] == sorted(place[name] for name in shown)
