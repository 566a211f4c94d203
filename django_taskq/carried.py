"""Carry context from where a task is enqueued to where it runs: the language, and what you add.

A *carrier* looks at the caller's context when a task is enqueued, and puts what it found back
around the run. What it found stands in the row's `headers` under its name.
`DJANGO_TASKQ["CONTEXT"]` lists the carriers of a project.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache, wraps
from inspect import iscoroutinefunction
from typing import Any, Protocol

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils import translation
from django.utils.module_loading import import_string

from django_taskq import conf
from django_taskq.events import one_line, worker_log
from django_taskq.exceptions import ArgumentsError, CarrierError, PayloadTooLarge
from django_taskq.serialization import dump_headers

# So many unknown names are noted in the log, one line each.
_MOST_UNKNOWN = 100


class Carrier(Protocol):
    """What `DJANGO_TASKQ["CONTEXT"]` names by its path: such a class, or an object of it."""

    @property
    def name(self) -> str:
        """Return the key in the row's headers: short, and the same for ever."""

    def capture(self) -> Any:
        """Return what to carry along, as JSON; None for nothing. Runs at every enqueue."""

    def restore(self, value: Any, /) -> AbstractContextManager[object]:
        """Return a context manager that puts a captured value back while the task runs."""


class Language:
    """Carry the language that is active, where it is not the project's own."""

    name = "language"

    def capture(self) -> str | None:
        language = translation.get_language()
        return None if language == settings.LANGUAGE_CODE else language

    def restore(self, value: str, /) -> AbstractContextManager[object]:
        return translation.override(value)


@cache
def carriers() -> tuple[Carrier, ...]:
    """Return the project's carriers. Raise ImproperlyConfigured for what is none."""
    found = tuple(_carrier_at(path) for path in conf.get().context)
    names = [carrier.name for carrier in found]
    for name in names:
        if names.count(name) > 1:
            raise ImproperlyConfigured(
                f'DJANGO_TASKQ["CONTEXT"] has two carriers named {name!r}; give one another name.'
            )
    return found


def capture() -> str | None:
    """Return what the caller's context gives a task to carry, as JSON text; None for nothing.

    Raise CarrierError, with the carrier's own error as its cause.
    """
    headers: dict[str, Any] | None = None
    for carrier in carriers():
        try:
            value = carrier.capture()
        except Exception as error:
            raise CarrierError(
                f'The carrier "{carrier.name}" ({_path_of(carrier)}) failed to capture the '
                f"context of enqueue(): {type(error).__qualname__}."
            ) from error
        if value is not None:
            headers = headers or {}
            headers[carrier.name] = value
    if headers is None:
        return None
    try:
        return dump_headers(headers)
    except (ArgumentsError, PayloadTooLarge) as error:
        raise CarrierError(f'DJANGO_TASKQ["CONTEXT"]: {error}') from None


def carrying(func: Callable[..., Any], headers: str) -> Callable[..., Any]:
    """Return a function that restores what a row carries around each call; `async def` stays so."""
    if iscoroutinefunction(func):

        @wraps(func)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            with restored(headers):
                return await func(*args, **kwargs)

        return run_async

    def run(*args: Any, **kwargs: Any) -> Any:
        with restored(headers):
            return func(*args, **kwargs)

    return run


@contextmanager
def restored(headers: str) -> Iterator[None]:
    """Put back what a row carries, for the length of a `with`."""
    carried = decode(headers)
    with ExitStack() as stack:
        for carrier in carriers():
            if carrier.name in carried:
                stack.enter_context(carrier.restore(carried.pop(carrier.name)))
        for name in carried:
            _note_unknown(name)
        yield


def decode(headers: str | None) -> dict[str, Any]:
    """Return a row's headers; a row made by SQL may hold what is no object, and carries nothing."""
    found = json.loads(headers) if headers else {}
    return found if isinstance(found, dict) else {}


def _carrier_at(path: str) -> Carrier:
    try:
        found: Any = import_string(path)
        carrier: Carrier = found() if isinstance(found, type) else found
    except Exception as error:
        raise ImproperlyConfigured(
            f'DJANGO_TASKQ["CONTEXT"]: {path!r} cannot be loaded ({error}). It takes dotted paths '
            "of classes without arguments, or of objects."
        ) from error
    name = getattr(carrier, "name", None)
    for missing in ("capture", "restore"):
        if not callable(getattr(carrier, missing, None)):
            raise ImproperlyConfigured(
                f'DJANGO_TASKQ["CONTEXT"]: {path!r} has no method {missing}(). A carrier has a '
                "name, capture() and restore(value)."
            )
    if not isinstance(name, str) or not name:
        raise ImproperlyConfigured(
            f'DJANGO_TASKQ["CONTEXT"]: the name of {path!r} is {name!r}; it is a short text.'
        )
    return carrier


def _path_of(carrier: Carrier) -> str:
    return f"{type(carrier).__module__}.{type(carrier).__qualname__}"


_unknown: set[str] = set()


def _note_unknown(name: str) -> None:
    """Log, once per process, that nothing here restores what some task carries."""
    if name not in _unknown and len(_unknown) < _MOST_UNKNOWN:
        _unknown.add(name)
        worker_log.warning(
            'A task carries "%s", which no carrier in DJANGO_TASKQ["CONTEXT"] restores: ignored.',
            one_line(name),
        )


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "DJANGO_TASKQ":
        carriers.cache_clear()
