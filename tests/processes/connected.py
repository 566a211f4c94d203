"""A project that uses its database, rolls dice and writes while it is loaded."""

from __future__ import annotations

from tests.processes.settings import *  # noqa: F403
from tests.processes.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.processes.connects"]
