"""The project under test: as that of the process tests, with the app that patches the worker."""

from __future__ import annotations

from tests.processes import settings
from tests.processes.settings import *  # noqa: F403

INSTALLED_APPS = [*(app for app in settings.INSTALLED_APPS if "tests" not in app), "tests.chaos"]
