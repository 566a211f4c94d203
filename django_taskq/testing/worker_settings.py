"""The settings of a worker that a test has started: the project's, with the test's databases.

A module of its own, so that every process of the worker sees the same. The test says in an
environment variable what differs.
"""

from __future__ import annotations

import json
import os
from importlib import import_module
from typing import Any

# JSON: the project's settings module, the connection of each alias, and what the test has changed.
VARIABLE = "DJANGO_TASKQ_TEST_WORKER"
_LOCMEM = "django.core.mail.backends.locmem.EmailBackend"

_given: dict[str, Any] = json.loads(os.environ[VARIABLE])
_project = import_module(_given["module"])
_theirs = {name: getattr(_project, name) for name in dir(_project) if name.isupper()}

globals().update(_theirs)

DATABASES = {
    alias: {**target, **_given["databases"].get(alias, {})}
    for alias, target in _theirs["DATABASES"].items()
}
# As Django's test runner has it: no debugging, and no mail leaves the house.
DEBUG = False
if "MAILERS" in _theirs:  # Django 6.1; it allows no EMAIL_BACKEND beside it
    MAILERS = {alias: {"BACKEND": _LOCMEM} for alias in _theirs["MAILERS"]}
else:
    EMAIL_BACKEND = _LOCMEM
DJANGO_TASKQ = {**_theirs.get("DJANGO_TASKQ", {}), "EMAIL_BACKEND": _LOCMEM}

globals().update(_given["settings"])
