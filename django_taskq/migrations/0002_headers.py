"""Let tasks carry headers, and let people ask running tasks to end.

Columns without a default: PostgreSQL notes them and rewrites nothing. Workers of the version before
go on meanwhile; what they finish loses its headers.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("django_taskq", "0001_tasks")]

    operations = [
        migrations.AddField("finishedtask", "headers", models.JSONField(null=True)),
        migrations.AddField("livetask", "headers", models.JSONField(null=True)),
        migrations.AddField("livetask", "cancel_requested_at", models.DateTimeField(null=True)),
    ]
