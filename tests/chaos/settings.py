"""The project under test: as that of the process tests, with the app that patches the worker."""

from __future__ import annotations

from tests.processes.settings import *  # noqa: F403

INSTALLED_APPS = ["django_taskq", "tests.chaos"]
