"""Ask PostgreSQL for plans, and read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.support.statements import Sent, prepared

# The tables that fill up; a worker's table has a row per process.
TABLES = frozenset({"django_taskq_livetask", "django_taskq_finishedtask"})


@dataclass(frozen=True)
class Scan:
    """A place in a plan where a table or an index is read."""

    kind: str
    table: str
    index: str
    condition: str
    # Read in the order of the index, no further than a LIMIT asks.
    stops_early: bool

    def __str__(self) -> str:
        where = f" WHERE {self.condition}" if self.condition else ""
        return f"{self.kind} {self.index or self.table}{where}"


def custom_plan(connection: psycopg.Connection[Any], sent: Sent) -> Any:
    """Return the plan that is made for these very parameters."""
    return _plan(connection.execute(f"EXPLAIN (FORMAT JSON) {sent.text}", sent.parameters))


def prepare(connection: psycopg.Connection[Any], name: str, sent: Sent) -> str:
    """Prepare a statement and have its generic plan made now; return the EXECUTE of it."""
    text, execute = prepared(sent, name, connection)
    connection.execute("SET plan_cache_mode = force_generic_plan")
    connection.execute(text)
    connection.execute(f"EXPLAIN {execute}")
    return execute


def prepared_plan(connection: psycopg.Connection[Any], execute: str) -> Any:
    """Return the plan under which a prepared statement runs now."""
    return _plan(connection.execute(f"EXPLAIN (FORMAT JSON) {execute}"))


def measure(connection: psycopg.Connection[Any], sent: Sent) -> tuple[int, int, Any]:
    """Run a statement and undo it; return its rows, the buffers it touched, and its plan."""
    with connection.transaction(force_rollback=True):
        plan = _plan(
            connection.execute(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sent.text}", sent.parameters
            )
        )
    return plan["Actual Rows"], plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], plan


def scans(plan: Any, *, table: str = "", stops_early: bool = False) -> Iterator[Scan]:
    """Yield every scan of a table that fills up."""
    kind = plan["Node Type"]
    table = plan.get("Relation Name", table)
    # A bitmap heap scan takes its rows from the bitmap index scans below it.
    if table in TABLES and kind.endswith("Scan") and kind != "Bitmap Heap Scan":
        yield Scan(
            kind=kind,
            table=table,
            index=plan.get("Index Name", ""),
            condition=plan.get("Index Cond", ""),
            stops_early=stops_early,
        )
    in_bitmap = kind.startswith("Bitmap")
    passes_on = kind in {"Limit", "LockRows", "Result", "Subquery Scan"}
    for child in plan.get("Plans", []):
        yield from scans(
            child,
            table=table if in_bitmap else "",
            stops_early=kind == "Limit" or (stops_early and passes_on),
        )


def rows_read(plan: Any) -> int:
    """Return how many rows of tables that fill up a measured plan has looked at."""
    own = 0
    if plan.get("Relation Name") in TABLES:
        seen = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
        own = round(seen * plan["Actual Loops"])
    return own + sum(rows_read(child) for child in plan.get("Plans", []))


def describe(plan: Any, depth: int = 0) -> str:
    """Draw a plan for the message of a failed test."""
    words = [plan["Node Type"], plan.get("Index Name") or plan.get("Relation Name") or ""]
    words += [
        f"{key}={plan[key]}" for key in ("Index Cond", "Filter", "Join Filter") if key in plan
    ]
    line = "  " * depth + " ".join(word for word in words if word)
    return "\n".join([line, *(describe(child, depth + 1) for child in plan.get("Plans", []))])


def _plan(cursor: psycopg.Cursor[Any]) -> Any:
    found = cursor.fetchone()[0]
    return (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
