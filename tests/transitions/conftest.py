from __future__ import annotations

from tests.support.fixtures import connection, worker_id

__all__ = ["connection", "worker_id"]
