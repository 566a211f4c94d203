"""The banner and the line per task: what a terminal shows, and what it never shows."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from django_taskq.outcomes import (
    Cancelled,
    CancelledUnstarted,
    Completed,
    Expired,
    Failed,
    Outcome,
    Parked,
    Retrying,
    Snoozed,
)
from django_taskq.serialization import error_record
from django_taskq.transitions.claim import Claimed
from django_taskq.worker import console
from django_taskq.worker.console import TaskLines, banner
from django_taskq.worker.options import WorkerOptions
from tests.support.databases import ROOT
from tests.worker import samples
from tests.worker.samples import claimed

OPTIONS = WorkerOptions(database="default")
SECRET = "hunter2"
FACTS = {
    "version": "1.0",
    "database": "shop",
    "postgresql": "18.4",
    "host": "web-1",
    "tasks": "12 tasks",
    "waiting": 3,
}


def error(message: str = SECRET) -> str:
    return error_record(
        class_path="shop.errors.NoStock",
        message=message,
        traceback_text=f'  File "shop.py"\n    charge("{SECRET}")',
        attempt=1,
        worker="w",
    )


def outcomes_of(row: Claimed) -> dict[str, Outcome]:
    now = time.monotonic()
    mine = (row.id, row.claim)
    return {
        "completed": Completed(*mine, json.dumps(SECRET), now - 1.5, now),
        "retrying": Retrying(*mine, error(), 12.5, now - 1.5, now),
        "snoozed": Snoozed(*mine, 60.0),
        "failed": Failed(*mine, error(), now - 1.5, now),
        "cancelled": Cancelled(*mine, error(), now - 1.5, now),
        "cancelled unstarted": CancelledUnstarted(*mine, error(), now, now),
        "expired": Expired(*mine, error(), now, now),
        "parked": Parked(*mine, "unknown:x"),
    }


KINDS = list(outcomes_of(claimed(samples.give)))


@pytest.fixture
def written(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="django_taskq")
    return caplog


def write(outcome: Outcome, row: Claimed, **options: Any) -> None:
    shown = WorkerOptions(database="default", **options)
    TaskLines(shown, "worker-1").write([outcome], {row.id: row})


def line_of(kind: str, row: Claimed, written: pytest.LogCaptureFixture) -> str:
    write(outcomes_of(row)[kind], row)
    assert len(written.records) == 1
    return written.records[0].getMessage()


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_names_the_task_and_its_queue_but_no_argument_value_or_message(
    written: pytest.LogCaptureFixture, kind: str
) -> None:
    row = claimed(samples.give, SECRET, kwargs=json.dumps({"value": SECRET}), queue_name="mail")

    line = line_of(kind, row, written)

    assert row.task in line
    assert "mail" in line
    assert SECRET not in line
    assert SECRET not in str(vars(written.records[0]))


@pytest.mark.parametrize(
    "kind, said",
    [
        ("completed", "1.50 s"),
        ("retrying", "retry 3/5 in 12.5 s"),
        ("retrying", "NoStock"),
        ("failed", "NoStock"),
        ("snoozed", "snoozed for 60 s"),
        ("cancelled", "cancelled"),
        ("cancelled unstarted", "cancelled"),
        ("expired", "expired"),
        ("parked", "not known here"),
    ],
)
def test_a_line_says_what_became_of_the_task(
    written: pytest.LogCaptureFixture, kind: str, said: str
) -> None:
    row = claimed(samples.give, attempts=2, max_attempts=5)

    assert said in line_of(kind, row, written)


def test_a_long_wait_is_written_in_whole_seconds(written: pytest.LogCaptureFixture) -> None:
    row = claimed(samples.give)

    write(Snoozed(row.id, row.claim, 86_400.0), row)

    assert "snoozed for 86,400 s" in written.records[0].getMessage()


def test_only_a_final_failure_is_a_warning(written: pytest.LogCaptureFixture) -> None:
    levels = {}
    for kind in KINDS:
        row = claimed(samples.give)
        write(outcomes_of(row)[kind], row)
        levels[kind] = written.records[-1].levelname

    assert [kind for kind, level in levels.items() if level == "WARNING"] == ["failed"]


def test_control_characters_in_names_do_not_reach_the_terminal(
    written: pytest.LogCaptureFixture,
) -> None:
    nasty = "a\nb\x1b[31mc\x07\r\u202e\u2028"
    row = claimed(nasty, queue_name=nasty)

    line = line_of("completed", row, written)

    assert line.isprintable()
    assert "\\x1b[31mc" in line


def test_an_endless_name_is_cut(written: pytest.LogCaptureFixture) -> None:
    row = claimed("x" * 5000)

    assert len(line_of("completed", row, written)) < 400


def test_the_fields_of_a_line_are_there_for_structured_logs(
    written: pytest.LogCaptureFixture,
) -> None:
    row = claimed(samples.give, attempts=2)
    line_of("completed", row, written)

    record: Any = written.records[0]
    assert (record.task_id, record.task_name, record.attempt) == (row.id, row.task, 2)
    assert (record.queue_name, record.worker_id) == ("default", "worker-1")
    assert record.duration_ms == pytest.approx(1500, abs=1)


def test_the_line_of_a_start_has_the_same_fields_but_no_duration_yet(
    written: pytest.LogCaptureFixture,
) -> None:
    row = claimed(samples.give, attempts=2)
    lines = TaskLines(OPTIONS, "worker-1")
    lines.write_start(row)
    lines.write([outcomes_of(row)["completed"]], {row.id: row})

    start, end = ({**vars(record)} for record in written.records)
    names = ("task_id", "task_name", "queue_name", "attempt", "worker_id")
    assert [start[name] for name in names] == [end[name] for name in names]
    assert start["task_id"] == row.id and start["duration_ms"] is None


def test_a_quiet_worker_writes_no_lines(written: pytest.LogCaptureFixture) -> None:
    row = claimed(samples.give)

    write(outcomes_of(row)["failed"], row, verbosity=0)

    assert written.records == []


# --- terminals --------------------------------------------------------------------------------


# Writes the banner, and the lines of tasks with all kinds of names and outcomes.
SHOW = """
import django
django.setup()
from tests.worker import test_console
test_console.show_everything()
"""

NAMES = ["shop.tasks.send", "x" * 5000, "aufgaben.über", "任务"]


def show_everything() -> None:
    """Write what a worker writes, in a process that has the terminal for itself."""
    console.set_up_logging(OPTIONS)
    sys.stdout.write(banner(OPTIONS, FACTS) + "\n")
    for name in NAMES:
        for kind in KINDS:
            row = claimed(name)
            write(outcomes_of(row)[kind], row)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_what_a_worker_says_can_be_shown_on_any_terminal(encoding: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", SHOW],
        env={
            **os.environ,
            "PYTHONIOENCODING": encoding,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONPATH": str(ROOT),
        },
        cwd=ROOT,
        capture_output=True,
        timeout=60,
    )

    assert shown.stderr.decode(encoding, "replace") == ""
    assert shown.returncode == 0
    assert len(shown.stdout.splitlines()) == 3 + len(NAMES) * len(KINDS)


# A project without LOGGING, and what Django logs of a task that went well and of one that failed.
SHOW_DJANGOS = """
import logging, sys
from django_taskq.tasks_api import LOGGER_NAME
logging.getLogger(LOGGER_NAME).setLevel(logging.INFO)
logging.getLogger(LOGGER_NAME).addHandler(logging.StreamHandler(sys.stdout))
logging.getLogger(LOGGER_NAME).addHandler(logging.FileHandler("/dev/stderr"))
from tests.worker import test_console
test_console.console.set_up_logging(test_console.OPTIONS)
logging.getLogger(LOGGER_NAME).info("state=SUCCESSFUL")
logging.getLogger(LOGGER_NAME).error("state=FAILED")
"""


def test_a_terminal_with_our_line_of_a_task_is_spared_the_two_of_django() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", SHOW_DJANGOS],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert shown.stdout.split() == ["state=FAILED"]
    # Whoever has Django's records written elsewhere gets them all.
    assert shown.stderr.split() == ["state=SUCCESSFUL", "state=FAILED"]


@pytest.mark.parametrize(
    "options, said",
    [
        ({}, "queues all"),
        ({"queues": ("mail", "img-*")}, "queues mail, img-*"),
        ({"excluded": ("bulk",)}, "queues all but bulk"),
        ({"concurrency": 4}, "4"),
        ({"burst": True}, "until nothing is due"),
        ({}, "Ctrl+C to stop"),
        ({}, "12 tasks registered"),
        ({}, "3 waiting"),
        ({}, "18.4"),
    ],
)
def test_the_banner_says_what_the_worker_does(options: dict[str, Any], said: str) -> None:
    assert said in banner(WorkerOptions(database="default", **options), FACTS)


@pytest.mark.parametrize("color", [False, True])
def test_colours_are_an_option(color: bool) -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "it broke", None, None)

    assert ("\x1b[" in console._ConsoleFormatter(color=color).format(record)) is color
