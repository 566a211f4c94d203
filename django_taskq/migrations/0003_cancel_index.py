"""Index the running tasks that are to end, without keeping anybody from enqueueing meanwhile."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # CREATE INDEX CONCURRENTLY runs in no transaction: a migration of its own, with nothing else
    # that could be left half done.
    atomic = False

    dependencies = [("django_taskq", "0002_headers")]

    operations = [
        AddIndexConcurrently(
            "livetask",
            models.Index(
                models.F("worker_id"),
                condition=models.Q(("cancel_requested_at__isnull", False)),
                name="django_taskq_live_cancel",
            ),
        ),
    ]
