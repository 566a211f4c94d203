"""Rows that no enqueue() makes: whoever may INSERT can store anything, and workers go on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.urls import reverse
from hypothesis import given, settings
from hypothesis import strategies as st

from django_taskq import TaskStatus, control
from django_taskq.models import FinishedTask, LiveTask
from django_taskq.outcomes import Completed, Failed, Outcome, Parked, Retrying
from django_taskq.results import AttemptError
from django_taskq.serialization import error_record
from django_taskq.transitions.claim import Claimed
from django_taskq.worker.console import TaskLines
from django_taskq.worker.lanes import Lanes, Look, QueueChoice
from django_taskq.worker.options import WorkerOptions
from tests.processes import tasks as process_tasks
from tests.processes.conftest import Starter, database, database_url, start, use_database
from tests.processes.support import sql, wait_until
from tests.rows import make_row
from tests.worker import samples
from tests.worker.samples import claimed
from tests.worker.test_executor import Watched

__all__ = ["database", "database_url", "start", "use_database"]

DEEP = "[" * 3000 + "]" * 3000
LONG = "1" + "0" * 5000

NAMES = [
    "os.system",
    "builtins.eval",
    "builtins.exec",
    "subprocess.check_output",
    "evil_module.run",
    "django_taskq.worker.fork.Nursery",
    "tests.processes.tasks",
    "tests.processes.tasks.time.sleep",
    "tests.processes.tasks.write",
    "tests.processes.tasks.аdd",  # a Cyrillic а
    "tests.processes.tasks.add ",
    "TESTS.PROCESSES.TASKS.ADD",
    "../../etc/passwd",
    "{0.__class__}",
    "%s%s%s",
    "$(touch evil)",
    "'; DROP TABLE django_taskq_livetask; --",
    "\\x00\x1b[2J\u202e\n[CRITICAL] forged",
    "",
    ".",
    "x" * 10_000,
    "".join(chr(0x4E00 + n * 7 % 20_000) for n in range(10_000)),
]

OPTIONS = [
    "[]",
    '"text"',
    "5",
    "null",
    DEEP,
    f'{{"timeout": {LONG}}}',
    '{"timeout": "soon"}',
    '{"timeout": -1}',
    '{"timeout": true}',
    '{"soft_timeout": []}',
    '{"soft_timeout": 1e300}',
    '{"backoff": {}}',
    '{"backoff": {"base": "x", "cap": null}}',
    '{"backoff": {"base": -1, "cap": -1}}',
    '{"backoff": ["x"]}',
    '{"backoff": "os.system"}',
]
CALLS = [
    ("{}", "{}"),
    ('"text"', "{}"),
    ("5", "{}"),
    ("null", "[]"),
    ("[]", "[]"),
    ("[]", "5"),
    ("[]", '{"": 1}'),
    ("[]", '{"self": 1, "func": 2, "args": 3}'),
    (DEEP, "{}"),
    (f"[{LONG}]", "{}"),
    ("[1e400]", "{}"),
    ('["\\ud800"]', "{}"),
]
HEADERS = ["[]", '"text"', "5", DEEP, '{"language": 5}', '{"language": ["x"]}', '{"x": {"y": 1}}']


def outcome_of(row: Claimed) -> Outcome | None:
    """Do with a row what every pool does."""
    executor = Watched()
    executor._started_heard = executor._success_heard = executor._failure_heard = True
    run = executor.run_of(row)
    began = time.monotonic()
    assert run is None or not run.timeout or began + run.timeout
    outcome = executor.outcome_without_run(row, run)
    if outcome is None:
        assert run is not None
        outcome = executor.execute(row, run, began)
    TaskLines(WorkerOptions(database="default"), "w").write([outcome], {row.id: row})
    return outcome


@pytest.mark.parametrize("options", OPTIONS, ids=lambda text: text[:30])
def test_options_that_make_no_sense_end_the_task_and_no_process(options: str) -> None:
    outcome = outcome_of(claimed(samples.give, 1, options=options))

    assert isinstance(outcome, Failed)
    record = json.loads(outcome.error)
    assert "options cannot be read" in record["message"] and len(record["message"]) <= 2048


def test_good_options_by_sql_are_obeyed() -> None:
    text = '{"timeout": 60, "soft_timeout": null, "store_result": false, "backoff": [1, 2], "x": 1}'
    run = Watched().run_of(claimed(samples.give, options=text))

    assert run is not None and not run.problem
    assert (run.timeout, run.soft_timeout, run.store_result, run.backoff) == (
        60,
        None,
        False,
        (1, 2),
    )


@pytest.mark.parametrize(("args", "kwargs"), CALLS, ids=lambda text: text[:20])
@pytest.mark.parametrize("of", [samples.give, samples.tell, samples.fail], ids=lambda t: t.name)
def test_arguments_that_are_no_call_end_the_task_and_no_process(
    of: Any, args: str, kwargs: str
) -> None:
    outcome = outcome_of(claimed(of, args=args, kwargs=kwargs))

    assert isinstance(outcome, Failed | Completed | Retrying)


@pytest.mark.parametrize("headers", HEADERS, ids=lambda text: text[:20])
@pytest.mark.parametrize("of", [samples.give, samples.tell, samples.fail], ids=lambda t: t.name)
def test_headers_that_are_none_end_no_process(of: Any, headers: str) -> None:
    outcome = outcome_of(claimed(of, "ValueError", headers=headers))

    assert isinstance(outcome, Failed | Completed | Retrying)


@pytest.mark.parametrize("moment", ["-infinity", "0044-03-15 00:00:00+00 BC", "10000-01-01", "x"])
def test_times_that_python_does_not_know_end_no_process(moment: str) -> None:
    row = claimed(samples.give, 1, run_after=moment, enqueued_at=moment)
    assert isinstance(outcome_of(row), Completed | Failed)
    assert isinstance(outcome_of(row._replace(task=samples.fail.key)), Failed)

    lanes = Lanes(QueueChoice([], []))
    lanes.learn([row], 60.0, Look.FULL)
    assert not lanes.has_floors


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:20]))
def test_a_name_that_is_no_task_is_put_aside(name: str) -> None:
    outcome = outcome_of(claimed(name))

    assert isinstance(outcome, Parked)
    # It fits into the index, and no name that is registered later meets what was cut.
    assert len(outcome.held_for) <= len("unknown:") + 200


@given(
    st.fixed_dictionaries(
        {
            "args": st.recursive(st.none() | st.integers() | st.text(), st.lists),
            "kwargs": st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False)),
            "options": st.dictionaries(
                st.sampled_from(["timeout", "soft_timeout", "backoff", "store_result"]),
                st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers()),
            ),
            "headers": st.none() | st.integers() | st.dictionaries(st.text(), st.text()),
        }
    )
)
@settings(max_examples=100, deadline=None)
def test_no_row_ends_a_process(row: dict[str, Any]) -> None:
    texts = {name: json.dumps(value) for name, value in row.items()}
    outcome = outcome_of(claimed(samples.give, **texts))

    assert isinstance(outcome, Failed | Completed | Retrying)


# --- what the database refuses --------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        ({"run_after": "-infinity"}, "django_taskq_live_times"),
        ({"run_after": "infinity"}, "django_taskq_live_times"),
        ({"enqueued_at": "0044-03-15 BC"}, "django_taskq_live_times"),
        ({"expires_at": "infinity"}, "django_taskq_live_times"),
        ({"attempts": 32767}, "django_taskq_live_room"),
        ({"errors": "{}"}, "django_taskq_live_errors"),
        ({"errors": "5"}, "django_taskq_live_errors"),
        ({"status": "SUCCESSFUL"}, "django_taskq_live_status"),
        ({"status": "RUNNING"}, "django_taskq_live_claim"),
        ({"claim": str(uuid4())}, "django_taskq_live_claim"),
        ({"priority": 101}, "django_taskq_live_priority"),
    ],
)
def test_rows_that_no_claim_could_cope_with_are_refused(
    columns: dict[str, Any], constraint: str
) -> None:
    names = ", ".join(columns)
    places = ", ".join(["%s"] * len(columns))
    with (
        pytest.raises(IntegrityError, match=constraint),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(
            f"INSERT INTO django_taskq_livetask (task, {names}) VALUES ('x', {places})",
            [*columns.values()],
        )


@pytest.mark.django_db
def test_a_queue_name_that_no_index_can_hold_is_refused() -> None:
    name = "".join(chr(0x4E00 + n * 7 % 20_000) for n in range(10_000))
    with pytest.raises(psycopg.Error, match="index row"), transaction.atomic():
        try:
            LiveTask.objects.create(task="x", queue_name=name)
        except Exception as error:
            raise error.__cause__ or error from None


# --- who looks at them ----------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize("column", ["args", "kwargs", "headers", "options", "progress"])
@pytest.mark.parametrize(
    "value", [DEEP, f"[{LONG}]", f'{{"x": {LONG}}}'], ids=["deep", "long", "object"]
)
def test_one_odd_row_hides_no_other(
    admin_client: Client, column: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if column == "progress" and value != DEEP:
        pytest.skip("progress is shown in lists, and only a worker writes it")
    good = make_row(TaskStatus.READY)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO django_taskq_livetask (task, {column}) VALUES ('tests.tasks.add', %s) "
            "RETURNING id::text",
            [value if column != "progress" else '{"done": 5, "message": ["<b>"]}'],
        )
        [bad] = cursor.fetchone()

    page = admin_client.get(reverse("admin:django_taskq_livetask_changelist"))
    assert page.status_code == 200
    assert str(good.pk) in page.text and bad in page.text

    for id in (str(good.pk), bad):
        call_command("taskqueue", "show", id)
        assert id in capsys.readouterr().out
    call_command("taskqueue", "list")
    assert bad in capsys.readouterr().out


def test_a_class_that_a_row_names_is_not_imported(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "evil_errors.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)

    def class_at(path: str) -> type[BaseException]:
        return AttemptError(exception_class_path=path, traceback="").exception_class

    assert class_at("builtins.ValueError") is ValueError
    assert class_at("psycopg.errors.UniqueViolation") is psycopg.errors.UniqueViolation
    assert class_at("django_taskq.models.tasks.LiveTask.DoesNotExist") is LiveTask.DoesNotExist
    for path in ("evil_errors.Boom", "builtins", "", ".", "builtins.no", "sys.modules.os", "a..b"):
        with pytest.raises(ImportError, match="nothing is imported because a row names it"):
            class_at(path)
    for path in ("os.system", "builtins.eval", "builtins.int", "json.JSONDecoder"):
        with pytest.raises(ValueError, match="is no class of exceptions"):
            class_at(path)


# --- a real worker --------------------------------------------------------------------------------


def insert(**columns: str) -> str:
    names = ", ".join(columns)
    places = ", ".join(["%s"] * len(columns))
    [[id]] = sql(
        f"INSERT INTO django_taskq_livetask ({names}) VALUES ({places}) RETURNING id::text",
        *columns.values(),
    )
    return str(id)


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["processes", "threads", "asyncio"])
def test_a_worker_survives_every_row_and_imports_nothing(
    start: Starter, tmp_path: Path, pool: str
) -> None:
    evil = tmp_path / "evil_module.py"
    evil.write_text("from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n")
    add = "tests.processes.tasks.add"
    held = [insert(task=name) for name in NAMES]
    ended = [insert(task=add, options=options) for options in OPTIONS if options != "null"]
    ended += [insert(task=add, args=args, kwargs=kwargs) for args, kwargs in CALLS]
    ended += [insert(task=add, args="[1, 2]", headers=headers) for headers in HEADERS]
    good = [process_tasks.add.enqueue(1, n) for n in range(20)]
    worker = start(children=2, pool=pool)

    wait_until(
        lambda: (
            FinishedTask.objects.filter(id__in=ended).count() == len(ended)
            and LiveTask.objects.filter(id__in=held, status="HELD").count() == len(held)
        ),
        what="every row has come to something",
    )

    assert [result.wait(timeout=30) for result in good] == [1 + n for n in range(20)]
    assert not evil.with_suffix(".ran").exists()
    assert "Child" not in worker.output, worker.output  # none had to be replaced
    assert FinishedTask.objects.filter(crashes__gt=0).count() == 0
    assert not [name for name in control.status().queues if name.running]
    worker.stop()
    # Looked at from outside, they drive no terminal.
    assert worker.output.replace("\n", "").isprintable()


def test_the_record_of_an_error_has_a_size() -> None:
    record = error_record(
        class_path="x" * 9_999,
        message="y" * 99_999,
        traceback_text="z" * 999_999,
        attempt=1,
        worker="w",
    )
    assert len(record) < 20_000


def test_tracebacks_hold_no_values_of_variables() -> None:
    outcome = outcome_of(claimed(samples.fail, "ValueError", kwargs='{"message": "m"}'))
    assert isinstance(outcome, Failed)
    assert "kind = " not in outcome.error
