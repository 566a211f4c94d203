"""The documentation builds, says the truth about names, and its SQL does what it says.

Its examples are followed in tests/docs.
"""

from __future__ import annotations

import argparse
import inspect
import re
import subprocess
import sys
import uuid
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class
from django.db import connection

import django_taskq
from django_taskq import TaskStatus, conf, control
from django_taskq.management.taskqueue import VERBS
from django_taskq.models import LiveTask, Worker
from django_taskq.results import AttemptError, TaskResult
from django_taskq.statuses import TRANSITIONS
from django_taskq.task import Task, TaskContext
from django_taskq.task_options import TaskOptions, UsingOptions
from tests.docs.markdown import DOCS, ROOT, Step, name_of, pages, steps

REFERENCE = DOCS / "reference"
PAGES = pages()


def sql_blocks(page: str) -> list[Step]:
    return [step for step in steps(DOCS / page) if step.language == "sql"]


# --- the pages ------------------------------------------------------------------------------------


def test_the_documentation_builds_without_a_warning_and_loads_nothing_from_elsewhere(
    tmp_path: Path,
) -> None:
    pytest.importorskip("sphinx", reason="the documentation was NOT built: no sphinx (extra docs)")
    pytest.importorskip("furo", reason="the documentation was NOT built: no furo (extra docs)")
    pytest.importorskip("myst_parser", reason="the documentation was NOT built: no myst-parser")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    built = subprocess.run(
        [*build, "-d", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path / "html")],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    elsewhere = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*(?:src|href)=["'](?:https?:)?//""")
    css_elsewhere = re.compile(r"""(?:@import|url\()\s*["']?(?:https?:)?//""")
    for page in (tmp_path / "html").rglob("*"):
        if page.suffix == ".html":
            assert not elsewhere.search(page.read_text()), page
        if page.suffix == ".css":
            assert not css_elsewhere.search(page.read_text()), page


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") < 150
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (ROOT / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_imported_in_examples_exist(page: Path) -> None:
    for block in steps(page):
        if block.language in {"python", "pycon"}:
            for line in re.findall(r"from django_taskq import (.+)", block.code):
                for name in line.split(","):
                    is_module = find_spec(f"django_taskq.{name.strip()}") is not None
                    assert is_module or name.strip() in django_taskq.__all__, f"{block}: {name}"


# --- nothing is missing in the reference ----------------------------------------------------------


def table_rows(page: str) -> list[str]:
    return [line for line in (REFERENCE / page).read_text().splitlines() if line.startswith("| ")]


def described(page: str, place: int = 0) -> set[str]:
    """Return the code words in one column of a page's tables."""
    return {
        word
        for row in table_rows(page)
        for word in re.findall(r"`([^`]+)`", row.split("|")[place + 1])
    }


def test_every_setting_is_described_with_its_default() -> None:
    rows = "\n".join(table_rows("settings.md"))
    for option in fields(conf.Settings):
        default = getattr(conf.Settings(), option.name)
        default = list(default) if isinstance(default, tuple) else default
        assert f"| `{option.name.upper()}` | `{default}` |" in rows


def test_every_option_of_the_decorator_and_of_using_is_described() -> None:
    options = {"takes_context", *TaskOptions.__annotations__}
    using = set(UsingOptions.__annotations__)
    assert options >= {"queue_name", "max_attempts"}
    assert options | using <= described("task.md")
    in_using = {
        row.split("|")[1].strip(" `"): row.split("|")[3].strip()
        for row in table_rows("task.md")
        if row.count("|") == 5
    }
    for option in options:
        assert (in_using[option] == "no") == (option not in using), option


# What a worker gives a context; tasks have properties in their place.
_OF_THE_WORKER = {"report", "stopping", "cancelled"}


def test_every_member_of_tasks_contexts_and_results_is_described() -> None:
    inherited = {"id", "status", "is_finished", "return_value", "task_result", "args", "kwargs"}
    for cls, page in ((TaskContext, "task.md"), (TaskResult, "results.md")):
        members = {name for name in vars(cls) if not name.startswith("_")} - _OF_THE_WORKER
        known = {word.partition("(")[0] for word in described(page)}
        assert members <= known, members - known
    known = {word.partition("(")[0] for word in described("task.md") | described("results.md")}
    assert inherited <= known
    methods = {name for name, value in vars(Task).items() if inspect.isfunction(value)}
    methods = {name for name in methods if not name.startswith("_")}
    assert methods - {"get_backend", "options_for_row"} <= known
    assert {field.name for field in fields(AttemptError)} <= known


def test_every_check_is_described() -> None:
    source = "".join(
        (ROOT / "django_taskq" / name).read_text() for name in ("checks.py", "backend.py")
    )
    ids = set(re.findall(r'id="(django_taskq\.[EW]\d+)"', source))
    assert len(ids) >= 6
    assert ids == described("checks.md", 0)


def test_every_status_and_every_arrow_is_described_and_drawn() -> None:
    assert set(TaskStatus.values) <= described("statuses.md")
    drawing = (DOCS / "_static" / "statuses.svg").read_text()
    page = [[cell.strip() for cell in row.split("|")] for row in table_rows("statuses.md")]
    for status in TaskStatus.values:
        assert f">{status}</text>" in drawing
    for verb, before, after in TRANSITIONS:
        verb = verb.replace("_", " ")
        assert verb in drawing
        assert any(
            row[1] == verb and (before or "–") in row[2] and after in row[3]
            for row in page
            if len(row) > 4
        ), verb


def test_every_flag_and_variable_of_the_worker_is_described() -> None:
    command: Any = load_command_class(get_commands()["taskworker"], "taskworker")
    parser = command.create_parser("manage.py", "taskworker")
    djangos = {"help", "version", "verbosity", "settings", "pythonpath", "traceback"}
    djangos |= {"no_color", "force_color", "skip_checks"}
    described_flags = " ".join(described("taskworker.md"))
    for action in parser._actions:
        if action.dest not in djangos:
            for flag in action.option_strings:
                assert re.search(rf"(?<!\S){flag}(?!\S)", described_flags), flag
    source = (ROOT / "django_taskq/management/taskworker/flags.py").read_text()
    variables = set(re.findall(r'"(TASKWORKER_\w+)"', source))
    assert variables == set(re.findall(r"TASKWORKER_\w+", parser.epilog))
    assert variables == {w for w in described("taskworker.md", 1) if w.startswith("TASKWORKER")}
    assert variables == set(
        re.findall(r"`(TASKWORKER_\w+)`", (DOCS / "howto/deploy-a-worker.md").read_text())
    )


def test_every_name_of_control_is_described_with_its_options_and_attributes() -> None:
    text = "".join((REFERENCE / name).read_text() for name in ("control.md", "taskqueue.md"))
    known = {word.partition("(")[0]: word for word in described("control.md")}
    attributes = set(re.findall(r"`(\w+)`", text))
    for name in control.__all__:
        value = getattr(control, name)
        assert name in known, name
        if inspect.isfunction(value):
            options = set(inspect.signature(value).parameters) - {"database"}
            assert set(re.findall(r"\w+", known[name])) - {name} == options, name
        elif is_dataclass(value):
            assert {field.name for field in fields(value)} <= attributes, name


def verb_sections() -> dict[str, str]:
    """Return what the reference says of each verb of `taskqueue`."""
    parts = re.split(r"^## `(\w+)`$", (REFERENCE / "taskqueue.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", VERBS)
def test_every_flag_of_every_verb_is_described_where_the_verb_is(name: str) -> None:
    section = verb_sections()[name]
    parser = argparse.ArgumentParser(add_help=False)
    VERBS[name].add_arguments(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    told = {word.split()[0] for word in re.findall(r"`(--[^`]+)`", section)}
    for flag in flags:
        assert flag in told, flag
    # "--json" and the like are told once for all, and one verb may speak of another's flags.
    everywhere = {"--json"} | {
        flag for verb in VERBS.values() for flag in _flags_of(verb) if name != verb.name
    }
    assert told <= flags | everywhere, told - flags


def _flags_of(verb: Any) -> set[str]:
    parser = argparse.ArgumentParser(add_help=False)
    verb.add_arguments(parser)
    return {flag for action in parser._actions for flag in action.option_strings}


def test_every_finding_of_the_doctor_is_described() -> None:
    files = sorted((ROOT / "django_taskq/control").glob("doctor*.py"))
    source = "".join(file.read_text() for file in files)
    made = set(re.findall(r'(?:error|warning|info)\(\s*"([a-z-]+)"', source))
    assert len(made) >= 25
    assert made <= set(re.findall(r"`([a-z-]+)`", verb_sections()["doctor"]))


def test_every_exported_name_is_described() -> None:
    assert set(django_taskq.__all__) == described("names.md")
    errors = {
        name
        for name in django_taskq.__all__
        if isinstance(getattr(django_taskq, name), type)
        and issubclass(getattr(django_taskq, name), Exception)
    }
    known = {word.partition("(")[0] for word in described("exceptions.md")}
    known |= set(re.findall(r"`(\w+)`", (REFERENCE / "exceptions.md").read_text()))
    assert errors <= known


def test_every_column_is_described_for_those_who_insert_by_sql() -> None:
    text = (DOCS / "howto/plain-sql-insert.md").read_text()
    for column in LiveTask._meta.get_fields():
        assert f"`{column.name}`" in text, column.name


# --- SQL ------------------------------------------------------------------------------------------


def run_sql(block: Step, **replaced: str) -> list[Any]:
    """Run a block's statements in the test's own transaction; return the rows of the last query."""
    code = re.sub(r"^(BEGIN|COMMIT);$", "", block.code, flags=re.MULTILINE)
    for old, new in replaced.items():
        code = code.replace(old, new)
    rows: list[Any] = []
    with connection.cursor() as cursor:
        for statement in code.split(";\n"):
            if re.sub(r"--.*", "", statement).strip(" \n;"):
                cursor.execute(statement)
                if cursor.description:
                    rows = cursor.fetchall() or rows
    return rows


@pytest.mark.django_db
def test_the_sql_of_other_languages_enqueues_and_reads() -> None:
    plain, full, read, grant = sql_blocks("howto/plain-sql-insert.md")
    [rest] = sql_blocks("howto/rename-a-task.md")
    assert run_sql(rest) == [(0,)]
    [[id]] = run_sql(plain)
    row = LiveTask.objects.get(id=id)
    assert (row.status, row.args, row.kwargs, row.queue_name) == ("READY", ["Ada"], {}, "default")
    run_sql(full)
    row = LiveTask.objects.get(queue_name="mail")
    assert (row.kwargs, row.priority, row.max_attempts) == ({"name": "Ada"}, 10, 5)
    assert row.run_after > row.enqueued_at and row.expires_at is not None
    known = re.search(r"'([0-9a-f-]{36})'", read.code)
    assert known is not None
    assert run_sql(read, **{known[1]: str(id)}) == [("READY", None, "[]")]

    role = f"enqueuer_{uuid.uuid4().hex[:8]}"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {role}")
        run_sql(grant, enqueuer=role)
        cursor.execute(f"SET LOCAL ROLE {role}")
        assert run_sql(plain)
        cursor.execute("RESET ROLE")


@pytest.mark.django_db
def test_the_sql_for_operators_does_what_the_page_says() -> None:
    [recover] = sql_blocks("howto/deploy-a-worker.md")
    gone, alive = uuid.uuid4(), uuid.uuid4()
    Worker.objects.create(id=alive, kind="CHILD", host="h", pid=1)
    with connection.cursor() as cursor:
        for worker in (gone, alive):
            cursor.execute(
                "INSERT INTO django_taskq_livetask "
                "(task, queue_name, status, claim, worker_id, started_at, attempts) "
                "VALUES ('shop.tasks.gone', %s, 'RUNNING', gen_random_uuid(), %s, now(), 1)",
                [str(worker), worker],
            )
    run_sql(recover)
    held, kept = (LiveTask.objects.get(queue_name=str(id)) for id in (gone, alive))
    assert (held.status, held.held_for) == ("HELD", "unknown:shop.tasks.gone")
    assert (held.claim, held.attempts, held.crashes) == (None, 1, 1)
    assert (kept.status, kept.attempts, kept.crashes) == ("RUNNING", 1, 0)
