"""prune: finished tasks that are old enough are deleted, in batches."""

from __future__ import annotations

from typing import Any, NamedTuple

from django_taskq.db import Connection, tried_again, user_cursor

# A transaction deletes no more rows than this.
MOST = 1000
# Where a sweep begins.
BEGINNING = "-infinity"

# Oldest first, along their index. SKIP LOCKED: several workers share the work, and a row that
# somebody holds is for the next sweep. The floor spares a sweep the index entries of what the
# batches before it have deleted: while a snapshot is held, or until the next vacuum, they stay.
PRUNE = """
/* django_taskq:prune */
WITH old AS MATERIALIZED (
  SELECT id FROM django_taskq_finishedtask
  WHERE finished_at >= %(floor)s::timestamptz
    AND finished_at < statement_timestamp() - %(age)s::float8 * interval '1 second'
  ORDER BY finished_at
  LIMIT %(limit)s
  FOR UPDATE SKIP LOCKED
),
gone AS (
  DELETE FROM django_taskq_finishedtask
  WHERE id = ANY (ARRAY(SELECT id FROM old))
  RETURNING finished_at
)
SELECT count(*), max(finished_at) FROM gone
"""


class Pruned(NamedTuple):
    """What a batch has deleted."""

    rows: int
    # Where the next batch goes on.
    floor: Any


def prune_batch(
    connection: Connection, *, age: float, limit: int = MOST, floor: Any = BEGINNING
) -> Pruned:
    """Delete up to `limit` tasks that finished more than `age` seconds ago, from `floor` up."""
    return _pruned(connection.execute(PRUNE, _parameters(age, limit, floor)).fetchone(), floor)


def prune(alias: str, older_than: float, limit: int | None = None) -> int:
    """Delete finished tasks older than so many seconds on the user's connection; say how many.

    At most `limit`, if it is given. A transaction for each 1,000, unless the caller is in one.
    """
    total, floor = 0, BEGINNING
    while limit is None or total < limit:
        most = MOST if limit is None else min(MOST, limit - total)
        done = _prune_once(alias, older_than, most, floor)
        total, floor = total + done.rows, done.floor
        if done.rows < most:
            break
    return total


@tried_again
def _prune_once(alias: str, age: float, limit: int, floor: Any) -> Pruned:
    with user_cursor(alias) as cursor:
        cursor.execute(PRUNE, _parameters(age, limit, floor))
        return _pruned(cursor.fetchone(), floor)


def _parameters(age: float, limit: int, floor: Any) -> dict[str, Any]:
    return {"age": age, "limit": limit, "floor": floor}


def _pruned(row: Any, floor: Any) -> Pruned:
    count, last = row
    return Pruned(count, floor if last is None else last)
