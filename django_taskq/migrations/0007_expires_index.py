"""Index what waits and is to expire, without keeping anybody from enqueueing meanwhile."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # CREATE INDEX CONCURRENTLY runs in no transaction: a migration of its own.
    atomic = False

    dependencies = [("django_taskq", "0006_bind_new_id")]

    operations = [
        AddIndexConcurrently(
            "livetask",
            models.Index(
                models.F("expires_at"),
                condition=models.Q(
                    ("expires_at__isnull", False), models.Q(("status", "RUNNING"), _negated=True)
                ),
                name="django_taskq_live_expires",
            ),
        ),
    ]
