"""Make UUIDv7 ids: known before the INSERT, ordered by time, unique across databases.

RFC 9562, section 5.7: 48 bits of milliseconds, then version, variant and 74 free bits. The 12 bits
behind the version count within a millisecond (its method 1), so one process makes ids in order.
"""

from __future__ import annotations

import os
import threading
import time
from uuid import UUID

# The canonical text of a UUID: what travels to PostgreSQL and to Django's `TaskResult.id`.
TaskId = str

_lock = threading.Lock()
_last = 0  # milliseconds << 12 | counter, of the newest id of this process


def _forget_threads() -> None:
    """Take a new lock in a forked process: a thread that is not there may have held the old one."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def new_id() -> TaskId:
    """Make one id."""
    return new_ids(1)[0]


def new_ids(count: int) -> list[TaskId]:
    """Make `count` ids in ascending order."""
    global _last
    with _lock:
        first = max(time.time_ns() // 1_000_000 << 12, _last + 1)
        _last = first + count - 1
    random = os.urandom(8 * count).hex()
    ids = []
    for place, moment in enumerate(range(first, first + count)):
        tail = random[16 * place : 16 * place + 16]
        head = f"{moment:015x}"
        # The first of the 16 random digits is replaced by the variant: binary 10xx.
        ids.append(
            f"{head[:8]}-{head[8:12]}-7{head[12:]}"
            f"-{'89ab'[int(tail[0], 16) & 3]}{tail[1:4]}-{tail[4:]}"
        )
    return ids


def parse_id(text: object) -> TaskId | None:
    """Return the canonical form of an id, or None if it is none."""
    try:
        return str(UUID(str(text)))
    except ValueError:
        return None
