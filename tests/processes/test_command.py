"""What the command line, the environment and the settings make of a worker, and what it prints."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.processes import tasks
from tests.processes.conftest import Starter
from tests.processes.support import Gate, Ledger, TaskWorker, sql, statuses, wait_until
from tests.support.databases import ROOT

pytestmark = pytest.mark.slow


def test_a_burst_runs_what_is_due_and_leaves_what_comes_later(
    start: Starter, ledger: Ledger
) -> None:
    tasks.note.enqueue_many([(ledger.path, f"n{i}") for i in range(500)])
    later = tasks.note.using(run_after=3600).enqueue(ledger.path, "later")
    worker = start("--burst", children=2, ready=False)
    assert worker.wait() == 0
    assert len(ledger.starts()) == len(set(ledger.tags())) == 500
    later.refresh()
    assert later.row_status == "READY"
    assert "until nothing is due" in worker.output


def test_a_burst_runs_what_its_tasks_enqueue(start: Starter, ledger: Ledger) -> None:
    tasks.enqueue_more.enqueue(ledger.path, 40)
    assert start("--burst", children=3, ready=False).wait() == 0
    assert ledger.tags() == [f"depth:{depth}" for depth in range(40, -1, -1)]
    assert statuses() == {}


def test_a_burst_with_nothing_to_do_ends_soon(start: Starter) -> None:
    worker = start("--burst", children=2, ready=False)
    worker.wait_for("tasks registered")
    began = time.monotonic()
    assert worker.wait() == 0
    assert time.monotonic() - began < 4


def test_a_burst_waits_for_a_long_task(start: Starter, ledger: Ledger, gate: Gate) -> None:
    result = tasks.note.enqueue(ledger.path, "long", gate=gate.path)
    worker = start("--burst", children=2, ready=False)
    ledger.start_of("long")
    sql("SELECT pg_sleep(1.5)")
    assert worker.process.poll() is None
    gate.open()
    assert worker.wait() == 0
    result.refresh()
    assert result.row_status == "SUCCESSFUL"


@pytest.mark.parametrize("crashes", [0, 2], ids=["a task", "a suspect"])
def test_a_burst_waits_for_a_due_task_that_somebody_holds_and_runs_it(
    start: Starter, database: str, ledger: Ledger, crashes: int
) -> None:
    """Claims pass it over and come back empty: that does not mean that nothing is left."""
    held = tasks.note.enqueue(ledger.path, "held")
    sql("UPDATE django_taskq_livetask SET crashes = %s WHERE id = %s", crashes, held.id)
    looks: dict[str, set[Any]] = {"tick": set(), "claim": set()}

    def have_looked_often() -> bool:
        assert worker.process.poll() is None, worker.output
        for word, seen in looks.items():
            seen.update(
                sql(
                    "SELECT query_start FROM pg_stat_activity WHERE query LIKE %s "
                    "AND application_name LIKE 'taskworker%%'",
                    f"%django_taskq:{word}%",
                )
            )
        return min(map(len, looks.values())) >= 4

    with psycopg.connect(database) as somebody:
        somebody.execute("SELECT FROM django_taskq_livetask WHERE id = %s FOR UPDATE", [held.id])
        tasks.note.enqueue(ledger.path, "free")
        worker = start("--burst", children=1, ready=False)
        ledger.start_of("free")
        wait_until(have_looked_often)
        assert ledger.tags() == ["free"]
        somebody.rollback()

    assert worker.wait() == 0
    assert ledger.tags() == ["free", "held"]
    assert statuses() == {}


def test_a_burst_is_not_kept_by_what_it_may_not_run(start: Starter, ledger: Ledger) -> None:
    tasks.note.using(queue_name="other").enqueue(ledger.path, "other")
    suspect = tasks.note.using(queue_name="other").enqueue(ledger.path, "suspect")
    sql("UPDATE django_taskq_livetask SET crashes = 2 WHERE id = %s", suspect.id)
    sql(
        "INSERT INTO django_taskq_livetask (task, queue_name) VALUES ('shop.tasks.gone', 'default')"
    )
    worker = start("--burst", "-Q", "default", children=1, ready=False)
    worker.wait_for("tasks registered")
    assert worker.wait(15) == 0
    assert ledger.tags() == []
    assert statuses() == {"READY": 2, "HELD": 1}


@pytest.mark.parametrize(("children", "most"), [(3, 7), (1, 1)])
def test_no_more_than_max_tasks_are_started(
    children: int, most: int, start: Starter, ledger: Ledger
) -> None:
    results = tasks.note.enqueue_many([(ledger.path, f"n{i}") for i in range(50)])
    worker = start("--max-tasks", str(most), children=children, ready=False)
    assert worker.wait(30) == 0
    assert len(ledger.starts()) == most
    assert statuses() == {"READY": 50 - most}
    results[-1].refresh()
    assert results[-1].attempts == 0


def test_max_tasks_counts_what_comes_later_too(start: Starter, ledger: Ledger) -> None:
    worker = start("--max-tasks", "401", children=3)
    # From these on, many are claimed at once.
    for result in tasks.add.enqueue_many([(1, 1)] * 300):
        result.wait(timeout=30)
    tasks.note.enqueue_many([(ledger.path, f"n{i}") for i in range(300)])
    assert worker.wait(30) == 0
    assert len(ledger.starts()) == 101
    assert statuses() == {"READY": 199}


def test_options_come_from_the_environment_too(start: Starter, ledger: Ledger) -> None:
    for queue in ("mail", "default", "slow"):
        tasks.note.using(queue_name=queue).enqueue_many([(ledger.path, queue)] * 5)
    worker = start(
        ready=False,
        environment={
            "TASKWORKER_QUEUES": "mail, s*",
            "TASKWORKER_EXCLUDE_QUEUES": "slow",
            "TASKWORKER_MAX_TASKS": "3",
            "TASKWORKER_SHUTDOWN_TIMEOUT": "7",
        },
    )
    assert worker.wait(20) == 0
    assert ledger.tags() == ["mail"] * 3
    assert "processes × 2 · queues mail, s* but slow" in worker.output


def test_the_number_of_children_comes_from_the_environment(
    database: str, start: Starter, tmp_path: Path
) -> None:
    worker = TaskWorker(
        ("--burst",), url=database, directory=tmp_path, environment={"TASKWORKER_CONCURRENCY": "3"}
    )
    try:
        assert worker.wait() == 0
        assert "processes × 3" in worker.output
    finally:
        worker.stop()


def test_a_bad_value_in_the_environment_is_named(start: Starter) -> None:
    worker = start(ready=False, environment={"TASKWORKER_MAX_TASKS": "many"})
    assert worker.wait() == 2
    assert "TASKWORKER_MAX_TASKS: 'many' is not a whole number" in worker.output
    assert "Traceback" not in worker.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-tasks", "0"], "0 is less than 1"),
        (["--shutdown-timeout", "-1"], "-1 is not a number of seconds"),
        (["--queue", "mail", "--threads", "8"], "unrecognized arguments"),
        (["--queus", "mail"], 'Did you mean "--queues"?'),
        (["--database", "elsewhere"], "elsewhere"),
    ],
)
def test_a_bad_option_is_refused(arguments: list[str], message: str, start: Starter) -> None:
    worker = start(*arguments, ready=False)
    assert worker.wait() == 2
    assert message in worker.output
    assert "Traceback" not in worker.output


@pytest.mark.parametrize("verbosity", [0, 1, 2])
def test_verbosity_says_how_much_is_told_of_each_task(
    verbosity: int, start: Starter, ledger: Ledger
) -> None:
    tasks.note.enqueue(ledger.path, "quiet")
    tasks.fail.enqueue("secret-message")
    worker = start("--burst", "-v", str(verbosity), children=1, ready=False)
    assert worker.wait() == 0
    told = [line for line in worker.output.splitlines() if "tests.processes.tasks." in line]
    assert len(told) >= 2 if verbosity else told == [], worker.output
    assert ledger.path not in worker.output and "secret" not in worker.output
    if verbosity == 1:
        line = re.compile(
            r"^\d\d:\d\d:\d\d ✓ tests\.processes\.tasks\.note  default  0\.\d\d s  "
            r"\(waited \d+ ms\)$",
            re.MULTILINE,
        )
        assert line.search(worker.output), worker.output
        assert re.search(r"✗ tests\.processes\.tasks\.fail .* ValueError$", worker.output, re.M)


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ([], {}, False),
        (["--force-color"], {}, True),
        (["--force-color"], {"NO_COLOR": "1"}, True),
    ],
    ids=["a pipe", "--force-color", "the flag wins over NO_COLOR"],
)
def test_lines_in_a_pipe_are_coloured_only_by_force(
    arguments: list[str], environment: dict[str, str], expected: bool, start: Starter
) -> None:
    tasks.add.enqueue(1, 2)
    tasks.fail.enqueue("message")
    options = ["--burst", "-Q", "default,nobody", *arguments]
    worker = start(*options, ready=False, environment={"NO_COLOR": "", **environment})
    assert worker.wait() == 0
    is_colored = {
        text: bool(re.search(rf"\x1b\[[\d;]*m{text}", worker.output))
        for text in ("No registered task uses", "✓", "✗")
    }
    assert set(is_colored.values()) == {expected}, worker.output


@pytest.mark.parametrize("wish", ["", "1"])
def test_a_terminal_gets_colours_unless_no_color_says_otherwise(
    wish: str, database: str, tmp_path: Path
) -> None:
    tasks.add.enqueue(1, 2)
    terminal, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "django", "taskworker", "--burst", "-c", "1", "-X", "nobody"],
        env={
            **os.environ,
            "DATABASE_URL": database,
            "DJANGO_SETTINGS_MODULE": "tests.processes.settings",
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": wish,
        },
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    text = b""
    # A terminal whose other side is closed is an error on Linux, and an empty read elsewhere.
    with contextlib.suppress(OSError), open(terminal, "rb", buffering=0) as screen:
        while more := screen.read(4096):
            text += more
    assert process.wait(30) == 0
    assert b"No registered task uses" in text and b"tests.processes.tasks.add" in text
    assert (b"\x1b[" in text) is (not wish), text.decode()
    if not wish:
        lines = [line for line in text.splitlines() if b"\x1b[" in line]
        assert any(b"No registered" in line for line in lines)
        assert any(b"tasks.add" in line for line in lines)


def test_the_banner_says_what_runs_where(start: Starter, database: str) -> None:
    tasks.add.using(run_after=3600).enqueue_many([(1, 1)] * 3)
    worker = start("-Q", "default,d*", "-X", "dull", children=2)
    # Its warnings come before.
    first, second, third = worker.output.splitlines()[-3:]
    name = database.partition("?")[0].rpartition("/")[2]
    assert re.fullmatch(
        rf'django_taskq \S+ · Django \S+ · Python \d\.\d+ · db "{name}" on PostgreSQL [\d.]+', first
    )
    assert re.fullmatch(
        rf"worker \S+:{worker.pid} · processes × 2 · queues default, d\* but dull", second
    ), second
    assert re.fullmatch(
        r"\d+ tasks registered · 3 waiting · Ctrl\+C to stop, twice to stop now", third
    ), third


def test_the_help_text_puts_our_groups_before_djangos(database: str, tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "django", "taskworker", "--help"],
        env={
            **os.environ,
            "DATABASE_URL": database,
            "DJANGO_SETTINGS_MODULE": "tests.processes.settings",
            "COLUMNS": "100",
        },
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    text = answer.stdout
    assert (
        "Run tasks from the database until stopped. Start as many as you like, on as many machines "
        "as you like. Stop with Ctrl+C or SIGTERM: running tasks get --shutdown-timeout seconds to "
        "finish, then go back to the queue."
    ) in " ".join(text.split())
    headings = re.findall(r"^(?! )(.*?)(?=:|$)", text, re.MULTILINE)
    order = ["What to run", "How to run", "options", "Exit codes", "Examples"]
    assert [heading for heading in headings if heading in order] == order, text
    assert text.rstrip().endswith(
        "Examples\n"
        "  manage.py taskworker\n"
        "  manage.py taskworker -Q mail,default -c 8\n"
        "  manage.py taskworker --burst -v 2"
    )
    for flag in ("-Q", "-X", "--burst", "--max-tasks", "-c", "--shutdown-timeout"):
        assert re.search(rf"^  {flag}\b", text, re.MULTILINE), flag
    assert text.count("(default:") >= 6
    assert "TASKWORKER_QUEUES" in text


@pytest.mark.parametrize("flag", ["-Q", "-X"])
def test_a_queue_that_the_settings_do_not_allow_is_refused(
    flag: str, start: Starter, tmp_path: Path
) -> None:
    (tmp_path / "allowed.py").write_text(
        "from tests.processes.settings import *\n"
        "TASKS = {'default': {'BACKEND': 'django_taskq.backend.TaskqBackend',"
        " 'QUEUES': ['default', 'mail']}}\n"
    )
    refused = start(flag, "mali", ready=False, settings="allowed")
    assert refused.wait() == 2
    assert 'No queue matches "mali". Did you mean "mail"?' in refused.output
    assert "Traceback" not in refused.output
    accepted = start("--burst", flag, "m*", ready=False, settings="allowed")
    assert accepted.wait() == 0


@pytest.mark.parametrize("flag", ["-Q", "-X"])
def test_a_queue_that_no_task_uses_is_pointed_out(flag: str, start: Starter) -> None:
    worker = start("--burst", flag, "defualt", ready=False)
    assert worker.wait() == 0
    assert 'No registered task uses a queue that matches "defualt".' in worker.output
    assert 'Did you mean "default"?' in worker.output


def test_a_project_without_tasks_is_told_where_they_are_looked_for(
    start: Starter, tmp_path: Path
) -> None:
    (tmp_path / "bare.py").write_text(
        "from tests.processes.settings import *\nINSTALLED_APPS = ['django_taskq']\n"
    )
    worker = start("--burst", ready=False, settings="bare")
    assert worker.wait() == 0
    assert "No task is registered. Workers look for tasks in the tasks.py" in worker.output


def test_a_held_task_runs_when_a_worker_that_knows_it_comes(
    start: Starter, ledger: Ledger, tmp_path: Path
) -> None:
    app = tmp_path / "shop"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "tasks.py").write_text(
        "from django_taskq import task\n@task\ndef ship(order):\n    return f'shipped {order}'\n"
    )
    (tmp_path / "newer.py").write_text(
        "from tests.processes.settings import *\nINSTALLED_APPS = [*INSTALLED_APPS, 'shop']\n"
    )
    ((id,),) = sql(
        "INSERT INTO django_taskq_livetask (task, args) VALUES ('shop.tasks.ship', '[7]') "
        "RETURNING id"
    )
    old = start("--burst", ready=False)
    assert old.wait() == 0
    row = sql("SELECT status, held_for, attempts FROM django_taskq_livetask WHERE id = %s", id)
    assert row == [("HELD", "unknown:shop.tasks.ship", 0)]
    start(settings="newer")

    def finished() -> Any:
        return sql(
            "SELECT status, return_value::text, attempts FROM django_taskq_finishedtask "
            "WHERE id = %s",
            id,
        )

    assert wait_until(finished, 20) == [("SUCCESSFUL", '"shipped 7"', 1)]
