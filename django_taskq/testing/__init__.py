"""Test tasks: run them inline, run what waits, look at what was enqueued, start a real worker.

Import it in tests only, once apps are loaded: it imports models and the worker.
"""

from __future__ import annotations

from django_taskq.testing.assertions import (
    Enqueued,
    assert_enqueued,
    assert_not_enqueued,
    capture_enqueued,
    enqueued,
    waiting,
)
from django_taskq.testing.draining import Drained, drain
from django_taskq.testing.inline import run_inline

__all__ = [
    "Drained",
    "Enqueued",
    "assert_enqueued",
    "assert_not_enqueued",
    "capture_enqueued",
    "drain",
    "enqueued",
    "run_inline",
    "waiting",
]
