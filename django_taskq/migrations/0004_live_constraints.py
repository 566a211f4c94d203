"""Refuse rows, made by SQL, whose outcome could not be stored.

NOT VALID: the tables are not read, and the lock is held for a moment only. The next migration looks
at the rows that are there, in a transaction of its own.
"""

import datetime

import django.db.models.lookups
from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models


# What Python can read.
TIMES = (
    datetime.datetime.min.replace(tzinfo=datetime.UTC),
    datetime.datetime.max.replace(tzinfo=datetime.UTC),
)


class Migration(migrations.Migration):
    dependencies = [("django_taskq", "0003_cancel_index")]

    operations = [
        AddConstraintNotValid(
            "livetask",
            models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("status", "RUNNING"),
                        ("attempts__lt", 32767),
                        _connector="OR",
                    ),
                    ("crashes__lt", 32767),
                ),
                name="django_taskq_live_room",
            ),
        ),
        AddConstraintNotValid(
            "livetask",
            models.CheckConstraint(
                condition=models.Q(
                    ("enqueued_at__range", TIMES),
                    ("run_after__range", TIMES),
                    models.Q(
                        ("expires_at__isnull", True),
                        ("expires_at__range", TIMES),
                        _connector="OR",
                    ),
                ),
                name="django_taskq_live_times",
            ),
        ),
        AddConstraintNotValid(
            "livetask",
            models.CheckConstraint(
                condition=django.db.models.lookups.Exact(
                    models.Func("errors", function="jsonb_typeof", output_field=models.TextField()),
                    "array",
                ),
                name="django_taskq_live_errors",
            ),
        ),
    ]
