"""An ordinary project."""

from __future__ import annotations

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
EMAIL_BACKEND = "no.such.backend: a test must not use it"
