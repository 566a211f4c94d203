"""What a task carries along from where it is enqueued to where it runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings
from django.utils import translation

from django_taskq import CarrierError, carried, get_result
from django_taskq.models import LiveTask
from django_taskq.outcomes import Completed, Failed, Outcome, Retrying
from tests import carriers, tasks
from tests.rows import live
from tests.worker import samples
from tests.worker.samples import claimed
from tests.worker.test_executor import Watched

LANGUAGE = "django_taskq.carried.Language"


def using(*paths: str) -> Any:
    return override_settings(DJANGO_TASKQ={"CONTEXT": list(paths)})


def run(of: Any, *args: Any, headers: Any, **changes: Any) -> Outcome:
    return Watched().run(claimed(of, *args, headers=json.dumps(headers), **changes))


def value_of(outcome: Outcome) -> Any:
    assert isinstance(outcome, Completed), outcome
    return json.loads(outcome.value or "")


def error_of(outcome: Outcome) -> dict[str, Any]:
    assert isinstance(outcome, Failed | Retrying), outcome
    return dict(json.loads(outcome.error))


@pytest.fixture
def tenant() -> Iterator[None]:
    """Register a carrier, and let its context hold something."""
    carriers.calls.clear()
    token = carriers.TENANT.set("acme")
    with using("tests.carriers.Tenant"):
        yield
    carriers.TENANT.reset(token)


# --- capture ----------------------------------------------------------------------------------


@pytest.mark.django_db
def test_an_ordinary_task_carries_nothing() -> None:
    result = tasks.add.enqueue(1, 2)

    assert live(result).headers is None
    assert result.headers == {}
    assert get_result(result.id).headers == {}


@pytest.mark.django_db
@pytest.mark.parametrize("language, headers", [("de", {"language": "de"}), (None, {})])
def test_another_language_than_the_projects_is_carried_along(
    language: str | None, headers: dict[str, str]
) -> None:
    with translation.override(language):
        result = tasks.add.enqueue(1, 2)

    assert (live(result).headers or {}) == headers
    assert result.headers == headers
    assert get_result(result.id).headers == headers


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["tests.carriers.Tenant", "tests.carriers.tenant"])
def test_what_a_project_adds_is_carried_along(path: str) -> None:
    token = carriers.TENANT.set({"schema": "größe"})
    try:
        with using(path, LANGUAGE), translation.override("de"):
            result = tasks.add.enqueue(1, 2)
    finally:
        carriers.TENANT.reset(token)

    assert live(result).headers == {"tenant": {"schema": "größe"}, "language": "de"}


@pytest.mark.django_db
def test_many_tasks_carry_what_was_captured_once(tenant: None) -> None:
    results = tasks.add.enqueue_many([(1, 2), (3, 4)])

    assert carriers.calls == ["capture"]
    assert [result.headers for result in results] == [{"tenant": "acme"}] * 2
    assert [row.headers for row in LiveTask.objects.all()] == [{"tenant": "acme"}] * 2


@pytest.mark.django_db
@pytest.mark.parametrize("many", [False, True], ids=["enqueue", "enqueue_many"])
def test_a_carrier_that_fails_refuses_the_call_and_is_named(many: bool) -> None:
    with (
        using("tests.carriers.Broken"),
        pytest.raises(CarrierError, match=r'"broken" \(tests.carriers.Broken\).*LookupError') as e,
    ):
        if many:
            tasks.add.enqueue_many([(1, 2)])
        else:
            tasks.add.enqueue(1, 2)

    assert isinstance(e.value.__cause__, LookupError)
    assert not LiveTask.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "path, words",
    [
        ("tests.carriers.Unstorable", r'carrier "unstorable": its value is a .*Pass its pk'),
        ("tests.carriers.Large", "captured 100,012 bytes of JSON, the limit is 65,536"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_the_way_out(path: str, words: str) -> None:
    with using(path), pytest.raises(CarrierError, match=words):
        tasks.add.enqueue(1, 2)


# --- restore ----------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [samples.see_traces, samples.see_traces_async])
def test_a_task_runs_in_the_language_in_which_it_was_enqueued(of: Any) -> None:
    assert value_of(run(of, headers={"language": "de"}))[1] == "de"
    assert value_of(Watched().run(claimed(of)))[1] == "en-us"


def test_what_is_restored_lasts_as_long_as_the_task(tenant: None) -> None:
    assert value_of(run(samples.give, 1, headers={"tenant": "acme"})) == 1
    assert isinstance(run(samples.fail, "ValueError", headers={"tenant": "acme"}), Failed)

    assert carriers.calls == ["restore", "reset"] * 2


@pytest.mark.django_db
def test_what_a_task_enqueues_carries_it_on() -> None:
    with using("tests.carriers.Tenant"):
        inner = value_of(run(samples.enqueue_another, headers={"tenant": "acme"}))

    assert live(inner).headers == {"tenant": "acme"}


def test_the_context_shows_what_is_carried() -> None:
    outcome = run(samples.see_headers, headers={"language": "de"})

    assert value_of(outcome) == {"language": "de"}


@pytest.mark.parametrize("of, kind", [(samples.give, Failed), (samples.fail_thrice, Retrying)])
def test_a_carrier_that_cannot_restore_fails_the_attempt(of: Any, kind: type) -> None:
    with using("tests.carriers.Broken"):
        outcome = run(of, "ValueError", headers={"broken": "tenant"})

    assert isinstance(outcome, kind)
    assert error_of(outcome)["message"] == "there is no tenant any more"


def test_the_traceback_begins_in_the_task() -> None:
    trace = error_of(run(samples.fail, "ValueError", headers={"language": "de"}))["traceback"]

    assert "samples.py" in trace.splitlines()[1]


def test_a_name_that_no_carrier_has_is_ignored_and_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carried, "_unknown", set())
    caplog.set_level(logging.DEBUG, logger="django_taskq")

    for _ in range(2):
        assert value_of(run(samples.give, 1, headers={"tenant": "s3cret\n"})) == 1

    ours = [record for record in caplog.records if record.name.startswith("django_taskq")]
    [line] = [record.getMessage() for record in ours]
    assert '"tenant"' in line
    assert "s3cret" not in line


@pytest.mark.parametrize("headers", [5, [], "x", None])
def test_headers_that_are_no_object_carry_nothing(headers: Any) -> None:
    assert value_of(run(samples.give, 1, headers=headers)) == 1


# --- the setting ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "paths, words",
    [
        ("tests.carriers.Tenant", "it takes a list of dotted paths"),
        ([5], "it takes a list of dotted paths"),
        (["tests.carriers.Nothing"], "'tests.carriers.Nothing' cannot be loaded"),
        (["nowhere"], "'nowhere' cannot be loaded"),
        (["tests.carriers.NeedsArguments"], "cannot be loaded .*without arguments"),
        (["tests.carriers.Nameless"], "the name of .* is ''"),
        (["tests.carriers.WithoutRestore"], r"has no method restore\(\)"),
        (["tests.carriers.Tenant", "tests.carriers.tenant"], "two carriers named 'tenant'"),
    ],
)
def test_a_mistake_in_the_setting_is_named_by_the_check(paths: Any, words: str) -> None:
    with override_settings(DJANGO_TASKQ={"CONTEXT": paths}):
        with pytest.raises(ImproperlyConfigured, match=words):
            carried.carriers()
        with pytest.raises(SystemCheckError, match=rf"(?s)django_taskq.E002.*{words}"):
            call_command("check")
