"""What `diagnose()` asks the database, and a finding as its answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is."""

    # Tasks do not run, or will be lost or late.
    ERROR = "error"
    # It works, and will stop working well.
    WARNING = "warning"
    # Good to know.
    INFO = "info"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that is wrong, and what to do."""

    # A stable name, such as "held-unknown".
    id: str
    severity: Severity
    what: str
    fix: str


def error(id: str, what: str, fix: str) -> Finding:
    """Make a finding that keeps tasks from running."""
    return Finding(id=id, severity=Severity.ERROR, what=what, fix=fix)


def warning(id: str, what: str, fix: str) -> Finding:
    """Make a finding that will hurt."""
    return Finding(id=id, severity=Severity.WARNING, what=what, fix=fix)


def info(id: str, what: str, fix: str) -> Finding:
    """Make a finding that is good to know."""
    return Finding(id=id, severity=Severity.INFO, what=what, fix=fix)


TABLES_EXIST = """
/* django_taskq:doctor_tables */
SELECT to_regclass('django_taskq_livetask') IS NOT NULL
"""

# The second process id is what the server says; a pooler between tells the client another one.
SERVER = """
/* django_taskq:doctor_server */
SELECT current_setting('server_version_num')::int, current_setting('server_version'),
  pg_backend_pid(), extract(epoch FROM clock_timestamp())::float8,
  current_setting('autovacuum') = 'on',
  (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
  current_setting('max_connections')::int
    - current_setting('superuser_reserved_connections')::int
"""

# Size, dead rows and settings of our tables.
TABLES = """
/* django_taskq:doctor_storage */
SELECT c.relname, coalesce(c.reloptions, '{}'), pg_table_size(c.oid), pg_indexes_size(c.oid),
  coalesce(s.n_live_tup, 0), coalesce(s.n_dead_tup, 0),
  extract(epoch FROM statement_timestamp() - greatest(s.last_autovacuum, s.last_vacuum))::float8
FROM pg_class AS c LEFT JOIN pg_stat_user_tables AS s ON s.relid = c.oid
WHERE c.oid IN (to_regclass('django_taskq_livetask'), to_regclass('django_taskq_finishedtask'),
  to_regclass('django_taskq_worker'))
ORDER BY c.relname
"""

INVALID_INDEXES = """
/* django_taskq:doctor_indexes */
SELECT i.indexrelid::regclass::text FROM pg_index AS i
WHERE NOT i.indisvalid
  AND i.indrelid IN (to_regclass('django_taskq_livetask'),
    to_regclass('django_taskq_finishedtask'), to_regclass('django_taskq_worker'))
ORDER BY 1
"""

# What keeps VACUUM from removing dead rows: sessions, prepared transactions, replication slots.
LONG_TRANSACTIONS = """
/* django_taskq:doctor_transactions */
SELECT pid, coalesce(application_name, ''), coalesce(state, ''),
  extract(epoch FROM statement_timestamp() - xact_start)::float8
FROM pg_stat_activity
WHERE datname = current_database() AND xact_start < statement_timestamp() - interval '5 minutes'
  AND pid <> pg_backend_pid() AND backend_type = 'client backend'
ORDER BY xact_start LIMIT 5
"""

PREPARED_TRANSACTIONS = """
/* django_taskq:doctor_prepared */
SELECT gid, extract(epoch FROM statement_timestamp() - prepared)::float8
FROM pg_prepared_xacts
WHERE database = current_database() AND prepared < statement_timestamp() - interval '5 minutes'
ORDER BY prepared LIMIT 5
"""

SLOTS = """
/* django_taskq:doctor_slots */
SELECT slot_name, active, greatest(age(xmin), age(catalog_xmin))
FROM pg_replication_slots
WHERE greatest(age(xmin), age(catalog_xmin)) > 1000000
ORDER BY 3 DESC LIMIT 5
"""

HELD_NAMES = """
/* django_taskq:doctor_held */
SELECT held_for, count(*) FROM (
  SELECT held_for FROM django_taskq_livetask WHERE status = 'HELD' LIMIT 10000) AS t
GROUP BY held_for ORDER BY 2 DESC, 1 LIMIT 5
"""

# Claimed rows whose process is not listed; looked up one by one, they are few.
ORPHANS = """
/* django_taskq:doctor_orphans */
SELECT count(*) FROM (
  SELECT worker_id FROM django_taskq_livetask WHERE worker_id IS NOT NULL LIMIT 10000) AS t
WHERE NOT EXISTS (SELECT FROM django_taskq_worker AS w WHERE w.id = t.worker_id)
"""
