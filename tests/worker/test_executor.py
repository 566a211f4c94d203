"""What a task returns or raises is turned into what becomes of it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

from django_taskq.backend import TaskqBackend
from django_taskq.exceptions import (
    SignatureMismatch,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    UnstorableResult,
)
from django_taskq.outcomes import (
    Cancelled,
    CancelledUnstarted,
    Completed,
    Failed,
    Outcome,
    Retrying,
    Snoozed,
)
from django_taskq.serialization import class_path
from django_taskq.statuses import TaskStatus
from django_taskq.tasks_api import LOGGER_NAME, TaskResultStatus, task_finished, task_started
from django_taskq.transitions.claim import Claimed
from django_taskq.worker import decision, listeners
from django_taskq.worker.executor import Executor
from django_taskq.worker.listeners import shown_result
from tests.worker import samples
from tests.worker.samples import claimed


class Watched(Executor):
    """An executor that notes what it asks of its process."""

    def __init__(self) -> None:
        self.armed: list[float | None] = []
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self.stopping = False
        self.cancelled: set[str] = set()
        super().__init__(
            "worker-1",
            arm=self.armed.append,
            disarm=lambda: self.armed.append(None),
            report=lambda row, progress: self.reports.append((row.id, progress)),
            is_stopping=lambda: self.stopping,
            is_cancelled=lambda id: id in self.cancelled,
        )

    def run(self, row: Claimed) -> Outcome:
        run = self.run_of(row)
        assert run is not None
        return self.execute(row, run, time.monotonic())


@pytest.fixture
def executor() -> Watched:
    return Watched()


def record_of(outcome: Outcome) -> dict[str, Any]:
    assert isinstance(outcome, Failed | Retrying | Cancelled)
    return dict(json.loads(outcome.error))


# --- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0, "", "ü\n", [1, [2.5, None]], {"a": {"b": True}}])
@pytest.mark.parametrize("of", [samples.give, samples.give_async], ids=["def", "async-def"])
def test_a_returned_value_completes_the_task(executor: Watched, of: Any, value: Any) -> None:
    row = claimed(of, value)

    outcome = executor.run(row)

    assert isinstance(outcome, Completed)
    assert (outcome.id, outcome.claim) == (row.id, row.claim)
    assert json.loads(outcome.value or "") == value
    assert outcome.began <= outcome.ended


def test_keyword_arguments_reach_the_function(executor: Watched) -> None:
    outcome = executor.run(claimed(samples.give, kwargs='{"value": 5}'))

    assert isinstance(outcome, Completed)
    assert outcome.value == "5"


def test_a_value_that_is_not_wanted_is_not_even_looked_at(executor: Watched) -> None:
    outcome = executor.run(claimed(samples.keep_nothing, 1))
    assert isinstance(outcome, Completed)
    assert outcome.value is None

    outcome = executor.run(claimed(samples.unstorable, "object", options='{"store_result": false}'))
    assert isinstance(outcome, Completed)
    assert outcome.value is None


@pytest.mark.parametrize(
    "kind", ["object", "set", "nul", "surrogate", "nan", "key", "large", "model"]
)
def test_a_value_that_cannot_be_stored_fails_the_task_for_good(
    executor: Watched, kind: str
) -> None:
    outcome = executor.run(claimed(samples.unstorable, kind, max_attempts=5))

    assert isinstance(outcome, Failed)
    assert record_of(outcome)["exception_class_path"] == class_path(UnstorableResult)
    assert "the return value" in record_of(outcome)["message"]


def test_a_value_that_holds_itself_fails_the_task(executor: Watched) -> None:
    outcome = executor.run(claimed(samples.endless))

    assert isinstance(outcome, Failed)
    assert record_of(outcome)["exception_class_path"] == class_path(UnstorableResult)


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ValueError", "SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_whatever_a_task_raises_is_its_failure_and_not_the_workers(
    executor: Watched, kind: str
) -> None:
    row = claimed(samples.fail, kind, "oh no")

    outcome = executor.run(row)

    assert isinstance(outcome, Failed)
    assert (outcome.id, outcome.claim) == (row.id, row.claim)
    record = record_of(outcome)
    assert record["exception_class_path"] == f"builtins.{kind}"
    assert record["message"] == "oh no"
    assert (record["attempt"], record["worker"]) == (1, "worker-1")


def test_a_traceback_begins_in_the_task_and_not_in_the_worker(executor: Watched) -> None:
    traceback = record_of(executor.run(claimed(samples.fail, "ValueError")))["traceback"]

    assert "samples.py" in traceback
    assert "executor.py" not in traceback


@pytest.mark.parametrize("of", [samples.give, samples.give_async], ids=["def", "async-def"])
def test_arguments_that_the_function_does_not_take_fail_the_task_for_good(
    executor: Watched, of: Any
) -> None:
    outcome = executor.run(claimed(of, 1, 2, 3, max_attempts=5))

    assert isinstance(outcome, Failed)
    assert record_of(outcome)["exception_class_path"] == class_path(SignatureMismatch)
    assert "too many positional arguments" in record_of(outcome)["message"]


def test_a_row_with_options_that_cannot_be_read_fails_and_leaves_the_worker_alone(
    executor: Watched,
) -> None:
    for options in ("[]", '{"timeout": "soon"}', '{"backoff": {}}', "[" * 2000 + "]" * 2000):
        outcome = executor.run(claimed(samples.give, 1, options=options))
        assert isinstance(outcome, Failed)
        assert "options cannot be read" in record_of(outcome)["message"]


def test_an_error_that_cannot_say_what_it_is_is_recorded_all_the_same(executor: Watched) -> None:
    outcome = executor.run(claimed(samples.fail, "Speechless"))

    assert isinstance(outcome, Failed)
    assert record_of(outcome)["exception_class_path"].endswith("samples.Speechless")
    assert "RuntimeError" in record_of(outcome)["message"]


@pytest.mark.parametrize(
    "message", ["a\x00b", "\ud800", "x" * 100_000], ids=["nul", "half", "long"]
)
def test_a_message_that_postgresql_cannot_store_is_made_fit(
    executor: Watched, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Django logs the error as it is, and pytest-xdist cannot carry a lone surrogate home.
    caplog.set_level(logging.CRITICAL + 1, logger=LOGGER_NAME)
    outcome = executor.run(claimed(samples.fail, "ValueError", message))

    assert isinstance(outcome, Failed)
    assert "\\u0000" not in outcome.error
    assert "\x00" not in outcome.error
    outcome.error.encode()
    assert len(outcome.error) < 50_000


# --- retries ----------------------------------------------------------------------------------


@pytest.mark.parametrize("attempt, delay", [(1, 1.0), (2, 20.0), (3, None)])
def test_a_failed_attempt_is_repeated_until_none_is_left(
    executor: Watched, attempt: int, delay: float | None
) -> None:
    outcome = executor.run(claimed(samples.fail_thrice, "ValueError", attempts=attempt))

    if delay is None:
        assert isinstance(outcome, Failed)
    else:
        assert isinstance(outcome, Retrying)
        assert outcome.delay == delay
    assert record_of(outcome)["attempt"] == attempt


def test_the_rows_own_number_of_attempts_counts(executor: Watched) -> None:
    outcome = executor.run(claimed(samples.fail_thrice, "ValueError", max_attempts=1))
    assert isinstance(outcome, Failed)

    outcome = executor.run(claimed(samples.fail, "ValueError", max_attempts=2))
    assert isinstance(outcome, Retrying)


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt"])
def test_what_is_no_exception_is_not_repeated_unless_asked_for(
    executor: Watched, kind: str
) -> None:
    assert isinstance(executor.run(claimed(samples.fail_thrice, kind)), Failed)


@pytest.mark.parametrize(
    "kind, outcome", [("OSError", Retrying), ("FileNotFoundError", Failed), ("ValueError", Failed)]
)
def test_a_task_chooses_which_errors_are_worth_another_attempt(
    executor: Watched, kind: str, outcome: type
) -> None:
    assert isinstance(executor.run(claimed(samples.fail_choosy, kind)), outcome)


def test_exponential_backoff_waits_at_most_twice_as_long_each_time(executor: Watched) -> None:
    for attempt, longest in [(1, 10), (2, 20), (3, 40), (8, 100)]:
        for _ in range(20):
            outcome = executor.run(claimed(samples.fail_exponentially, attempts=attempt))
            assert isinstance(outcome, Retrying)
            assert 0 <= outcome.delay <= longest


def test_a_function_can_say_how_long_to_wait(executor: Watched) -> None:
    outcome = executor.run(claimed(samples.fail_by_hand, "12345", attempts=2))

    assert isinstance(outcome, Retrying)
    assert outcome.delay == 205.0


def test_a_function_can_say_that_there_is_no_point_in_waiting(executor: Watched) -> None:
    assert isinstance(executor.run(claimed(samples.fail_by_hand, "hopeless")), Failed)


def test_a_backoff_that_raises_ends_the_task_and_both_errors_are_recorded(
    executor: Watched,
) -> None:
    outcome = executor.run(claimed(samples.fail_with_a_broken_backoff))

    assert isinstance(outcome, Failed)
    record = record_of(outcome)
    assert record["exception_class_path"] == "builtins.ZeroDivisionError"
    assert "backoff is broken" in record["traceback"]
    assert "the task is broken" in record["traceback"]


def test_the_backoff_of_the_row_replaces_that_of_the_task(executor: Watched) -> None:
    options = json.dumps({"backoff": [3, 4]})

    outcome = executor.run(claimed(samples.fail_choosy, "OSError", attempts=5, options=options))

    assert isinstance(outcome, Retrying)
    assert outcome.delay == 4.0


# --- what a task asks for ---------------------------------------------------------------------


@pytest.mark.parametrize("delay, waits", [(None, 5.0), (0, 0.0), (77, 77.0)])
def test_a_task_may_ask_for_another_attempt_whatever_it_retries_on(
    executor: Watched, delay: float | None, waits: float
) -> None:
    outcome = executor.run(claimed(samples.ask_for_retry, delay))

    assert isinstance(outcome, Retrying)
    assert outcome.delay == waits


def test_asking_for_another_attempt_does_not_make_more_of_them(executor: Watched) -> None:
    outcome = executor.run(claimed(samples.ask_for_retry, 1, "once more", attempts=2))

    assert isinstance(outcome, Failed)
    assert record_of(outcome)["message"] == "once more"


def test_a_task_may_ask_to_be_run_later(executor: Watched) -> None:
    row = claimed(samples.ask_for_snooze, 2)

    assert executor.run(row) == Snoozed(row.id, row.claim, 120.0)


@pytest.mark.parametrize(
    "reason, message", [("sold out", "sold out"), ("", "The task cancelled itself.")]
)
def test_a_task_may_cancel_itself_with_a_reason(
    executor: Watched, reason: str, message: str
) -> None:
    outcome = executor.run(claimed(samples.ask_for_cancel, reason))

    assert isinstance(outcome, Cancelled)
    assert record_of(outcome)["exception_class_path"] == class_path(TaskCancelled)
    assert record_of(outcome)["message"] == message


def test_an_unknown_name_is_parked_under_that_name(executor: Watched) -> None:
    row = claimed("shop.tasks.not_here")

    assert executor.run_of(row) is None
    assert decision.park_unknown(row).held_for == "unknown:shop.tasks.not_here"


def test_a_task_that_came_too_late_says_so(executor: Watched) -> None:
    record = json.loads(decision.expire(claimed(samples.give), "worker-1").error)

    assert record["exception_class_path"] == class_path(TaskExpired)
    assert record["attempt"] == 0


def test_a_task_that_was_to_end_is_not_started_again_and_says_so(executor: Watched) -> None:
    row = claimed(samples.give, attempts=2, is_cancelled=True)

    record = json.loads(decision.cancel_unstarted(row, "worker-1").error)

    assert record["exception_class_path"] == class_path(TaskCancelled)
    assert record["message"] == "Cancelled before it was started again."
    assert record["attempt"] == 1


# --- limits, context, isolation ---------------------------------------------------------------


@pytest.mark.parametrize("of", [samples.limited, samples.limited_and_failing])
def test_the_soft_limit_is_armed_for_the_task_alone(executor: Watched, of: Any) -> None:
    executor.run(claimed(of))

    assert executor.armed == [5.0, None]


def test_the_soft_limit_of_the_row_replaces_that_of_the_task(executor: Watched) -> None:
    executor.run(claimed(samples.limited, options='{"soft_timeout": 2.5}'))
    executor.run(claimed(samples.limited, options='{"soft_timeout": null}'))

    assert executor.armed == [2.5, None]


def test_a_task_is_told_about_itself(executor: Watched) -> None:
    executor.stopping = True
    earlier = json.dumps(
        [{"exception_class_path": "builtins.ValueError", "traceback": "", "message": "first"}]
    )
    row = claimed(samples.tell, "a", attempts=2, errors=earlier)

    outcome = executor.run(row)

    assert isinstance(outcome, Completed)
    assert json.loads(outcome.value or "") == {
        "attempt": 2,
        "max_attempts": 4,
        "is_stopping": True,
        "id": row.id,
        "args": ["a"],
        "errors": ["first"],
    }
    assert executor.reports == [(row.id, {"done": 1, "total": 2, "message": "half"})]


@pytest.mark.parametrize("of", [samples.leave_traces, samples.leave_traces_async])
def test_what_one_task_sets_the_next_does_not_see(executor: Watched, of: Any) -> None:
    def seen() -> Any:
        outcome = executor.run(claimed(samples.see_traces))
        assert isinstance(outcome, Completed)
        return json.loads(outcome.value or "")

    before = seen()
    outcome = executor.run(claimed(of))

    assert isinstance(outcome, Completed), record_of(outcome)
    assert seen() == before
    assert samples.MARK.get() == "untouched"


# --- signals ----------------------------------------------------------------------------------


@pytest.fixture
def heard() -> Iterator[list[tuple[str, Any]]]:
    """Listen to Django's signals; what is heard is copied, for results change."""
    seen: list[tuple[str, Any]] = []

    def started(sender: Any, task_result: Any, **kwargs: Any) -> None:
        seen.append(("started", task_result))

    def finished(sender: Any, task_result: Any, **kwargs: Any) -> None:
        seen.append(("finished", task_result))

    task_started.connect(started)
    task_finished.connect(finished)
    yield seen
    task_started.disconnect(started)
    task_finished.disconnect(finished)


def test_who_listens_hears_of_start_and_end(heard: list[tuple[str, Any]]) -> None:
    row = claimed(samples.give, 42)

    Watched().run(row)

    assert [name for name, _ in heard] == ["started", "finished"]
    start, end = heard[0][1], heard[1][1]
    assert start.id == end.id == row.id
    assert start.status == TaskResultStatus.RUNNING
    assert end.status == TaskResultStatus.SUCCESSFUL
    assert end.return_value == 42
    assert end.finished_at is not None


@pytest.mark.parametrize("of", [samples.give, samples.fail], ids=["completed", "failed"])
def test_the_sender_is_the_class_of_the_backend_as_with_djangos_own(
    of: Any,
) -> None:
    senders: list[Any] = []

    def note(sender: Any, **kwargs: Any) -> None:
        senders.append(sender)

    for signal in (task_started, task_finished):
        signal.connect(note, sender=TaskqBackend)
    try:
        Watched().run(claimed(of, "ValueError"))
    finally:
        for signal in (task_started, task_finished):
            signal.disconnect(note, sender=TaskqBackend)

    assert senders == [TaskqBackend] * 2


@pytest.mark.parametrize(
    "row, error",
    [
        (claimed(samples.fail, "ValueError", "no"), "builtins.ValueError"),
        (claimed(samples.ask_for_cancel), class_path(TaskCancelled)),
    ],
    ids=["failed", "cancelled"],
)
def test_who_listens_hears_of_a_bad_end_with_its_error(
    heard: list[tuple[str, Any]], row: Claimed, error: str
) -> None:
    Watched().run(row)

    assert [name for name, _ in heard] == ["started", "finished"]
    assert heard[1][1].status == TaskResultStatus.FAILED
    assert heard[1][1].row_status == TaskStatus.FAILED
    assert [record.exception_class_path for record in heard[1][1].errors] == [error]


@pytest.mark.parametrize(
    "row", [claimed(samples.fail_thrice, "ValueError"), claimed(samples.ask_for_snooze, 1)]
)
def test_a_task_that_will_run_again_has_not_finished(
    heard: list[tuple[str, Any]], row: Claimed
) -> None:
    Watched().run(row)

    assert [name for name, _ in heard] == ["started"]


def test_a_listener_that_raises_does_not_change_the_outcome(
    heard: list[tuple[str, Any]],
) -> None:
    def broken(**kwargs: Any) -> None:
        raise ValueError("a broken listener")

    task_started.connect(broken)
    task_finished.connect(broken)
    try:
        outcome = Watched().run(claimed(samples.give, 1))
    finally:
        task_started.disconnect(broken)
        task_finished.disconnect(broken)

    assert isinstance(outcome, Completed)
    assert outcome.value == "1"


def test_a_task_of_which_nobody_can_be_told_is_named_in_a_record_with_its_fields(
    heard: list[tuple[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    row = claimed(samples.fail, "ValueError", run_after="10000-01-01")

    Watched().run(row)

    told = [vars(record) for record in caplog.records if "could not be told" in record.message]
    assert ["starts" in record["message"] for record in told] == [True, False]
    for record in told:
        assert (record["task_id"], record["task_name"]) == (row.id, row.task)
        assert record["worker_id"] == "worker-1"


def test_when_nobody_listens_no_result_is_built(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Any] = []

    def build(*args: Any) -> Any:
        built.append(args)
        return shown_result(*args)

    monkeypatch.setattr(listeners, "shown_result", build)

    with caplog.at_level(logging.CRITICAL + 1, logger=LOGGER_NAME):
        executor = Watched()
        executor.run(claimed(samples.give))
        executor.run(claimed(samples.fail, "ValueError"))
    assert built == []

    with caplog.at_level(logging.INFO, logger=LOGGER_NAME):
        Watched().run(claimed(samples.give))
    assert len(built) == 2


def test_djangos_own_log_lines_are_written_where_its_logger_is_enabled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    row = claimed(samples.give)
    with caplog.at_level(logging.INFO, logger=LOGGER_NAME):
        Watched().run(row)

    assert [row.id in record.getMessage() for record in caplog.records] == [True, True]


# --- asked to end ---------------------------------------------------------------------------------


def test_a_task_that_is_asked_to_end_may_end_normally(executor: Watched) -> None:
    row = claimed(samples.give, 1)
    executor.cancelled.add(row.id)

    assert isinstance(executor.run(row), Completed)


def test_a_task_that_is_asked_to_end_and_fails_for_good_has_failed(executor: Watched) -> None:
    row = claimed(samples.fail, "ValueError", "oh no")
    executor.cancelled.add(row.id)

    assert isinstance(executor.run(row), Failed)


@pytest.mark.parametrize("of", ["fail_thrice", "ask_for_snooze", "ask_for_retry"])
def test_a_task_that_is_asked_to_end_is_not_run_again(executor: Watched, of: str) -> None:
    arguments = {"fail_thrice": ["ValueError", "secret"], "ask_for_snooze": [5]}.get(of, [])
    row = claimed(getattr(samples, of), *arguments)
    executor.cancelled.add(row.id)

    outcome = executor.run(row)

    assert isinstance(outcome, Cancelled)
    record = record_of(outcome)
    assert record["exception_class_path"] == class_path(TaskCancelled)
    assert record["message"].startswith("Cancelled on request while it ran.")
    assert "secret" not in record["message"]


def test_a_task_that_was_asked_to_end_before_its_turn_is_not_started(executor: Watched) -> None:
    row = claimed(samples.give, 1)
    run = executor.run_of(row)
    assert executor.outcome_without_run(row, run) is None

    executor.cancelled.add(row.id)

    assert isinstance(executor.outcome_without_run(row, run), CancelledUnstarted)


def test_a_context_tells_when_the_task_is_asked_to_end(executor: Watched) -> None:
    row = claimed(samples.tell_cancelled)
    executor.cancelled.add(row.id)

    outcome = executor.run(row)

    assert isinstance(outcome, Completed)
    assert outcome.value == "true"


# --- at most once ---------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["Retry", "Snooze", "ValueError"])
def test_a_task_that_is_started_at_most_once_cannot_ask_for_more(
    executor: Watched, what: str
) -> None:
    outcome = executor.run(claimed(samples.try_once, what, max_attempts=5))

    assert isinstance(outcome, Failed)
    record = record_of(outcome)
    if what == "ValueError":
        assert record["exception_class_path"] == "builtins.ValueError"
    else:
        assert record["exception_class_path"] == class_path(TaskFailed)
        assert f"raised {what}, but it has at_most_once=True" in record["message"]
        assert "try_once" in record["traceback"]
