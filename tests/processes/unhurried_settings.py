"""The project of the process tests, with supervisors that hardly ever look for work."""

from __future__ import annotations

from tests.processes.settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "tests.processes.unhurried.Unhurried"]  # noqa: F405
