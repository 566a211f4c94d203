"""Hide what secret arguments hold: in errors, log lines and wherever arguments are shown.

A rule is the name of an argument or of a key inside one, or a compiled pattern that is searched in
such names. Rows hold the arguments as they are: the task needs them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from inspect import Parameter, signature
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote, quote_plus

from django.core.signals import setting_changed
from django.dispatch import receiver

from django_taskq import conf

Rule: TypeAlias = str | re.Pattern[str]
Hide: TypeAlias = Callable[[str], str]

MASK = "********"

# Shorter values, and numbers of up to twice as many digits, are hidden in texts only where they
# stand as a word of their own.
_SHORT = 4
# Where more than this would have to be looked for, all of a text is hidden.
_MOST_WORDS = 5000
# What lies deeper than enqueue() takes was made by SQL, and is hidden.
_MAX_DEPTH = 64


class RedactedError(Exception):
    """Stand in, where an error is logged, for one whose text held what must not be shown."""


def shown_call(task: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Return the arguments of a task's call, with secret ones masked; all if it is not known."""
    return _split(task, args, kwargs)[:2]


def hider(task: Any, args: str, kwargs: str) -> Hide | None:
    """Return a function that masks in a text what a row's secret arguments hold; None if none do.

    `args` and `kwargs` are JSON texts. Never raises: in doubt, all of a text is masked.
    """
    try:
        return hider_of(task, json.loads(args), json.loads(kwargs))
    except Exception:
        return _hide_all


def hider_of(task: Any, args: Any, kwargs: Any) -> Hide | None:
    """Return what `hider` does, for decoded arguments."""
    secrets = _split(task, args, kwargs)[2]
    try:
        words = {word for secret in secrets for text in _texts(secret) for word in _variants(text)}
    except RecursionError:
        return _hide_all
    if not words:
        return None
    if len(words) > _MOST_WORDS:
        return _hide_all
    # Longer ones first: one secret may begin with another.
    found = re.compile("|".join(map(_as_pattern, sorted(words, key=len, reverse=True))))
    return lambda text: found.sub(MASK, text)


def check_rules(rules: Any) -> tuple[Rule, ...]:
    """Return rules as a tuple. Raise TypeError for what is none."""
    if not isinstance(rules, list | tuple | set | frozenset) or not all(map(_is_rule, rules)):
        raise TypeError(
            f"redact takes a list of argument names and compiled patterns, not {rules!r}."
        )
    return tuple(rules)


@cache
def project_rules() -> tuple[Rule, ...]:
    """Return the rules for all tasks: Django's own for settings, unless the project has others."""
    rules = conf.get().redact
    if rules is not None:
        return rules
    from django.views.debug import SafeExceptionReporterFilter  # not at import: it is large

    # A lazy object of Django's, which it compiles at its first use.
    return (re.compile(SafeExceptionReporterFilter.hidden_settings.pattern, re.IGNORECASE),)


def _hide_all(text: str) -> str:
    return MASK


def _is_rule(rule: Any) -> bool:
    if isinstance(rule, re.Pattern):
        return isinstance(rule.pattern, str)
    return isinstance(rule, str) and bool(rule)


def _split(task: Any, args: Any, kwargs: Any) -> tuple[Any, Any, list[Any]]:
    """Return the arguments with secret ones masked, and what those were."""
    secrets: list[Any] = []
    if task is None or getattr(task.func, "is_missing", False):
        # Its rules are not known here, nor are the names of its arguments.
        return MASK, MASK, [args, kwargs]
    rules = (*getattr(task, "redact", ()), *project_rules())
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        return MASK, MASK, [args, kwargs]  # no call at all: a row made by SQL
    names = _names(task.func, bool(task.takes_context))
    plain = [
        _masked(names.of_place(place), value, rules, secrets) for place, value in enumerate(args)
    ]
    rest_is_secret = _is_secret(names.keyword_rest, rules)
    keywords = {
        key: _masked(
            MASK if rest_is_secret and key not in names.keywords else key, value, rules, secrets
        )
        for key, value in kwargs.items()
    }
    return plain, keywords, secrets


class _Names(NamedTuple):
    """What a function calls its arguments; MASK for those that it does not have."""

    positional: tuple[str, ...] = ()
    keywords: frozenset[str] = frozenset()
    rest: str = MASK
    keyword_rest: str = ""

    def of_place(self, place: int) -> str:
        return self.positional[place] if place < len(self.positional) else self.rest


@lru_cache(maxsize=1024)
def _names(func: Any, takes_context: bool) -> _Names:
    try:
        parameters = list(signature(func).parameters.values())[takes_context:]
    except (TypeError, ValueError):  # a function in C that does not say
        return _Names()
    of_kind: dict[Any, list[str]] = {}
    for parameter in parameters:
        of_kind.setdefault(parameter.kind, []).append(parameter.name)
    either = of_kind.get(Parameter.POSITIONAL_OR_KEYWORD, [])
    return _Names(
        positional=(*of_kind.get(Parameter.POSITIONAL_ONLY, []), *either),
        keywords=frozenset([*either, *of_kind.get(Parameter.KEYWORD_ONLY, [])]),
        rest=of_kind.get(Parameter.VAR_POSITIONAL, [MASK])[0],
        keyword_rest=of_kind.get(Parameter.VAR_KEYWORD, [""])[0],
    )


def _masked(
    name: str, value: Any, rules: Sequence[Rule], secrets: list[Any], depth: int = 0
) -> Any:
    """Return a value as it may be shown under its name; note in `secrets` what it may not."""
    if _is_secret(name, rules) or depth > _MAX_DEPTH:
        secrets.append(value)
        return MASK
    if isinstance(value, Mapping):
        return {
            key: _masked(str(key), item, rules, secrets, depth + 1) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_masked("", item, rules, secrets, depth + 1) for item in value]
    return value


def _is_secret(name: str, rules: Sequence[Rule]) -> bool:
    """Say whether a name is secret; MASK stands for an argument that the function has not."""
    if not name or name == MASK:
        return bool(name)
    return any(
        rule.casefold() == name.casefold() if isinstance(rule, str) else rule.search(name)
        for rule in rules
    )


def _texts(secret: Any) -> Iterator[str]:
    """Yield the texts and numbers in a secret value; True, False and None say nothing."""
    if isinstance(secret, Mapping):
        secret = list(secret.values())
    if isinstance(secret, list | tuple):
        for item in secret:
            yield from _texts(item)
    elif isinstance(secret, str):
        yield secret
        yield secret.strip()
        if "\n" in secret:  # may be indented line by line
            yield from (line for line in map(str.strip, secret.splitlines()) if len(line) > _SHORT)
    elif isinstance(secret, int | float) and not isinstance(secret, bool):
        yield repr(secret)


def _variants(text: str) -> Iterator[str]:
    """Yield a text as it may stand in another: as it is, in JSON, in quotes, in a URL."""
    if not text:
        return
    for plain in {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}:
        yield plain
        for quoted in _quoted(plain):
            yield quoted
            yield from _quoted(quoted)
    for quoted in _quoted(text.encode(errors="backslashreplace")):
        yield quoted
        yield from _quoted(quoted)
    for safe in ("/", ""):
        yield quote(text, safe=safe, errors="replace")
        yield quote_plus(text, safe=safe, errors="replace")


def _quoted(text: str | bytes) -> tuple[str, str]:
    """Return what stands between the quotes of a repr, with apostrophes escaped and not."""
    both = text + "'\"" if isinstance(text, str) else text + b"'\""
    escaped = repr(both).lstrip("b")[1:-4]
    return escaped, escaped.replace("\\'", "'")


def _as_pattern(word: str) -> str:
    escaped = re.escape(word)
    is_word = len(word) < _SHORT or (len(word) < 2 * _SHORT and word.isdigit())
    return rf"(?<!\w){escaped}(?!\w)" if is_word else escaped


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "DJANGO_TASKQ":
        project_rules.cache_clear()
