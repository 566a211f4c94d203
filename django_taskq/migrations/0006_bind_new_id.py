"""Settle which functions django_taskq_new_id() calls.

As in 0001, but as an expression instead of a text: no search_path of whoever inserts a row can put
other functions in their place.
"""

from django.db import migrations

BIND_NEW_ID = """
CREATE OR REPLACE FUNCTION django_taskq_new_id() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN encode(
  set_bit(set_bit(
    overlay(
      uuid_send(gen_random_uuid())
      PLACING substring(
        int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
      FROM 1 FOR 6),
    52, 1), 53, 1),
  'hex')::uuid
"""


class Migration(migrations.Migration):
    dependencies = [("django_taskq", "0005_validate_live_constraints")]

    operations = [migrations.RunSQL(BIND_NEW_ID, migrations.RunSQL.noop)]
