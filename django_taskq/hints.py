"""Tell workers after a commit that there is something to claim: a hint, never more.

Where the caller is in no transaction the hint goes to the server together with the task. Workers
look once a second anyway. At most one NOTIFY per process, database and 5 ms: the throttle
drops hints, it does not delay them.
"""

from __future__ import annotations

import time
from functools import partial, update_wrapper

from django.db import Error

from django_taskq.db import is_alone, user_connection
from django_taskq.events import enqueue_log, one_line
from django_taskq.transitions import enqueue
from django_taskq.transitions.enqueue import Enqueued, NewRow, Settled

_INTERVAL = 0.005
_last: dict[str, float] = {}


def hint_after_commit(alias: str) -> None:
    """Send a hint when the caller's transaction has committed, or at once if there is none."""
    connection = user_connection(alias)
    if not connection.in_atomic_block and not connection.get_autocommit():
        return  # Django cannot tell when this transaction commits; the workers' tick will find it
    # Django logs the name of a robust callback that fails; a bare partial has none.
    connection.on_commit(update_wrapper(partial(_send, alias), _send), robust=True)


def enqueue_with_hint(alias: str, settled: Settled, row: NewRow) -> Enqueued:
    """Insert one task in the caller's transaction, and see to the hint; return the task's times."""
    if not (is_alone(user_connection(alias)) and _is_due(alias)):
        stored = enqueue.enqueue(alias, settled, row)
        hint_after_commit(alias)
        return stored
    before = _last.get(alias, -1.0)
    _last[alias] = time.monotonic()
    try:
        return enqueue.enqueue_alone(alias, settled, row)
    except enqueue.HintNotSent as error:
        _warn(error)
        return error.stored
    except BaseException:
        _last[alias] = before
        raise


def _send(alias: str) -> None:
    if not _is_due(alias):
        return
    _last[alias] = time.monotonic()
    try:
        enqueue.hint(alias)
    except Error as error:
        _warn(error)


def _is_due(alias: str) -> bool:
    """Say whether the last hint was long enough ago."""
    return time.monotonic() - _last.get(alias, -1.0) >= _INTERVAL


def _warn(error: Exception) -> None:
    """Log that no hint was sent: the task is committed, and the caller must not hear of this."""
    enqueue_log.warning(
        "No hint could be sent; workers will find the task: %s", one_line(str(error).strip())
    )
