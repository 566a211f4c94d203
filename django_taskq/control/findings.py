"""What `diagnose()` asks the database, and a finding as its answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django_taskq import db


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
    # Where it is: a table, a queue, a session, a worker; the database's alias if nothing is closer.
    where: str = ""


def error(id: str, what: str, fix: str, where: str = "") -> Finding:
    """Make a finding that keeps tasks from running."""
    return Finding(id=id, severity=Severity.ERROR, what=what, fix=fix, where=where)


def warning(id: str, what: str, fix: str, where: str = "") -> Finding:
    """Make a finding that will hurt."""
    return Finding(id=id, severity=Severity.WARNING, what=what, fix=fix, where=where)


def info(id: str, what: str, fix: str, where: str = "") -> Finding:
    """Make a finding that is good to know."""
    return Finding(id=id, severity=Severity.INFO, what=what, fix=fix, where=where)


def ask(alias: str, statement: str) -> list[Any]:
    """Return the rows of one of the statements below."""
    with db.reading_cursor(alias) as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


def of(alias: str) -> str:
    """Return what a command needs to be told of the database."""
    return "" if alias == "default" else f" --database {alias}"


TABLES_EXIST = """
/* django_taskq:doctor_tables */
SELECT to_regclass('django_taskq_livetask') IS NOT NULL
"""

# The process id is what the server says; a pooler between tells the client another one.
SERVER = """
/* django_taskq:doctor_server */
SELECT current_setting('server_version_num')::int, current_setting('server_version'),
  pg_backend_pid(), current_setting('autovacuum') = 'on',
  (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
  current_setting('max_connections')::int
    - current_setting('superuser_reserved_connections')::int,
  current_setting('transaction_isolation'), pg_notification_queue_usage()
"""

CLOCK = """
/* django_taskq:doctor_clock */
SELECT extract(epoch FROM clock_timestamp())::float8
"""

# The schemas in which names are looked up: may everybody create something there, and are our
# tables in it?
SEARCH_PATH = """
/* django_taskq:doctor_search_path */
SELECT n.nspname, has_schema_privilege('public', n.oid, 'CREATE'),
  EXISTS (SELECT FROM pg_class AS c
          WHERE c.relnamespace = n.oid AND c.relname = 'django_taskq_livetask')
FROM unnest(current_schemas(false)) WITH ORDINALITY AS s (name, place)
JOIN pg_namespace AS n ON n.nspname = s.name
ORDER BY s.place
"""

# Size, dead rows and settings of our tables.
TABLES = """
/* django_taskq:doctor_storage */
SELECT c.relname, coalesce(c.reloptions, '{}'), pg_table_size(c.oid), pg_indexes_size(c.oid),
  coalesce(s.n_live_tup, 0), coalesce(s.n_dead_tup, 0),
  extract(epoch FROM statement_timestamp() - s.last_autovacuum)::float8,
  extract(epoch FROM statement_timestamp() - s.last_vacuum)::float8
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

# Who holds the horizon: VACUUM removes no row that died after it. Sessions of this database,
# prepared transactions, replication slots, and standbys that ask for it; the oldest first. Never
# the text of a query, which may hold secrets. Of other users' sessions a role without
# pg_read_all_stats sees the age of the snapshot, and not since when.
HORIZON = """
/* django_taskq:doctor_horizon */
SELECT * FROM (
  (SELECT 'session' AS holder, pid::text AS name,
    concat_ws(', ', nullif(application_name, ''), usename, state) AS who,
    greatest(age(backend_xmin), age(backend_xid)) AS xids,
    extract(epoch FROM statement_timestamp() - xact_start)::float8 AS seconds
  FROM pg_stat_activity
  WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND backend_type = 'client backend' AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL))
  UNION ALL
  (SELECT 'prepared', gid, owner::text, age(transaction),
    extract(epoch FROM statement_timestamp() - prepared)::float8
  FROM pg_prepared_xacts WHERE database = current_database())
  UNION ALL
  (SELECT 'slot', slot_name::text, CASE WHEN active THEN 'active' ELSE 'inactive' END,
    greatest(age(xmin), age(catalog_xmin)), NULL
  FROM pg_replication_slots WHERE xmin IS NOT NULL OR catalog_xmin IS NOT NULL)
  UNION ALL
  (SELECT 'standby', pid::text, concat_ws(', ', nullif(application_name, ''), state),
    age(backend_xmin), NULL
  FROM pg_stat_replication WHERE backend_xmin IS NOT NULL)
) AS holders
ORDER BY xids DESC NULLS LAST, seconds DESC NULLS LAST
LIMIT 100
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

# The counters that living workers move every few seconds.
BEATS = """
/* django_taskq:doctor_beats */
SELECT id::text, beat FROM django_taskq_worker LIMIT 10000
"""
