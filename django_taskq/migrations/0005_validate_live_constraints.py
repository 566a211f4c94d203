"""Look whether the rows that are there obey the constraints of the migration before.

Claims, inserts and deletes go on meanwhile.
"""

from django.contrib.postgres.operations import ValidateConstraint
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("django_taskq", "0004_live_constraints")]

    operations = [
        ValidateConstraint("livetask", "django_taskq_live_room"),
        ValidateConstraint("livetask", "django_taskq_live_times"),
        ValidateConstraint("livetask", "django_taskq_live_errors"),
    ]
