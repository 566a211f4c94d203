"""Carriers of context, good ones and bad ones."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django_taskq.models import LiveTask

TENANT: contextvars.ContextVar[Any] = contextvars.ContextVar("tenant", default=None)

# What was called, in its order.
calls: list[str] = []


class Tenant:
    name = "tenant"

    def capture(self) -> Any:
        calls.append("capture")
        return TENANT.get()

    @contextmanager
    def restore(self, value: Any) -> Iterator[None]:
        calls.append("restore")
        token = TENANT.set(value)
        try:
            yield
        finally:
            TENANT.reset(token)
            calls.append("reset")


tenant = Tenant()


class Broken:
    name = "broken"

    def capture(self) -> Any:
        raise LookupError("nobody is here: s3cret")

    def restore(self, value: Any) -> Any:
        raise LookupError(f"there is no {value} any more")


class Unstorable:
    name = "unstorable"

    def capture(self) -> Any:
        return LiveTask()

    restore = Broken.restore


class Large(Unstorable):
    name = "large"

    def capture(self) -> Any:
        return "x" * 100_000


class Nameless(Tenant):
    name = ""


class WithoutRestore:
    name = "half"

    def capture(self) -> Any: ...


class NeedsArguments(Tenant):
    def __init__(self, url: str) -> None: ...
