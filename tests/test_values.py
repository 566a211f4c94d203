"""Values and errors on their whole way: by enqueue, a real row, a task, and the row that it leaves.

What comes in comes back equal or is refused where it is passed; whatever a task returns or raises,
and whatever somebody has put into a row by SQL, an outcome of it is stored.
"""

from __future__ import annotations

import datetime as dt
import decimal
import io
import json
import logging
import re
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from django_taskq import ArgumentsError, PayloadTooLarge, TaskResult, get_result
from django_taskq.exceptions import SignatureMismatch, UnstorableResult
from django_taskq.models import FinishedTask, LiveTask
from django_taskq.serialization import class_path, dump_error
from django_taskq.tasks_api import LOGGER_NAME
from django_taskq.testing import drain
from django_taskq.testing.runner import Runner
from django_taskq.worker.lanes import QueueChoice
from tests import tasks
from tests.support import nasty
from tests.test_serialization import JSON, raised, same

pytestmark = pytest.mark.django_db

# Several values at a time: a drain costs more than a value.
FEW = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MANY = settings(FEW, max_examples=120)

ANY_TEXT = st.text(st.characters(), max_size=30)
# Among what JSON has: what it has not.
ANYTHING = st.recursive(
    JSON
    | ANY_TEXT
    | st.floats()
    | st.binary(max_size=3)
    | st.sampled_from(
        [
            {1},
            decimal.Decimal("1.5"),
            dt.date(2026, 1, 1),
            uuid.UUID(int=5),
            1j,
            object(),
            "a\x00",
            "\ud800",
        ]
    )
    | st.none().map(lambda _: 10**5000)
    | st.none().map(lambda _: "x" * 70_000),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(ANY_TEXT | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=8,
)


def as_json(value: Any) -> Any:
    """Return a value as it comes back: tuples as lists."""
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return value


def insert(**columns: Any) -> str:
    """Enqueue by plain SQL; return the id."""
    names = ", ".join(columns)
    places = ", ".join(["%s"] * len(columns))
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO django_taskq_livetask ({names}) VALUES ({places}) RETURNING id",
            list(columns.values()),
        )
        return str(cursor.fetchone()[0])


def work() -> None:
    """Do what `drain` does, without reading what some of these rows hold."""
    runner = Runner("default")
    with runner.present():
        while (row := runner.claim_next(QueueChoice((), ()))) is not None:
            with suppress(BaseException):
                runner.run(row)


def kind_of_failure(id: str) -> str:
    row = FinishedTask.objects.get(pk=id)
    assert row.status == "FAILED"
    return str(row.errors[-1]["exception_class_path"])


# --- values --------------------------------------------------------------------------------------


@FEW
@given(values=st.lists(JSON, min_size=1, max_size=6))
@example(values=[1e16, -0.0, 5e-324, 2**200, "NULL", "", "{}", 'a"b\\c,{d}', "\ufeff\u2028\x7f"])
def test_what_goes_in_reaches_the_task_and_comes_back_equal(values: list[Any]) -> None:
    one = tasks.echo.enqueue(*values, again=values)
    many = tasks.echo.enqueue_many([(value,) for value in values])
    text = json.dumps(values)
    by_sql = insert(task="tests.tasks.echo", args=text, kwargs=json.dumps({"again": values}))
    drain()
    expected = {"args": values, "kwargs": {"again": values}}
    assert same(get_result(one.id).return_value, expected)
    assert same(get_result(by_sql).return_value, expected)
    for value, result in zip(values, many, strict=True):
        assert same(get_result(result.id).return_value, {"args": [value], "kwargs": {}})


@MANY
@given(value=ANYTHING)
def test_whatever_is_passed_is_refused_at_the_call_or_comes_back_equal(value: Any) -> None:
    calls = [
        lambda: tasks.echo.enqueue(value),
        lambda: tasks.echo.enqueue_many([(value,)])[0],
        lambda: tasks.echo.enqueue(again=[value]),
    ]
    made: list[TaskResult[Any]] = []
    for call in calls:
        try:
            made.append(call())
        except (ArgumentsError, PayloadTooLarge) as error:
            assert str(error).startswith("echo: ")
    assert len(made) in (0, 3), "accepted in one way and refused in another"
    # The transaction is usable: nothing reached the database that it would refuse.
    for result, found in zip(made, LiveTask.objects.order_by("id"), strict=True):
        assert str(found.pk) == result.id
        args = found.args if found.args else found.kwargs["again"]
        assert same(args, [as_json(value)])
    LiveTask.objects.all().delete()


@FEW
@given(values=st.lists(ANYTHING, min_size=1, max_size=5))
def test_whatever_is_returned_is_stored_or_a_recorded_error(values: list[Any]) -> None:
    results = tasks.give_back.enqueue_many([(place,) for place in range(len(values))])
    with tasks.giving(values):
        drain()
    for value, result in zip(values, results, strict=True):
        found = get_result(result.id)
        if found.errors:
            assert kind_of_failure(result.id) == class_path(UnstorableResult)
        else:
            assert same(found.return_value, as_json(value))


@pytest.mark.parametrize("done", [float("nan"), float("inf"), "half", [1]])
def test_progress_that_is_no_number_is_refused_where_it_is_reported(done: Any) -> None:
    result = tasks.report_as.enqueue(0)
    with tasks.giving([(done, 1, "")]):
        drain()
    assert kind_of_failure(result.id) == class_path(ArgumentsError)


def test_any_message_of_progress_can_be_stored() -> None:
    result = tasks.report_as.enqueue(0)
    with tasks.giving([(1, 2, "a\x00b\ud800" + "é" * 100_000)]):
        drain()
    progress = get_result(result.id).progress
    assert progress is not None
    assert progress["message"].startswith("a\\x00b\\ud800éé")
    assert len(progress["message"]) == 2048


@contextmanager
def log_of_tasks() -> Iterator[io.StringIO]:
    """Let Django's log of tasks be formatted, and keep it from pytest: xdist cannot send it all."""
    logger, text = logging.getLogger(LOGGER_NAME), io.StringIO()
    handler = logging.StreamHandler(text)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield text
    finally:
        logger.propagate = True
        logger.removeHandler(handler)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", nasty.RAISERS)
def test_no_error_keeps_its_outcome_from_being_stored(kind: str) -> None:
    results = [tasks.raise_nasty.enqueue(kind, secret=secret) for secret in ("", "s3cret-word")]
    neighbour = tasks.add.enqueue(1, 2)
    with log_of_tasks() as log:
        work()
    for found in FinishedTask.objects.filter(pk__in=[result.id for result in results]):
        assert found.status in ("FAILED", "CANCELLED")
        assert found.errors[-1]["exception_class_path"]
        assert len(json.dumps(found.errors)) < 128 * 1024
        assert "s3cret" not in json.dumps(found.errors) + log.getvalue()
    assert FinishedTask.objects.count() == 3
    assert get_result(neighbour.id).return_value == 3


@settings(FEW, max_examples=40)
@given(name=ANY_TEXT, module=ANY_TEXT, message=ANY_TEXT, note=ANY_TEXT, cause=ANY_TEXT)
def test_an_error_of_any_words_can_be_stored(
    name: str, module: str, message: str, note: str, cause: str
) -> None:
    kind = type("Odd", (Exception,), {"__module__": module, "__qualname__": name})
    error = kind(message)
    error.add_note(note)
    error.__cause__ = ValueError(cause)
    for hide in (None, lambda text: text.replace("a", "\x00")):
        text = dump_error(raised(error), attempt=1, worker="w", hide=hide)
        with connection.cursor() as cursor:
            cursor.execute("SELECT %s::jsonb", [text])
            assert cursor.fetchone()[0]


# --- signatures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ("[1]", "{}", "missing a required( keyword-only)? argument: 'width'"),
        ("[1, 2]", '{"width": 3}', "too many positional arguments"),
        ("[1]", '{"width": 3, "height": 4}', "unexpected keyword argument 'height'"),
    ],
)
def test_a_row_of_code_with_another_signature_fails_once_and_says_what_does_not_fit(
    args: str, kwargs: str, words: str
) -> None:
    id = insert(task="tests.tasks.resize", args=args, kwargs=kwargs, max_attempts=5)
    drain(until=3600)
    row = FinishedTask.objects.get(pk=id)
    assert (row.status, row.attempts, len(row.errors)) == ("FAILED", 1, 1)
    assert kind_of_failure(id) == class_path(SignatureMismatch)
    message = row.errors[0]["message"]
    assert re.search(words, message)
    assert "resize(photo_id: 'int', *, width: 'int', colour: 'str' = 'any')" in message


def test_a_type_error_of_the_task_itself_is_no_matter_of_its_signature() -> None:
    result = tasks.add.enqueue(1, "2")
    drain()
    assert kind_of_failure(result.id) == "builtins.TypeError"


# --- rows made by SQL ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "columns",
    [
        {"args": "null"},
        {"args": '"abc"'},
        {"args": '{"a": 1}'},
        {"args": "5"},
        {"kwargs": "[1]"},
        {"kwargs": "null"},
        pytest.param(
            {"args": "[" * 3000 + "]" * 3000},
            marks=pytest.mark.skipif(sys.version_info >= (3, 12), reason="here Python can read it"),
        ),
        {"args": "[" + "1" * 5000 + "]"},
        {"options": "[]"},
        {"options": '{"timeout": "soon"}'},
        {"options": '{"timeout": -1}'},
        {"options": '{"timeout": 1e400}'},
        {"options": '{"soft_timeout": [1]}'},
        {"options": '{"backoff": {"base": 1}}'},
        {"options": '{"backoff": "x"}'},
    ],
    ids=lambda columns: str(columns)[:40],
)
def test_nonsense_that_somebody_put_into_a_row_fails_once(columns: dict[str, str]) -> None:
    for name in ("add", "echo", "pay", "add_async"):
        insert(task=f"tests.tasks.{name}", max_attempts=3, **columns)
    neighbour = tasks.add.enqueue(1, 2)
    work()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT status, attempts, errors->0->>'exception_class_path' "
            "FROM django_taskq_finishedtask WHERE id <> %s",
            [neighbour.id],
        )
        assert cursor.fetchall() == [("FAILED", 1, class_path(SignatureMismatch))] * 4
    assert get_result(neighbour.id).return_value == 3


@pytest.mark.parametrize(
    "columns",
    [
        {"errors": "{}"},
        {"errors": "5"},
        {"attempts": 32767},
        {"crashes": 32767},
        {"run_after": "-infinity"},
        {"run_after": "infinity"},
        {"enqueued_at": "0044-03-15 12:00:00+00 BC"},
        {"expires_at": "10000-01-01 00:00:00+00"},
    ],
    ids=str,
)
def test_what_would_keep_an_outcome_from_being_stored_or_read_is_refused(
    columns: dict[str, Any],
) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        insert(task="tests.tasks.add", **columns)


def test_a_name_of_any_length_is_put_aside() -> None:
    name = "".join(chr(0x4E00 + (n * 7919) % 20000) for n in range(10_000))
    id = insert(task=name)
    drain()
    row = LiveTask.objects.get(pk=id)
    assert row.status == "HELD"
    assert row.held_for is not None and row.held_for.startswith("unknown:")
