"""What the columns need that Django does not ship."""

from __future__ import annotations

from typing import Any

from django.db import models


class ClockTimestamp(models.Func):
    """Read the clock now: `now()` is the start of the transaction, hours ago in a long import."""

    function = "clock_timestamp"
    output_field = models.DateTimeField()


class NewId(models.Func):
    """Make a UUIDv7 in the database, for rows that a plain SQL INSERT makes."""

    function = "django_taskq_new_id"
    output_field = models.UUIDField()


class VerbatimJSONField(models.JSONField):
    """Store JSON as it was written: `jsonb` would turn 1e16 into an integer and -0.0 into 0.0."""

    def db_type(self, connection: Any) -> str:
        return "json"

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        # psycopg has parsed it: Django asks for the text of `jsonb` only, and decodes that.
        return value
