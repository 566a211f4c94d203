"""Tell Django about the app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class DjangoTaskqConfig(AppConfig):
    """Connect the system checks; nothing here queries or imports tasks."""

    name = "django_taskq"
    label = "django_taskq"
    verbose_name = _("Task queue")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django_taskq import checks  # noqa: F401  (registers them)
