from __future__ import annotations

SECRET_KEY = "only for tests"
INSTALLED_APPS = ["django.contrib.contenttypes", "django_taskq", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "shop"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
