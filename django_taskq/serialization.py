"""Turn arguments and return values into JSON text, and errors into records; refuse the rest.

JSON only, and nothing is converted silently: what does not come back equal is refused with the
path to it and what to pass instead. (Tuples are the exception that Django makes: they come back as
lists.) PostgreSQL's `json` keeps the text verbatim.
"""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.db.models import Model

from django_taskq import conf
from django_taskq.exceptions import ArgumentsError, PayloadTooLarge

# Called with prebuilt options: `json.dumps` with any option makes a new encoder per call.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

_SCALARS = frozenset({int, bool, type(None)})
_MAX_DEPTH = 64
_MAX_TRACEBACK = 16 * 1024


def dump_arguments(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, str]:
    """Return args and kwargs as JSON text.

    Raise ArgumentsError for what is not JSON, PayloadTooLarge beyond PAYLOAD_LIMIT bytes.
    """
    for place, value in enumerate(args):
        if type(value) not in _SCALARS:
            _check(value, f"argument {place + 1}", name)
    for key, value in kwargs.items():
        if not key.isidentifier():
            _check(key, "a keyword", name)
        if type(value) not in _SCALARS:
            _check(value, f'argument "{key}"', name)
    args_text = _text(name, args) if args else "[]"
    kwargs_text = _text(name, kwargs) if kwargs else "{}"
    size = _size(args_text) + _size(kwargs_text)
    limit = conf.get().payload_limit
    if size > limit:
        raise PayloadTooLarge(
            f"{name}: the arguments are {size:,} bytes of JSON, the limit is {limit:,}. Store the "
            'data and pass its id, or raise DJANGO_TASKQ["PAYLOAD_LIMIT"].'
        )
    return args_text, kwargs_text


def dump_headers(headers: Mapping[str, Any]) -> str:
    """Return what carriers captured as JSON text. Raise as `dump_arguments` does."""
    for name, value in headers.items():
        if type(value) not in _SCALARS:
            _check(value, "its value", f'the carrier "{name}"')
    text = _text("a carrier", headers)
    size, limit = _size(text), conf.get().payload_limit
    if size > limit:
        raise PayloadTooLarge(
            f"the carriers captured {size:,} bytes of JSON, the limit is {limit:,}. Carry an id."
        )
    return text


def dump_value(name: str, value: Any) -> str:
    """Return a return value as JSON text. Raise as `dump_arguments` does, with RESULT_LIMIT."""
    if value is None:
        return "null"
    if type(value) not in _SCALARS:
        _check(value, "the return value", name)
    text = _text(name, value)
    size, limit = _size(text), conf.get().result_limit
    if size > limit:
        raise PayloadTooLarge(
            f"{name}: the return value is {size:,} bytes of JSON, the limit is {limit:,}. Store "
            'the data and return its id, or raise DJANGO_TASKQ["RESULT_LIMIT"].'
        )
    return text


def dump_error(
    error: BaseException, *, attempt: int, worker: str, hide: Callable[[str], str] | None = None
) -> str:
    """Return the record of a failed attempt as JSON text; never raise, whatever the error does.

    `hide` masks what is secret in the message and the traceback.
    """
    try:
        message, traceback_text = _safely_str(error), _safe_traceback(error)
        return error_record(
            class_path=class_path(type(error)),
            message=hide(message) if hide else message,
            traceback_text=hide(traceback_text) if hide else traceback_text,
            attempt=attempt,
            worker=worker,
        )
    except BaseException as broken:  # names that are no text, a text that is a class of its own, …
        return error_record(
            class_path=class_path(Exception),
            message=f"<the error cannot be shown: {type.__repr__(type(broken))} was raised>",
            traceback_text="",
            attempt=attempt,
            worker=worker,
        )


def error_record(
    *, class_path: str, message: str, traceback_text: str, attempt: int, worker: str
) -> str:
    """Return an error record as JSON text that `jsonb` accepts."""
    return _encode(
        {
            "exception_class_path": storable(class_path)[:512],
            "message": storable(message)[:2048],
            "traceback": _middle_cut(storable(traceback_text)),
            "attempt": attempt,
            "worker": worker,
        }
    )


def class_path(kind: type) -> str:
    """Return the dotted path of a class, as Django's TaskError stores it."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _text(name: str, value: Any) -> str:
    try:
        return _encode(value)
    except ValueError as error:  # the one thing that is left: sys.set_int_max_str_digits()
        raise ArgumentsError(f"{name}: a number has too many digits ({error}).") from None


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _check(value: Any, where: str, name: str, depth: int = 1) -> None:
    """Raise ArgumentsError unless `value` is JSON that comes back equal."""
    problem = None
    if isinstance(value, str):
        if "\x00" in value:
            problem = "holds a NUL character, which PostgreSQL cannot store. Remove it"
        elif not value.isascii() and not _is_unicode(value):
            problem = "holds a lone surrogate, which is no Unicode text. Decode it properly first"
    elif value is None or isinstance(value, int):
        pass
    elif isinstance(value, float):
        if not math.isfinite(value):
            problem = f"is {value!r}, which JSON does not have. Pass None or a string"
    elif depth > _MAX_DEPTH:
        problem = f"is nested deeper than {_MAX_DEPTH} levels. Store the data and pass its id"
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            if type(item) not in _SCALARS:
                _check(item, f"{where}[{place}]", name, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ArgumentsError(
                    f"{name}: {where} has the key {_safely_repr(key)} ({_kind(key)}); JSON has "
                    "string keys only. Pass str(key), or a list of pairs."
                )
            _check(key, f"a key of {where}", name, depth)
            _check(item, f"{where}[{key!r}]", name, depth + 1)
    else:
        problem = f"is {_article(_kind(value))}; tasks take JSON. {_instead(value)}"
    if problem:
        raise ArgumentsError(f"{name}: {where} {problem}.")


def _instead(value: Any) -> str:
    """Say what to pass in place of a value that is not JSON."""
    match value:
        case Model():
            return "Pass its pk and load it in the task"
        case bytes() | bytearray() | memoryview():
            return "Pass text (decode it, or base64), or store the bytes and pass their id"
        case set() | frozenset():
            return "Pass a sorted list"
        case _ if _has_isoformat(value):
            return "Pass value.isoformat() and parse it in the task"
        case _:
            return "Pass a string, number, boolean, None, list or dict"


def _has_isoformat(value: Any) -> bool:
    try:
        return hasattr(value, "isoformat")
    except Exception:  # its attributes are computed, and that went wrong: it is refused anyway
        return False


def _safely_repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception as broken:
        return f"<its repr raised {type(broken).__qualname__}>"


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else class_path(kind)


def _article(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def is_storable(text: str) -> bool:
    """Say whether PostgreSQL can store a text: no NUL, no lone surrogate."""
    return "\x00" not in text and _is_unicode(text)


def storable(text: str) -> str:
    """Replace what PostgreSQL cannot store, visibly."""
    return text.replace("\x00", "\\x00").encode(errors="backslashreplace").decode()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _safely_str(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as broken:  # even SystemExit: it must not end the process here
        return f"<{type(error).__qualname__}; its __str__ raised {type(broken).__qualname__}>"


def _safe_traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException as broken:
        frames = "".join(traceback.format_tb(error.__traceback__))
        return (
            f"Traceback (most recent call last):\n{frames}{class_path(type(error))} "
            f"(formatting it raised {type(broken).__qualname__})\n"
        )


def _middle_cut(text: str) -> str:
    """Keep both ends of a long text: where it was called from, and what was raised."""
    if len(text) <= _MAX_TRACEBACK:
        return text
    half = _MAX_TRACEBACK // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"
