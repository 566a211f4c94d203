"""A site whose tasks are kept in a database of their own."""

from __future__ import annotations

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, INSTALLED_APPS, env

DATABASES = {**DATABASES, "queue": env.db("QUEUE_DATABASE_URL")}
DATABASE_ROUTERS = ["django_taskq.router.TaskqRouter"]
TASKS = {
    "default": {
        "BACKEND": "django_taskq.backend.TaskqBackend",
        "OPTIONS": {"DATABASE": "queue"},
    },
}
INSTALLED_APPS = [*INSTALLED_APPS, "tests.processes"]
