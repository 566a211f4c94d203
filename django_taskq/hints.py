"""Tell workers after a commit that there is something to claim: a hint, never more.

Workers look once a second anyway. At most one NOTIFY per process, database and 5 ms: the throttle
drops hints, it does not delay them.
"""

from __future__ import annotations

import time
from functools import partial, update_wrapper

from django.db import Error

from django_taskq.db import user_connection
from django_taskq.events import enqueue_log, one_line
from django_taskq.transitions import enqueue

_INTERVAL = 0.005
_last: dict[str, float] = {}


def hint_after_commit(alias: str) -> None:
    """Send a hint when the caller's transaction has committed, or at once if there is none."""
    connection = user_connection(alias)
    if not connection.in_atomic_block and not connection.get_autocommit():
        return  # Django cannot tell when this transaction commits; the workers' tick will find it
    # Django logs the name of a robust callback that fails; a bare partial has none.
    connection.on_commit(update_wrapper(partial(_send, alias), _send), robust=True)


def _send(alias: str) -> None:
    now = time.monotonic()
    if now - _last.get(alias, -1.0) < _INTERVAL:
        return
    _last[alias] = now
    try:
        enqueue.hint(alias)
    except Error as error:
        # The task is committed: the caller must not hear of this.
        enqueue_log.warning(
            "No hint could be sent; workers will find the task: %s", one_line(str(error).strip())
        )
