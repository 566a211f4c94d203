"""The one app of the example site."""

from __future__ import annotations

from django.apps import AppConfig


class FieldnotesConfig(AppConfig):
    name = "fieldnotes"
    verbose_name = "Fieldnotes"
