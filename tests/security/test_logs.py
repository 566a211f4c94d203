"""No text from a row, an error or a name forges a line of a log or drives a terminal."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import sys
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.urls import reverse

from django_taskq import TaskStatus, control
from django_taskq.control import ControlError
from django_taskq.events import one_line
from django_taskq.management.taskqueue import VERBS
from django_taskq.management.taskqueue.answers import dumps
from django_taskq.models.worker import WorkerKind
from django_taskq.worker.console import set_up_logging
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.store import brief
from tests.rows import make_error, make_row, make_worker
from tests.security.test_source import SOURCES, name_of

# A line of its own, colours and cursor (in seven bits and in eight), a bell, a title of a window,
# text that runs from right to left, and what ends lines elsewhere.
FORGED = (
    "a\n[CRITICAL] forged\r\x1b[2J\x1b[31m\x9b31m\x07\x1b]0;title\x07\u202egnp.exe\u2066\u2028\x85"
    "\x0b\x0c\x7f\u200b\ufeff"
)
HARMFUL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def assert_harmless(text: str, lines: int | None = None) -> None:
    assert not HARMFUL.search(text), ascii(text)
    assert not re.search(r"^\[CRITICAL\]", text, re.MULTILINE), text
    if lines is not None:
        assert text.count("\n") == lines - 1, text


# --- lines of the log -----------------------------------------------------------------------------

# What log lines are given beside one_line() and brief(): numbers, ids, and words of our own.
SAFE = re.compile(
    r"""
    (\w+\.)*(slot|pid|number|id|reason|retiring_for|database|database_wait|megabytes)
    | len\([\w.]+\) | type\(\w+\)\.__(qual)?name__ | resumed | count | held | running | grace | fix
    | _PATIENCE | _AGAIN | task_id | mark | self\._count | death | what | ended\ -\ began
    | 'timeout' | why\.get\(.* | _where\(error\) | self\.seconds
    | clocks\.\w+ | self\.describe\(row\.id\) | who | _list\(ids\)  # see presence.py
    | f?["'].*["']\ if\ .*
    """,
    re.VERBOSE | re.DOTALL,
)
SAFE_CALLS = {"one_line", "brief", "store.brief"}


def log_calls() -> list[tuple[str, ast.Call]]:
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and re.fullmatch(
                r"(worker|task|enqueue)_log\.(debug|info|warning|error|exception|critical|log)",
                ast.unparse(node.func),
            ):
                found.append((name_of(path), node))
    return found


def test_every_line_of_ours_makes_texts_from_outside_fit() -> None:
    calls = log_calls()
    assert len(calls) > 30
    for file, call in calls:
        place = 1 if ast.unparse(call.func).endswith(".log") else 0
        message = call.args[place]
        assert isinstance(message, ast.Constant), f"{file}: {ast.unparse(call)}"
        for argument in call.args[place + 1 :]:
            text = ast.unparse(argument)
            is_safe = isinstance(argument, ast.Call) and ast.unparse(argument.func) in SAFE_CALLS
            assert is_safe or SAFE.fullmatch(text) or is_made_of(argument), (
                f"{file}: {text}: pass it through one_line(), or say in SAFE that it is no text "
                "from outside"
            )


def test_every_record_about_a_task_carries_its_fields() -> None:
    calls = [(file, call) for file, call in log_calls() if "task_log" in ast.unparse(call.func)]
    assert len(calls) >= 6
    for file, call in calls:
        extra = "".join(ast.unparse(key.value) for key in call.keywords if key.arg == "extra")
        # That of a mail comes from inside of the task that sends it.
        assert file == "mail.py" or extra.startswith("task_extra(row, "), ast.unparse(call)


def is_made_of(argument: ast.expr) -> bool:
    """Say whether all that goes into an expression is a constant or made to fit."""
    if isinstance(argument, ast.IfExp):
        return all(map(is_fit, (argument.body, argument.orelse)))
    return is_fit(argument)


def is_fit(part: ast.expr) -> bool:
    if isinstance(part, ast.Constant):
        return True
    if isinstance(part, ast.JoinedStr):
        return all(
            isinstance(value, ast.Constant)
            or re.fullmatch(
                r"how|options\.database|', '\.join\(self\.held\.running\)|.*:g",
                ast.unparse(value.value),
            )  # type: ignore[attr-defined]
            for value in part.values
        )
    return isinstance(part, ast.Call) and (
        ast.unparse(part.func) in SAFE_CALLS | {"_short", "_waited", "ascii"}
    )


def test_an_error_of_the_database_fits_into_a_line() -> None:
    with psycopg.connect(**_parameters()) as other, pytest.raises(psycopg.Error) as refused:
        other.execute("SELECT CAST(%s AS integer)", [FORGED])
    said = brief(refused.value)
    assert "invalid input syntax" in said
    assert_harmless(said, lines=1)
    assert brief(psycopg.Error("")) == "Error"
    assert len(brief(psycopg.Error("x" * 9_999))) <= 500


def _parameters() -> dict[str, Any]:
    from django.db import connections

    parameters = connections["default"].get_connection_params()
    return {k: v for k, v in parameters.items() if k not in {"cursor_factory", "context"}}


@pytest.mark.parametrize("color", [True, False])
def test_a_traceback_on_the_terminal_forges_no_line(
    monkeypatch: pytest.MonkeyPatch, color: bool
) -> None:
    logger = logging.getLogger("django_taskq")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    set_up_logging(WorkerOptions(database="default", color=color))
    try:
        raise ValueError(f"{FORGED}\n12:00:00 forged")
    except ValueError:
        logging.getLogger("django_taskq.worker").exception("It failed: %s", FORGED)
    text = re.sub("\x1b\\[[0-9;]*m", "", out.getvalue()) if color else out.getvalue()
    assert_harmless(text)
    [first, *rest] = text.splitlines()
    assert re.match(r"\d\d:\d\d:\d\d It failed", first)
    # What belongs to a line before stands further right.
    assert rest and all(line.startswith("    ") for line in rest)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def forged_rows(db: None) -> list[Any]:
    columns: dict[str, Any] = {"task": FORGED, "queue_name": FORGED, "args": [FORGED]}
    columns["errors"] = [dict.fromkeys(make_error("x", "y"), FORGED) | {"attempt": FORGED}]
    columns["progress"] = {"done": 1, "total": 2, "message": FORGED}
    made: list[Any] = [make_row(status, **columns) for status in TaskStatus]
    made.append(make_row(TaskStatus.HELD, held_for=f"unknown:{FORGED}", **columns))
    info = {"queues": [FORGED], "excluded": [FORGED], "pool": FORGED, "version": FORGED}
    boss = make_worker(host=FORGED, info={**info, "concurrency": 1})
    make_worker(kind=WorkerKind.CHILD.value, parent_id=boss.pk, host=FORGED)
    return made


LOOKS = [
    ["status"],
    ["list"],
    ["list", "--status", "FAILED"],
    ["workers"],
    ["health", "--queue", FORGED, "--host", FORGED],
    ["doctor", "--watch", "0s"],
    ["retry", "--all-failed", "--dry-run"],
    ["cancel", "--all", "--dry-run"],
]


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    try:
        call_command("taskqueue", *words)
    except SystemExit:
        pass
    except CommandError as refused:
        return str(refused)
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.mark.parametrize("words", LOOKS, ids=lambda words: " ".join(words[:2]))
def test_no_verb_lets_a_row_drive_the_terminal(
    forged_rows: list[Any], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, *words)
    assert "forged" in text or words[0] in {"retry", "cancel", "status"}
    assert_harmless(text)
    document = said(capsys, *words, "--json")
    assert_harmless(document)
    json.loads(document)


def test_show_lets_no_row_drive_the_terminal(
    forged_rows: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for row in forged_rows:
        assert_harmless(said(capsys, "show", str(row.pk)))
        document = said(capsys, "show", str(row.pk), "--json")
        assert_harmless(document)
        # Escapes mean the same to whoever reads the document.
        assert json.loads(document)["task"] == FORGED


@pytest.mark.django_db
def test_what_is_typed_is_repeated_without_harm(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["show", FORGED],
        ["list", "--status", FORGED],
        ["list", "--before", FORGED],
        ["retry", FORGED],
        ["cancel", FORGED],
        ["enqueue", FORGED],
        ["run", FORGED],
        ["status", "--database", FORGED],
    ):
        assert_harmless(said(capsys, *words), lines=None)
    assert len(VERBS) >= 11


def test_json_escapes_mean_what_they_escape() -> None:
    document = dumps({"text": FORGED, "umlaut": "ü", "tag": "\U000e0001"})
    assert_harmless(document)
    assert "ü" in document
    assert json.loads(document) == {"text": FORGED, "umlaut": "ü", "tag": "\U000e0001"}


@pytest.mark.django_db
def test_what_the_doctor_advises_can_be_pasted(tmp_path: Any) -> None:
    """A name from a row stands in a command that somebody copies into a shell."""
    nasty = f"x'; touch {tmp_path}/pasted; echo $(touch {tmp_path}/again) `id` '"
    make_row(TaskStatus.HELD, held_for=f"unknown:{nasty}")
    make_row(TaskStatus.READY, queue_name=nasty, run_after="2026-01-01T00:00:00Z")

    import shlex

    fixes = [f.fix for f in control.diagnose(watch=0) if f.id in {"held-unknown", "no-worker"}]
    assert len(fixes) == 2
    for fix in fixes:
        command = fix[fix.index("manage.py") :]
        assert nasty in shlex.split(command)


@pytest.mark.django_db
def test_errors_of_control_quote_what_they_were_given() -> None:
    with pytest.raises(ControlError) as refused:
        control.list_tasks(status=FORGED)
    assert "forged" in one_line(str(refused.value), 1000)


# --- the admin ------------------------------------------------------------------------------------

MARKUP = [
    "<script>alert(1)</script>",
    "javascript:alert(1)",
    '"><img src=x onerror=alert(1)>',
    "{{ request.user.password }}{% debug %}",
    "</pre></details><h1>forged</h1>",
]


@pytest.mark.parametrize("markup", MARKUP)
def test_the_admin_makes_no_markup_and_no_link_of_values(admin_client: Client, markup: str) -> None:
    row = make_row(
        TaskStatus.FAILED,
        task=markup,
        queue_name=markup,
        args=[markup],
        kwargs={markup: markup},
        return_value=markup,
        errors=[dict.fromkeys(make_error("x", "y"), markup)],
    )
    for view, at in (("changelist", []), ("change", [row.pk])):
        page = admin_client.get(reverse(f"admin:django_taskq_finishedtask_{view}", args=at))
        assert page.status_code == 200
        main = page.text[page.text.index('id="content"') :]
        assert not re.search("<script>alert|<img src=x|<h1>forged", main)
        assert not re.search(r"""(href|src)\s*=\s*["']?\s*(javascript|"><)""", main)
        assert "_user.password" not in main and "pbkdf2" not in main


@pytest.mark.django_db
def test_a_list_in_the_admin_does_not_fetch_what_it_does_not_show(
    admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    make_row(TaskStatus.SUCCESSFUL, return_value="x" * 1_000_000, args=["y" * 1_000_000])
    make_row(TaskStatus.READY, args=["y" * 1_000_000])
    for model in ("livetask", "finishedtask"):
        with django_assert_max_num_queries(12) as seen:
            page = admin_client.get(reverse(f"admin:django_taskq_{model}_changelist"))
        assert page.status_code == 200 and len(page.content) < 200_000
        [rows] = [q["sql"] for q in seen if f'FROM "django_taskq_{model}" ORDER BY' in q["sql"]]
        for column in ("args", "kwargs", "errors", "return_value"):
            assert f'"{column}"' not in rows
    assert connection.vendor == "postgresql"
