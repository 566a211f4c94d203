"""The project of the process tests, with workers that beat fast."""

from __future__ import annotations

from tests.processes.settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "tests.processes.brisk.Brisk"]  # noqa: F405
