"""A project without a web site: workers start sooner."""

from __future__ import annotations

import environ

env = environ.Env()

SECRET_KEY = "only for tests"
USE_TZ = True
DATABASES = {"default": env.db("DATABASE_URL")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django_taskq",
    "tests.processes",
]
