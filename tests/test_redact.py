"""Secret arguments are stored for the task, and shown nowhere."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.test import Client, override_settings
from django.urls import reverse

from django_taskq import redact, task
from django_taskq.outcomes import Cancelled, Completed, Failed, Outcome, Retrying
from django_taskq.redact import MASK, hider_of, shown_call
from django_taskq.statuses import TaskStatus
from django_taskq.task import rebuilt
from django_taskq.tasks_api import LOGGER_NAME, InvalidTask
from tests import tasks
from tests.rows import make_error, make_row
from tests.worker import samples
from tests.worker.samples import claimed
from tests.worker.test_executor import Watched

CANARIES = [
    "c4nary-s3cret",
    'it\'s a "c4nary" \\ with\ttabs',
    "c4nary +/&=%?ü",
    "c4nary\nin two lines c4nary",
    "c4n",
    83461957,
    4711,
    12.5,
]

every_canary = pytest.mark.parametrize("canary", CANARIES, ids=repr)


def using(rules: Any) -> Any:
    return override_settings(DJANGO_TASKQ={"REDACT": rules})


def forms(canary: Any) -> set[str]:
    """Return what would give the secret away: it, and what of it stands without special signs."""
    text = str(canary)
    words = {word for word in re.findall(r"[\w-]+", text) if "c4n" in word}
    return words or {text}


def assert_hidden(canary: Any, text: str) -> None:
    for form in forms(canary):
        assert form not in text, text


def run(canary: Any, how: str, **changes: Any) -> tuple[Watched, Outcome]:
    executor = Watched()
    kwargs = json.dumps({"how": how, **changes.pop("kwargs", {})})
    return executor, executor.run(claimed(tasks.pay, canary, kwargs=kwargs, **changes))


SPILLS = ["message", "key", "cause", "context", "note", "group", "cancel", "retry", "options"]
TEXT_SPILLS = ["quoted", "url", "long", "unstorable"]
every_spill = pytest.mark.parametrize(
    ("canary", "how"),
    [(canary, how) for canary in CANARIES for how in SPILLS]
    + [(canary, how) for canary in CANARIES if isinstance(canary, str) for how in TEXT_SPILLS],
)


@every_spill
@pytest.mark.parametrize("attempt", [1, 2])
def test_a_secret_that_an_error_spills_is_masked_in_its_record_and_in_every_log_line(
    canary: Any, how: str, attempt: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger=LOGGER_NAME)
    changes: dict[str, Any] = {"attempts": attempt}
    if how == "options":
        changes["kwargs"] = {"options": [{"PIN": canary}, {"a": {"card_x": [canary]}}]}

    executor, outcome = run(canary, how, **changes)

    assert isinstance(outcome, Failed | Retrying | Cancelled)
    assert_hidden(canary, outcome.error)
    if how not in ("group", "unstorable", "long"):
        assert MASK in outcome.error
    assert [progress["message"] for _, progress in executor.reports] == [f"<{MASK}>"]
    if isinstance(outcome, Failed | Cancelled):
        assert caplog.records  # Django's own, with the error that is being handled
    assert_hidden(canary, caplog.text)
    for record in caplog.records:
        assert_hidden(canary, repr(record.exc_info))
        assert record.exc_info is None or record.exc_info[1] is not None
        if record.exc_info:
            error = record.exc_info[1]
            assert error is not None and error.__cause__ is None and error.__context__ is None


@every_canary
def test_a_secret_that_is_spilled_on_an_event_loop_is_masked_too(
    canary: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger=LOGGER_NAME)
    executor, row = Watched(), claimed(tasks.pay_async, canary)
    run = executor.run_of(row)
    assert run is not None

    outcome = asyncio.run(executor.execute_async(row, run, 0.0))

    assert isinstance(outcome, Failed)
    assert MASK in outcome.error
    assert MASK in caplog.text
    assert_hidden(canary, outcome.error)
    assert_hidden(canary, caplog.text)


def test_an_error_of_a_task_without_secrets_is_logged_as_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger=LOGGER_NAME)

    outcome = Watched().run(claimed(samples.fail, "ValueError", "plain"))

    assert isinstance(outcome, Failed)
    logged = [record.exc_info[0] for record in caplog.records if record.exc_info]
    assert logged == [ValueError]


def test_what_is_no_secret_stays_readable() -> None:
    _, outcome = run("c4nary", "options", kwargs={"options": {"user": "ada"}, "extra": "shown"})

    assert isinstance(outcome, Retrying)
    record = json.loads(outcome.error)
    assert "ada" in record["message"] and "shown" in record["message"]
    assert "tests/tasks.py" in record["traceback"]


def test_short_secrets_are_masked_as_words_only() -> None:
    hide = hider_of(tasks.pay, ["ab", 12], {"pin": 7})
    assert hide is not None
    assert hide("ab cab 7 17 7.") == f"{MASK} cab {MASK} 17 {MASK}."


def test_a_secret_of_very_many_parts_hides_the_whole_text() -> None:
    hide = hider_of(tasks.pay, [list(range(10_000))], {})
    assert hide is not None
    assert hide("anything") == MASK


@pytest.mark.parametrize("args, kwargs", [("[", "{}"), ("[" * 100_000, "{}")])
def test_in_doubt_everything_is_masked(args: str, kwargs: str) -> None:
    hide = redact.hider(tasks.pay, args, kwargs)
    assert hide is not None
    assert hide("anything") == MASK


# --- which arguments are secret ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "shown"),
    [
        (["c4nary", 5], {}, ([MASK, 5], {})),
        ([], {"pin": "c4nary", "amount": 5}, ([], {"pin": MASK, "amount": 5})),
        ([1, 2, "a note", "c4nary"], {}, ([MASK, 2, MASK, MASK], {})),
        ([1], {"options": {"Pin": 1, "x": [{"card_no": 2}]}}, None),
        ([1], {"card_holder": "c4nary", "how": "x"}, ([MASK], {"card_holder": MASK, "how": "x"})),
        ([1], {"api_token": "c4nary"}, ([MASK], {"api_token": MASK})),
        ("c4nary", {}, (MASK, MASK)),
        ([], ["c4nary"], (MASK, MASK)),
    ],
)
def test_arguments_are_found_by_the_functions_signature(args: Any, kwargs: Any, shown: Any) -> None:
    if shown is None:
        shown = ([MASK], {"options": {"Pin": MASK, "x": [{"card_no": MASK}]}})
    assert shown_call(tasks.pay, args, kwargs) == shown


def test_an_argument_too_many_is_hidden() -> None:
    assert shown_call(tasks.add, [1, 2, "c4nary"], {}) == ([1, 2, MASK], {})


def test_all_arguments_of_a_task_that_is_not_known_are_hidden() -> None:
    assert shown_call(None, ["c4nary"], {"a": "c4nary"}) == (MASK, MASK)


def two(pin: str, user: str) -> None: ...


@pytest.mark.parametrize(
    ("rules", "secret"),
    [
        (None, {"password", "api_key", "secret", "AuthToken"}),
        ([], set()),
        (["user"], {"user"}),
        ([re.compile("^us")], {"user"}),
    ],
)
def test_the_projects_rules_hold_for_all_tasks(rules: Any, secret: set[str]) -> None:
    names = ["password", "api_key", "secret", "AuthToken", "user", "amount"]
    with using(rules):
        _, shown = shown_call(tasks.echo, [], dict.fromkeys(names, "c4nary"))

    assert {name for name, value in shown.items() if value == MASK} == secret


# --- where arguments are shown ----------------------------------------------------------------


@pytest.mark.django_db
@every_canary
def test_the_repr_of_a_result_hides_secrets_and_the_row_holds_them(canary: Any) -> None:
    result = tasks.pay.enqueue(canary, 5)

    assert_hidden(canary, repr(result))
    assert_hidden(canary, repr(tasks.pay.enqueue_many([(canary,)])[0]))
    assert MASK in repr(result) and result.id in repr(result)
    assert tasks.pay.get_result(result.id).args == [canary, 5]


def test_a_secret_that_says_nothing_in_a_text_is_masked_where_arguments_are_shown() -> None:
    assert shown_call(tasks.pay, [None], {"api_key": True}) == ([MASK], {"api_key": MASK})
    assert hider_of(tasks.pay, [None], {"api_key": True}) is None


def test_a_result_of_an_unknown_task_hides_all() -> None:
    from django_taskq.task import missing

    assert shown_call(missing("shop.gone"), ["c4nary"], {}) == (MASK, MASK)


@pytest.mark.django_db
@pytest.mark.parametrize("canary", [c for c in CANARIES if len(str(c)) > 4], ids=repr)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("status", [TaskStatus.READY, TaskStatus.SUCCESSFUL, TaskStatus.FAILED])
def test_no_admin_page_shows_a_secret(
    admin_client: Client, canary: Any, status: TaskStatus, known: bool
) -> None:
    name = "tests.tasks.pay" if known else "tests.tasks.gone"
    columns: dict[str, Any] = {
        "progress": {"done": 1, "total": 2, "message": f"<{canary}>"},
        # Written before the argument was declared secret.
        "errors": [make_error("builtins.ValueError", f"<{canary}>")],
    }
    if status == TaskStatus.SUCCESSFUL:
        columns["return_value"] = {"said": f"<{canary}>", "again": canary}
    row = make_row(status, task=name, args=[canary], kwargs={"card_no": canary}, **columns)
    for view, at in (("changelist", []), ("change", [row.pk])):
        page = admin_client.get(
            reverse(f"admin:django_taskq_{row._meta.model_name}_{view}", args=at)
        )
        assert page.status_code == 200
        main = page.text[page.text.index('id="content"') :]
        assert_hidden(canary, main)
        assert view == "changelist" or main.count(MASK) >= 2


@pytest.mark.django_db
@pytest.mark.parametrize("canary", [c for c in CANARIES if len(str(c)) > 4], ids=repr)
@pytest.mark.parametrize("known", [True, False])
def test_taskqueue_shows_no_secret(
    canary: Any, known: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    row = make_row(
        TaskStatus.SUCCESSFUL,
        task="tests.tasks.pay" if known else "tests.tasks.gone",
        args=[canary],
        kwargs={"card_no": canary},
        progress={"done": 1, "total": 2, "message": f"<{canary}>"},
        errors=[make_error("builtins.ValueError", f"<{canary}>")],
        return_value={"said": f"<{canary}>", "again": [canary, True, None]},
    )
    for options in ([], ["--json"]):
        call_command("taskqueue", "show", str(row.pk), *options)
        said = capsys.readouterr().out
        assert_hidden(canary, said)
        assert MASK in said
        assert "ValueError" in said


# --- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", ["pin", [5], [re.compile(b"x")], [""], 5])
def test_a_bad_rule_is_refused(rules: Any) -> None:
    with pytest.raises(InvalidTask, match="redact takes a list of argument names and compiled"):
        task(name="two", redact=rules)(two)
    if rules != [""]:
        with using(rules), pytest.raises(ImproperlyConfigured, match="takes a list of names and"):
            redact.project_rules()


def test_using_cannot_change_what_is_secret() -> None:
    with pytest.raises(TypeError, match="cannot change redact: it is code"):
        tasks.pay.using(redact=["x"])  # type: ignore[arg-type]


def test_a_call_that_enqueue_many_refuses_is_not_shown() -> None:
    with pytest.raises(TypeError) as refused:
        tasks.pay.enqueue_many(["c4nary"])  # type: ignore[list-item]
    assert_hidden("c4nary", str(refused.value))


def test_a_task_without_the_option_has_no_rules_of_its_own() -> None:
    assert tasks.add.redact == ()
    assert rebuilt(None).redact == ()
    assert isinstance(Watched().run(claimed(tasks.add, 1, 2)), Completed)
