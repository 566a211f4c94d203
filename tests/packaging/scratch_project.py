"""Use an installed wheel in a new project, from `startproject` to the result of a task."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from tests.packaging import environments
from tests.support.databases import empty_database

SETTINGS = """
INSTALLED_APPS += ["django_taskq", "shop"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.postgresql", {database}}}}}
"""

TASKS = """
from django_taskq import task


@task(max_attempts=3, retry_on=(ConnectionError,), backoff=0, timeout=60, takes_context=True)
def add(context, x: int, y: int) -> int:
    if context.attempt < 2:
        raise ConnectionError("once more")
    return x + y
"""

ENQUEUE = "from shop.tasks import add; print(add.enqueue(20, 22).id)"

READ = """
import django, django_taskq, sys
from pathlib import Path
from shop.tasks import add
result = add.get_result("{id}")
assert result.return_value == 42 and result.attempts == 2, (result.status, result.errors)
assert result.errors[0].exception_class_path == "builtins.ConnectionError"
assert Path(sys.prefix) in Path(django_taskq.__file__).parents, django_taskq.__file__
print("Django", django.get_version(), "Python", ".".join(map(str, sys.version_info[:3])))
"""


def find_python(version: str) -> str | None:
    """Return the path of an interpreter of this minor version, or None."""
    found = subprocess.run(
        [sys.executable, "-m", "uv", "python", "find", "--system", "--no-project", version],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return found.stdout.strip() if found.returncode == 0 else None


def try_wheel(
    directory: Path, wheel: Path, python: str, django: str, extra: str, server_url: str
) -> None:
    """Install the wheel beside one Django, and take a task through its life."""
    directory.mkdir()
    extras = f"[{extra}]" if extra else ""
    requirements = [f"django-taskq-pg{extras} @ {wheel.as_uri()}", "psycopg[binary]", django]
    programs = environments.make(directory / "venv", python, *requirements)
    project = directory / "project"
    project.mkdir()

    def run(*command: str) -> str:
        return environments.run(programs, project, *command)

    run("django-admin", "startproject", "config", ".")
    run("python", "manage.py", "startapp", "shop")
    (project / "shop" / "tasks.py").write_text(TASKS)
    with empty_database(server_url) as name:
        with (project / "config" / "settings.py").open("a") as settings:
            settings.write(SETTINGS.format(database=database_settings(server_url, name)))
        run("python", "manage.py", "check", "--fail-level", "WARNING")
        run("python", "manage.py", "makemigrations", "--check", "--dry-run")
        run("python", "manage.py", "migrate")
        id = run("python", "manage.py", "shell", "-v", "0", "-c", ENQUEUE).split()[-1]
        run("python", "manage.py", "taskworker", "--burst", "-c", "1")
        said = run("python", "manage.py", "shell", "-v", "0", "-c", READ.format(id=id))
    sys.stdout.write(f"a new project with the wheel: {said}")
    sys.stdout.flush()


def database_settings(server_url: str, name: str) -> str:
    """Return the rest of an entry of DATABASES, as text."""
    server = conninfo_to_dict(server_url)
    keys = {"HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}
    entry = {key: str(server[word]) for key, word in keys.items() if server.get(word)}
    return ", ".join(f'"{key}": {value!r}' for key, value in {**entry, "NAME": name}.items())
