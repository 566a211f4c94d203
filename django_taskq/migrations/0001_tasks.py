"""Create the tables of tasks and workers.

Not called `0001_initial`: a database in which another app recorded that name under this label would
skip it in silence.
"""

import django_taskq.models.fields
from django.db import migrations, models


# A UUIDv7 for rows that a plain SQL INSERT makes: PostgreSQL has `uuidv7()` from 18 on only.
# 48 bits of milliseconds are laid over a random UUID of version 4, whose version bits 0100 become
# 0111 (bits 52 and 53 in PostgreSQL's numbering of a bytea).
CREATE_NEW_ID = """
CREATE FUNCTION django_taskq_new_id() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
  SELECT encode(
    set_bit(set_bit(
      overlay(
        uuid_send(gen_random_uuid())
        PLACING substring(
          int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
        FROM 1 FOR 6),
      52, 1), 53, 1),
    'hex')::uuid
$$
"""

# Every task updates its row once and deletes it: room on the page, vacuum by count and not by
# share of the table, at full speed, and without truncating the tail, which takes an exclusive lock.
STORAGE = """
ALTER TABLE django_taskq_livetask SET (
  fillfactor = 80,
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 10000,
  autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 20000,
  autovacuum_vacuum_insert_scale_factor = 0,
  autovacuum_vacuum_insert_threshold = 100000,
  autovacuum_vacuum_cost_delay = 0,
  vacuum_truncate = off);
ALTER TABLE django_taskq_worker SET (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 200)
"""


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.RunSQL(CREATE_NEW_ID, "DROP FUNCTION django_taskq_new_id()"),
        migrations.CreateModel(
            name="FinishedTask",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        db_default=django_taskq.models.fields.NewId(),
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("task", models.TextField()),
                ("queue_name", models.TextField(db_default="default")),
                ("priority", models.SmallIntegerField(db_default=0)),
                ("args", django_taskq.models.fields.VerbatimJSONField(db_default=[])),
                ("kwargs", django_taskq.models.fields.VerbatimJSONField(db_default={})),
                (
                    "run_after",
                    models.DateTimeField(db_default=django_taskq.models.fields.ClockTimestamp()),
                ),
                (
                    "enqueued_at",
                    models.DateTimeField(db_default=django_taskq.models.fields.ClockTimestamp()),
                ),
                ("attempts", models.SmallIntegerField(db_default=0)),
                ("max_attempts", models.SmallIntegerField(null=True)),
                ("crashes", models.SmallIntegerField(db_default=0)),
                ("claim", models.UUIDField(null=True)),
                ("worker_id", models.UUIDField(null=True)),
                ("started_at", models.DateTimeField(null=True)),
                ("errors", models.JSONField(db_default=[])),
                ("progress", models.JSONField(null=True)),
                ("options", models.JSONField(null=True)),
                (
                    "status",
                    models.TextField(
                        choices=[
                            ("SUCCESSFUL", "Successful"),
                            ("FAILED", "Failed"),
                            ("CANCELLED", "Cancelled"),
                            ("EXPIRED", "Expired"),
                        ]
                    ),
                ),
                (
                    "finished_at",
                    models.DateTimeField(db_default=django_taskq.models.fields.ClockTimestamp()),
                ),
                ("return_value", django_taskq.models.fields.VerbatimJSONField(null=True)),
            ],
            options={
                "verbose_name": "finished task",
                "verbose_name_plural": "finished tasks",
                "db_table": "django_taskq_finishedtask",
                "indexes": [
                    models.Index(models.F("finished_at"), name="django_taskq_finished_at"),
                    models.Index(
                        models.F("status"),
                        models.OrderBy(models.F("finished_at"), descending=True),
                        condition=models.Q(("status", "SUCCESSFUL"), _negated=True),
                        name="django_taskq_finished_badly",
                    ),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("status__in", ["CANCELLED", "EXPIRED", "FAILED", "SUCCESSFUL"])
                        ),
                        name="django_taskq_finished_status",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="LiveTask",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        db_default=django_taskq.models.fields.NewId(),
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("task", models.TextField()),
                ("queue_name", models.TextField(db_default="default")),
                ("priority", models.SmallIntegerField(db_default=0)),
                ("args", django_taskq.models.fields.VerbatimJSONField(db_default=[])),
                ("kwargs", django_taskq.models.fields.VerbatimJSONField(db_default={})),
                (
                    "run_after",
                    models.DateTimeField(db_default=django_taskq.models.fields.ClockTimestamp()),
                ),
                (
                    "enqueued_at",
                    models.DateTimeField(db_default=django_taskq.models.fields.ClockTimestamp()),
                ),
                ("attempts", models.SmallIntegerField(db_default=0)),
                ("max_attempts", models.SmallIntegerField(null=True)),
                ("crashes", models.SmallIntegerField(db_default=0)),
                ("claim", models.UUIDField(null=True)),
                ("worker_id", models.UUIDField(null=True)),
                ("started_at", models.DateTimeField(null=True)),
                ("errors", models.JSONField(db_default=[])),
                ("progress", models.JSONField(null=True)),
                ("options", models.JSONField(null=True)),
                (
                    "status",
                    models.TextField(
                        choices=[("READY", "Ready"), ("HELD", "Held"), ("RUNNING", "Running")],
                        db_default="READY",
                    ),
                ),
                ("expires_at", models.DateTimeField(null=True)),
                ("held_for", models.TextField(null=True)),
                ("has_successors", models.BooleanField(db_default=False)),
            ],
            options={
                "verbose_name": "live task",
                "verbose_name_plural": "live tasks",
                "db_table": "django_taskq_livetask",
                "indexes": [
                    models.Index(
                        models.F("queue_name"),
                        models.OrderBy(models.F("priority"), descending=True),
                        models.F("run_after"),
                        models.F("id"),
                        condition=models.Q(("status", "READY")),
                        name="django_taskq_live_ready",
                    ),
                    models.Index(
                        models.F("worker_id"),
                        condition=models.Q(("worker_id__isnull", False)),
                        name="django_taskq_live_worker",
                    ),
                    models.Index(
                        models.F("run_after"),
                        models.F("id"),
                        condition=models.Q(("crashes__gte", 2), ("status", "READY")),
                        name="django_taskq_live_suspect",
                    ),
                    models.Index(
                        models.F("held_for"),
                        condition=models.Q(("status", "HELD")),
                        name="django_taskq_live_held",
                    ),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("status__in", ["HELD", "READY", "RUNNING"])),
                        name="django_taskq_live_status",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("claim__isnull", False),
                                ("started_at__isnull", False),
                                ("status", "RUNNING"),
                                ("worker_id__isnull", False),
                            ),
                            models.Q(
                                models.Q(("status", "RUNNING"), _negated=True),
                                ("claim__isnull", True),
                                ("started_at__isnull", True),
                                ("worker_id__isnull", True),
                            ),
                            _connector="OR",
                        ),
                        name="django_taskq_live_claim",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("held_for__isnull", False), ("status", "HELD")),
                            models.Q(
                                models.Q(("status", "HELD"), _negated=True),
                                ("held_for__isnull", True),
                            ),
                            _connector="OR",
                        ),
                        name="django_taskq_live_held_for",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("priority__gte", -100), ("priority__lte", 100)),
                        name="django_taskq_live_priority",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("attempts__gte", 0),
                            ("crashes__gte", 0),
                            models.Q(
                                ("max_attempts__isnull", True),
                                ("max_attempts__gte", 1),
                                _connector="OR",
                            ),
                        ),
                        name="django_taskq_live_counts",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Worker",
            fields=[
                ("id", models.UUIDField(editable=False, primary_key=True, serialize=False)),
                (
                    "kind",
                    models.TextField(choices=[("SUPERVISOR", "Supervisor"), ("CHILD", "Child")]),
                ),
                ("parent_id", models.UUIDField(null=True)),
                ("host", models.TextField()),
                ("pid", models.IntegerField()),
                ("info", models.JSONField(db_default={})),
                (
                    "started_at",
                    models.DateTimeField(db_default=django_taskq.models.fields.ClockTimestamp()),
                ),
                ("beat", models.BigIntegerField(db_default=0)),
                (
                    "last_seen_at",
                    models.DateTimeField(db_default=django_taskq.models.fields.ClockTimestamp()),
                ),
            ],
            options={
                "verbose_name": "worker",
                "verbose_name_plural": "workers",
                "db_table": "django_taskq_worker",
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("kind__in", ["CHILD", "SUPERVISOR"])),
                        name="django_taskq_worker_kind",
                    )
                ],
            },
        ),
        migrations.RunSQL(STORAGE, migrations.RunSQL.noop),
    ]
