"""As little as a project can have: what is measured is the queue."""

from __future__ import annotations

import environ

SECRET_KEY = "measures only"
USE_TZ = True
INSTALLED_APPS = ["django_taskq", "benchsite"]
DATABASES = {"default": environ.Env().db("DATABASE_URL")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
