"""JSON: what is accepted comes back equal, what is not is refused with the path to it."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import math
import uuid
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import override_settings
from django.utils.translation import gettext_lazy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from django_taskq import ArgumentsError, PayloadTooLarge
from django_taskq.models import LiveTask
from django_taskq.serialization import dump_arguments, dump_error, dump_value, error_record
from tests import tasks
from tests.rows import live

# No lone surrogates, no NUL: all other text.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**40), max_value=10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def same(one: Any, two: Any) -> bool:
    """Say whether two values are equal in type and sign too."""
    if type(one) is not type(two):
        return False
    if isinstance(one, float):
        return one == two and math.copysign(1, one) == math.copysign(1, two)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    return bool(one == two)


@pytest.mark.django_db
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(value=JSON)
@example(value=1e16)
@example(value=-0.0)
@example(value=1.0)
@example(value=5e-324)
@example(value=1.7976931348623157e308)
@example(value=0.1 + 0.2)
@example(value=2**63)
@example(value=-(2**200))
@example(value="\ufeff\u2028\u2029\x7f\x01\\u0000")
@example(value={"": "", "b": 1, "a": 2})
@example(value="\U0010ffff")
@example(value=["\\", '"', "'", "%s", "%(id)s", "{}"])
def test_what_is_accepted_comes_back_equal(value: Any) -> None:
    one = live(tasks.echo.enqueue(value, again=value))
    many = live(tasks.echo.enqueue_many([(value,)])[0])
    assert same(one.args, [value])
    assert same(one.kwargs, {"again": value})
    assert same(many.args, [value])
    assert same(tasks.echo.get_result(str(one.id)).args, [value])
    LiveTask.objects.all().delete()


@pytest.mark.django_db
@settings(max_examples=60, deadline=None)
@given(value=JSON)
@example(value=1e16)
@example(value=-0.0)
def test_a_return_value_comes_back_equal(value: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::json::text", [dump_value("echo", value)])
        assert same(json.loads(cursor.fetchone()[0]), value)


@pytest.mark.django_db
def test_tuples_come_back_as_lists_and_nothing_else_changes_its_kind() -> None:
    class Colour(enum.IntEnum):
        RED = 3

    class Word(str):
        """A string."""

    row = live(tasks.echo.enqueue((1, (2, 3)), Colour.RED, Word("hello"), True, {"a": (1,)}))
    assert same(row.args, [[1, [2, 3]], 3, "hello", True, {"a": [1]}])


class Thing:
    """Nothing that JSON knows."""


class Awkward:
    """Nothing that can be looked at, either."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name) if name == "isoformat" else AttributeError(name)

    def __repr__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"ab", "a bytes.*decode it, or base64"),
        (bytearray(b"ab"), "a bytearray.*decode it, or base64"),
        (memoryview(b"ab"), "a memoryview.*base64"),
        ({1, 2}, "a set.*sorted list"),
        (frozenset({1}), "a frozenset.*sorted list"),
        (float("nan"), "nan.*None or a string"),
        (float("inf"), "inf.*None or a string"),
        (float("-inf"), "-inf.*None or a string"),
        ("a\x00b", "NUL.*PostgreSQL cannot store"),
        ("a\ud800b", "lone surrogate"),
        (dt.datetime(2026, 1, 1), r"datetime\.datetime.*isoformat\(\)"),
        (dt.date(2026, 1, 1), r"datetime\.date.*isoformat\(\)"),
        (dt.time(12), r"datetime\.time.*isoformat\(\)"),
        (dt.timedelta(1), r"datetime\.timedelta.*string, number"),
        (decimal.Decimal("1.1"), r"decimal\.Decimal.*string"),
        (uuid.UUID(int=1), r"uuid\.UUID.*string"),
        (Path("/tmp"), r"Path.*string"),
        (1j, "a complex.*string"),
        (Thing(), r"a tests\.test_serialization\.Thing.*string"),
        (Thing, "a type.*string"),
        (Awkward(), r"a tests\.test_serialization\.Awkward.*string"),
        (len, "builtin_function.*string"),
        (gettext_lazy("hello"), "string"),
        (range(3), "a range.*list"),
        (iter([1]), "list_iterator.*list"),
        (tasks.add, "Task.*string"),
    ],
)
def test_what_is_not_json_is_refused_with_what_to_pass_instead(value: Any, words: str) -> None:
    with pytest.raises(ArgumentsError, match=rf"^echo: argument 1 .*{words}"):
        tasks.echo.enqueue(value)
    with pytest.raises(ArgumentsError, match=rf'^echo: argument "where" .*{words}'):
        tasks.echo.enqueue(where=value)
    with pytest.raises(ArgumentsError, match=rf"^echo: argument 2\[0\]\['deep'\]\[1\] .*{words}"):
        tasks.echo.enqueue(1, [{"deep": (1, value)}])
    with pytest.raises(ArgumentsError, match=rf"^echo: the return value .*{words}"):
        dump_value("echo", value)


@pytest.mark.parametrize("key", [1, None, True, 1.5, (1, 2), b"a"])
def test_a_key_that_is_no_string_is_refused_with_the_path(key: Any) -> None:
    with pytest.raises(ArgumentsError, match=r"argument 1\[0\] has the key .*str\(key\)") as caught:
        tasks.echo.enqueue([{key: 1}])
    assert repr(key) in str(caught.value)


def test_a_key_that_cannot_even_be_shown_is_refused() -> None:
    with pytest.raises(ArgumentsError, match=r"its repr raised RuntimeError.*Awkward.*str\(key\)"):
        tasks.echo.enqueue({Awkward(): 1})


@pytest.mark.parametrize("key", ["a\x00b", "a\ud800b"])
def test_a_key_that_postgresql_cannot_store_is_refused_with_the_path(key: str) -> None:
    with pytest.raises(ArgumentsError, match=r"a key of argument 1\['deep'\]"):
        tasks.echo.enqueue({"deep": {key: 1}})


def test_values_nested_too_deeply_are_refused() -> None:
    deep: list[Any] = []
    for _ in range(70):
        deep = [deep]
    with pytest.raises(ArgumentsError, match="nested deeper than 64 levels"):
        tasks.echo.enqueue(deep)


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ArgumentsError, match="nested deeper"):
        tasks.echo.enqueue(endless)


def test_a_number_of_too_many_digits_is_refused_as_an_argument() -> None:
    huge = 10**5000
    for refused in (huge, {"a": [huge]}):
        with pytest.raises(ArgumentsError, match=r"^echo: .*digits"):
            tasks.echo.enqueue(refused)
        with pytest.raises(ArgumentsError, match=r"^echo: .*digits"):
            tasks.echo.enqueue_many([(refused,)])
        with pytest.raises(ArgumentsError, match=r"^echo: .*digits"):
            dump_value("echo", refused)


def test_the_payload_is_measured_in_bytes_of_both_parts() -> None:
    with override_settings(DJANGO_TASKQ={"PAYLOAD_LIMIT": 20}):
        assert dump_arguments("echo", ["é" * 3], {"a": "é"}) == ('["ééé"]', '{"a":"é"}')
        with pytest.raises(PayloadTooLarge, match="21 bytes"):
            dump_arguments("echo", ["é" * 3], {"a": "ée"})


def test_a_return_value_has_a_limit_of_its_own() -> None:
    with override_settings(DJANGO_TASKQ={"RESULT_LIMIT": 10}):
        assert dump_value("echo", "x" * 8) == '"xxxxxxxx"'
        with pytest.raises(
            PayloadTooLarge, match=r"echo: the return value is 11 bytes.*return its"
        ):
            dump_value("echo", "x" * 9)
    assert len(dump_value("echo", "x" * 1_000_000)) == 1_000_002


# Errors are stored whatever they are.


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_an_error_is_recorded_with_class_message_and_traceback() -> None:
    record = json.loads(dump_error(raised(ValueError("no luck")), attempt=2, worker="w"))
    assert record["exception_class_path"] == "builtins.ValueError"
    assert record["message"] == "no luck"
    assert "ValueError: no luck" in record["traceback"]
    assert "in raised" in record["traceback"]
    assert (record["attempt"], record["worker"]) == (2, "w")


class Stubborn(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@pytest.mark.django_db
@pytest.mark.parametrize(
    "error",
    [
        ValueError("a\x00b"),
        ValueError("a\ud800b"),
        ValueError("x" * 1_000_000),
        Stubborn(),
        ExceptionGroup("several", [ValueError("a\x00"), TypeError("b")]),
    ],
)
def test_every_error_can_be_stored(error: BaseException) -> None:
    text = dump_error(raised(error), attempt=1, worker="w")
    assert len(text) < 64 * 1024
    with connection.cursor() as cursor:
        cursor.execute("SELECT (%s::jsonb)->>'exception_class_path'", [text])
        assert cursor.fetchone()[0]


def test_a_long_traceback_keeps_both_ends() -> None:
    text = error_record(
        class_path="x.Y",
        message="m",
        traceback_text="first" + "." * 100_000 + "last",
        attempt=1,
        worker="",
    )
    kept = json.loads(text)["traceback"]
    assert kept.startswith("first")
    assert kept.endswith("last")
    assert "characters left out" in kept
