"""Test tasks: run them inline, run what waits, look at what was enqueued, start a real worker.

Import it in tests only. What it offers is imported when it is asked for: pytest imports the plugin,
and a worker its settings, before there are apps, let alone models.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from django_taskq.testing.processes import RunningWorker, worker

__all__ = [
    "Drained",
    "Enqueued",
    "RunningWorker",
    "assert_enqueued",
    "assert_not_enqueued",
    "capture_enqueued",
    "drain",
    "enqueued",
    "run_inline",
    "waiting",
    "worker",
]

_MODULES = ("assertions", "draining", "inline", "processes")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = import_module(f"{__name__}.{module}")
            if name in vars(found):
                value = vars(found)[name]
                globals()[name] = value
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
