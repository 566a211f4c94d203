"""An ordinary project."""

from __future__ import annotations

import django
import environ

SECRET_KEY = "only for tests"
USE_TZ = True
DEBUG = True
DATABASES = {"default": environ.Env().db("DATABASE_URL")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django_taskq",
    "shop",
]
STATIC_URL = "static/"
ROOT_URLCONF = "shop.urls"
MEDIA_ROOT = "/nowhere"
# A test must not use it.
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": "no.such.backend"}}
else:
    EMAIL_BACKEND = "no.such.backend"
