"""Whether a failed attempt is followed by another, and after how long."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_taskq import Cancel, Retry, Snooze, exponential
from django_taskq.retries import (
    DEFAULT_BACKOFF,
    backoff_from_json,
    backoff_to_json,
    check_backoff,
    next_delay,
    should_retry,
)

ERROR = ValueError("no luck")


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1.0), (2, 5.0), (3, 60.0), (9, 60.0)])
def test_a_sequence_gives_one_wait_per_attempt_and_its_last_repeats(
    attempt: int, seconds: float
) -> None:
    assert next_delay((1.0, 5.0, 60.0), attempt, ERROR) == seconds


def test_a_number_waits_as_long_each_time() -> None:
    assert [next_delay(30.0, attempt, ERROR) for attempt in (1, 2, 50)] == [30.0, 30.0, 30.0]
    assert next_delay(0.0, 1, ERROR) == 0.0


@given(attempt=st.integers(1, 32_767), base=st.floats(0.1, 1e4), cap=st.floats(0.1, 1e6))
def test_exponential_waits_a_random_part_of_a_doubling_time_up_to_the_cap(
    attempt: int, base: float, cap: float
) -> None:
    longest = min(cap, base * 2.0 ** min(attempt - 1, 60))
    assert 0 <= next_delay(exponential(base=base, cap=cap), attempt, ERROR) <= longest  # type: ignore[operator]


def test_exponential_spreads_its_waits_over_the_whole_time() -> None:
    waits = [next_delay(exponential(base=8, cap=100), 2, ERROR) for _ in range(400)]
    assert min(waits) < 4 < 12 < max(waits) <= 16  # type: ignore[type-var]


def test_the_default_is_15_seconds_to_an_hour() -> None:
    assert exponential() == DEFAULT_BACKOFF == exponential(base=15, cap=3600)


@pytest.mark.parametrize("bad", [{"base": 0}, {"cap": 0}, {"base": -1}, {"cap": -1}])
def test_exponential_refuses_no_time_at_all(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"exponential\(.*above 0 seconds"):
        exponential(**bad)


def test_a_function_sees_attempt_and_error_and_may_give_up() -> None:
    seen: list[Any] = []

    def choose(attempt: int, error: BaseException) -> float | None:
        seen.append((attempt, error))
        return None if attempt == 3 else attempt * 1.5

    assert next_delay(choose, 2, ERROR) == 3.0
    assert next_delay(choose, 3, ERROR) is None
    assert seen == [(2, ERROR), (3, ERROR)]


def test_a_negative_answer_of_a_function_means_now() -> None:
    assert next_delay(lambda attempt, error: -5, 1, ERROR) == 0.0


@pytest.mark.parametrize(
    ("error", "attempt", "again"),
    [
        (ConnectionError(), 1, True),
        (ConnectionRefusedError(), 2, True),
        (ConnectionError(), 3, False),
        (ConnectionError(), 4, False),
        (ConnectionResetError(), 1, False),
        (ValueError(), 1, False),
        (KeyboardInterrupt(), 1, False),
    ],
)
def test_an_error_is_retried_if_it_is_of_a_kind_to_retry_and_of_none_to_give_up(
    error: BaseException, attempt: int, again: bool
) -> None:
    assert again is should_retry(
        error,
        attempt=attempt,
        max_attempts=3,
        retry_on=(ConnectionError,),
        give_up_on=(ConnectionResetError,),
    )


@pytest.mark.parametrize("backoff", [5, 0.5, [1, 2.5], (3,), exponential(base=1, cap=2)])
def test_a_row_holds_every_backoff_that_is_no_function(backoff: Any) -> None:
    checked = check_backoff(backoff)
    stored = json.loads(json.dumps(backoff_to_json(checked)))
    back = backoff_from_json(stored)
    for attempt in (1, 2, 9):
        if isinstance(back, type(DEFAULT_BACKOFF)):
            assert back == backoff
        else:
            assert next_delay(back, attempt, ERROR) == next_delay(checked, attempt, ERROR)


def test_a_row_holds_no_function() -> None:
    with pytest.raises(TypeError, match="Give it to @task"):
        backoff_to_json(lambda attempt, error: 1)


@pytest.mark.parametrize("kind", [Retry, Snooze])
def test_retry_and_snooze_refuse_what_is_no_time(kind: Any) -> None:
    for bad in ("soon", float("nan"), True):
        with pytest.raises(TypeError, match="seconds or a timedelta"):
            kind(delay=bad)
    assert kind(delay=-5).delay == 0.0


def test_what_a_task_raises_keeps_its_words() -> None:
    assert str(Retry("busy", delay=3)) == "busy"
    assert Retry().delay is None
    assert Cancel("not needed").reason == str(Cancel("not needed")) == "not needed"
    with pytest.raises(TypeError):
        Snooze()  # type: ignore[call-arg]


def test_waits_differ_from_one_task_to_the_next() -> None:
    waits = [next_delay(DEFAULT_BACKOFF, 3, ERROR) for _ in range(20)]
    assert any(one != two for one, two in itertools.pairwise(waits))
