"""The project of `tests.processes.older`."""

from __future__ import annotations

from tests.processes.settings import *  # noqa: F403

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django_taskq",
    "tests.processes.older",
]
