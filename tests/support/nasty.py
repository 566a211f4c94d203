"""Errors that do harm to whoever looks at them: a function for each, which raises it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NoReturn

from django_taskq import Cancel, Retry, Snooze

RAISERS: dict[str, Callable[[], None]] = {}


def _raiser(function: Callable[[], None]) -> Callable[[], None]:
    RAISERS[function.__name__] = function
    return function


def _refuse(kind: type[BaseException]) -> Any:
    def refuse(self: Any, *args: Any) -> NoReturn:
        raise kind("no words")

    return refuse


def _class(name: str, **members: Any) -> type[Exception]:
    return type(name, (Exception,), members)


@_raiser
def whose_str_raises() -> None:
    raise _class("Mute", __str__=_refuse(RuntimeError), __repr__=_refuse(RuntimeError))


@_raiser
def whose_str_exits() -> None:
    raise _class("Exits", __str__=_refuse(SystemExit), __repr__=_refuse(KeyboardInterrupt))


@_raiser
def whose_str_is_none() -> None:
    raise _class("NoText", __str__=lambda self: None)


@_raiser
def whose_str_is_no_plain_text() -> None:
    class Text(str):
        replace = encode = translate = __getitem__ = _refuse(RuntimeError)  # type: ignore[assignment]

    raise _class("OddText", __str__=lambda self: Text("odd"))


@_raiser
def whose_attributes_raise() -> None:
    raise _class("Closed", __getattribute__=_refuse(RuntimeError))


@_raiser
def whose_traceback_raises() -> None:
    raise _class("NoTrace", __traceback__=property(_refuse(RuntimeError)))


@_raiser
def whose_notes_are_none() -> None:
    raise _class("OddNotes", __notes__=property(_refuse(SystemExit)))


@_raiser
def whose_module_is_none() -> None:
    raise _class("Nowhere", __module__=None)


@_raiser
def whose_names_hold_nul() -> None:
    raise _class("Odd", __module__="a\x00b", __qualname__="c\ud800d\n")


@_raiser
def that_is_frozen() -> None:
    @dataclasses.dataclass(frozen=True)
    class Frozen(Exception):
        code: int

    raise Frozen(5)


@_raiser
def that_is_its_own_cause() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


@_raiser
def of_a_long_chain() -> None:
    error = ValueError("0")
    for number in range(3000):
        following = ValueError(str(number))
        following.__cause__ = error
        error = following
    raise error


@_raiser
def of_nested_groups() -> None:
    group: Exception = ValueError("a\x00b\ud800")
    for _ in range(3000):
        group = ExceptionGroup("g\x00\ud800", [group, KeyError("k")])
    raise group


@_raiser
def of_a_wide_group() -> None:
    raise BaseExceptionGroup("all", [ValueError(n) for n in range(500)] + [SystemExit(3)])


@_raiser
def that_is_huge() -> None:
    raise ValueError("é\x00" * 500_000)


@_raiser
def with_nul_and_surrogates() -> None:
    error = ValueError("a\x00b\ud800c\udfff\U0010ffff", b"\x00\xff")
    error.add_note("n\x00\ud800")
    raise error


@_raiser
def from_the_depth() -> None:
    from_the_depth()


@_raiser
def for_want_of_memory() -> None:
    raise MemoryError("a" * 100)


@_raiser
def that_is_a_cancel_without_reason() -> None:
    raise type("Bare", (Cancel,), {"__init__": lambda self: None})()


@_raiser
def that_cancels_for_something_else() -> None:
    raise Cancel(Ellipsis)  # type: ignore[arg-type]


@_raiser
def that_cancels_and_cannot_say_why() -> None:
    raise Cancel(_class("Mute", __str__=_refuse(SystemExit))())  # type: ignore[arg-type]


@_raiser
def that_is_a_snooze_without_delay() -> None:
    raise type("Bare", (Snooze,), {"__init__": lambda self: None})()


@_raiser
def that_is_a_retry_without_delay() -> None:
    raise type("Bare", (Retry,), {"__init__": lambda self: None})()


@_raiser
def that_snoozes_for_ever() -> None:
    raise Snooze(float("inf"))


@_raiser
def that_snoozes_for_too_long() -> None:
    raise Snooze(1e300)


@_raiser
def that_exits() -> None:
    raise SystemExit(_class("Mute", __str__=_refuse(SystemExit))())


@_raiser
def that_stops_an_iteration() -> None:
    raise StopIteration("stop")


@_raiser
def that_exits_a_generator() -> None:
    raise GeneratorExit
