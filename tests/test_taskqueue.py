"""`manage.py taskqueue`: every verb as people type it and as programs read it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from django_taskq import TaskStatus
from django_taskq.management.taskqueue import VERBS
from django_taskq.models import FinishedTask, LiveTask
from tests.rows import make_error, make_row, make_worker

ROOT = Path(__file__).parent.parent
INFO = {"queues": [], "concurrency": 2, "pool": "processes", "version": "1"}
SECRET = "4111-1111"


def taskqueue(*words: str, code: int = 0) -> str:
    """Run a verb and return what it writes; fail unless it ends with this exit code."""
    out = io.StringIO()
    ended = 0
    try:
        call_command("taskqueue", *words, stdout=out)
    except SystemExit as stop:
        ended = int(stop.code or 0)
    assert ended == code, out.getvalue()
    return out.getvalue()


def read(*words: str, code: int = 0) -> Any:
    """Run a verb with --json and return the document."""
    return json.loads(taskqueue(*words, "--json", code=code))


def refusal(*words: str) -> str:
    """Return the message with which a wrong use is refused."""
    with pytest.raises(CommandError) as refused:
        taskqueue(*words)
    assert refused.value.returncode in (1, 2)
    return str(refused.value)


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Let every test use the database."""


# --- status ---------------------------------------------------------------------------------------


def test_status_shows_each_queue_in_80_columns() -> None:
    make_worker(info=INFO)
    for name in ("default", "a_queue_with_quite_a_long_name_for_a_queue"):
        for status in TaskStatus:
            make_row(status, queue_name=name)
    LiveTask.objects.filter(status="READY").update(run_after=timezone.now() - timedelta(hours=3))

    lines = taskqueue("status").splitlines()

    assert lines[0].split() == [
        "queue",
        "due",
        "later",
        "held",
        "running",
        "failed",
        "ended/h",
        "oldest",
    ]
    assert lines[2].split() == ["default", "1", "0", "1", "1", "1", "4", "3", "h", "0", "min"]
    assert lines[1].startswith("…long_name_for_a_queue")
    assert lines[-1].startswith("1 worker(s), 0 of 2 places busy. 0.1 tasks/s in the last minute")
    assert max(map(len, lines[:-1])) <= 80


def test_status_of_nothing() -> None:
    assert "There are no tasks." in taskqueue("status")


def test_status_for_programs() -> None:
    make_row(TaskStatus.READY, run_after=timezone.now() - timedelta(minutes=1))

    document = read("status")

    assert set(document) == {
        "at",
        "queues",
        "workers",
        "silent_workers",
        "slots",
        "busy",
        "rate_last_minute",
        "rate_last_hour",
    }
    [queue] = document["queues"]
    assert (queue["queue_name"], queue["due"], queue["at_least"]) == ("default", 1, [])
    assert queue["oldest_due_at"].endswith("+00:00") and queue["oldest_due_seconds"] >= 60


# --- list -----------------------------------------------------------------------------------------


def test_list_shows_tasks_without_their_arguments() -> None:
    row = make_row(
        TaskStatus.FAILED,
        task="shop.tasks.pay",
        args=[SECRET],
        kwargs={"card": SECRET},
        errors=[make_error("shop.Refused", SECRET)],
    )

    text, document = taskqueue("list"), read("list")

    assert str(row.pk) in text and "shop.tasks.pay  Refused" in text
    [line] = document["tasks"]
    assert (line["id"], line["status"], line["error"]) == (str(row.pk), "FAILED", "shop.Refused")
    assert (document["next"], document["is_cut"]) == (None, False)
    assert SECRET not in text + json.dumps(document)


def test_list_takes_filters_and_goes_on() -> None:
    for number in range(3):
        make_row(TaskStatus.READY, queue_name="mail", task=f"shop.tasks.send{number}")
    make_row(TaskStatus.READY)
    make_row(TaskStatus.FAILED, queue_name="mail")

    flags = ("--status", "ready", "--queue", "ma*", "--task", "shop.*", "--since", "1h")
    first = read("list", *flags, "--limit", "2")
    assert [line["task"][-5:] for line in first["tasks"]] == ["send2", "send1"]

    rest = read("list", *flags, "--before", first["next"])
    assert [line["task"][-5:] for line in rest["tasks"]] == ["send0"]
    assert "--before" in taskqueue("list", *flags, "--limit", "2")


def test_a_list_of_nothing_is_an_exit_code() -> None:
    assert taskqueue("list", "--queue", "nowhere", code=1) == "No task matches.\n"
    assert read("list", code=1)["tasks"] == []


def test_names_cannot_drive_the_terminal() -> None:
    make_row(TaskStatus.READY, queue_name="a\x1b[2Jb", task="c\x07\nd")

    for text in (taskqueue("list"), taskqueue("status")):
        assert "\\x1b[2J" in text
        assert "\x1b" not in text and "\x07" not in text


# --- show -----------------------------------------------------------------------------------------


def test_show_tells_everything_about_a_task() -> None:
    row = make_row(
        TaskStatus.FAILED,
        args=[1, "two"],
        kwargs={"a": None},
        attempts=2,
        max_attempts=3,
        crashes=1,
        errors=[make_error("builtins.ValueError", "no\x1b[2J such order")],
        headers={"language": "de"},
    )

    text = taskqueue("show", str(row.pk))

    for words in (
        str(row.pk),
        "tests.tasks.add",
        '[1, "two"]',
        '{"a": null}',
        "2 of 3, 1 crash(es)",
        "builtins.ValueError: no\\x1b[2J such order",
        "  Traceback (most recent call last):",
        '{"language": "de"}',
        "It has ended as FAILED",
    ):
        assert words in text
    assert "\x1b" not in text
    document = read("show", str(row.pk))
    assert (document["args"], document["crashes"]) == ([1, "two"], 1)
    assert document["errors"][0]["traceback"].startswith("Traceback")


def test_show_takes_the_beginning_of_an_id() -> None:
    make_row(TaskStatus.SUCCESSFUL, id=UUID("0199f0e5-7d2c-7a63-9d0c-3f1f6a4b5c6d"), return_value=7)
    make_row(TaskStatus.READY, id=UUID("0199f0e5-8000-7a63-9d0c-3f1f6a4b5c6d"))

    assert read("show", "0199f0e57")["return_value"] == 7
    assert "Several ids begin with 0199" in refusal("show", "0199")
    assert "no task with the id 02" in refusal("show", "02")
    assert "not an id" in refusal("show", "shop.tasks.send")


# --- workers --------------------------------------------------------------------------------------


def test_workers_are_shown_with_what_they_serve() -> None:
    make_worker(info={**INFO, "queues": ["mail"], "excluded": ["bulk"]}, host="web-1", pid=77)
    long_ago = timezone.now() - timedelta(minutes=5)
    make_worker(info=INFO, host="web-2", pid=78, last_seen_at=long_ago)

    lines = taskqueue("workers").splitlines()

    assert lines[1].split()[:6] == ["web-1", "77", "processes", "mail", "-bulk", "0"]
    assert lines[2].endswith("5 min !")
    document = read("workers")
    assert [worker["is_silent"] for worker in document["workers"]] == [False, True]
    assert document["workers"][0]["queues"] == ["mail"]


def test_no_worker_is_an_exit_code() -> None:
    assert taskqueue("workers", code=1) == "No worker runs.\n"


# --- retry ----------------------------------------------------------------------------------------


def test_retry_takes_ids_and_beginnings_of_ids() -> None:
    one = make_row(TaskStatus.FAILED)
    two = make_row(TaskStatus.EXPIRED, id=UUID("ee99f0e5-7d2c-7a63-9d0c-3f1f6a4b5c6d"))

    assert taskqueue("retry", str(one.pk), "ee99") == "2 task(s) retried.\n"
    assert {str(row.pk) for row in LiveTask.objects.all()} == {str(one.pk), str(two.pk)}


def test_retry_tells_what_it_left_and_fails() -> None:
    failed, done, gone = make_row(TaskStatus.FAILED), make_row(TaskStatus.SUCCESSFUL), str(uuid4())

    document = read("retry", str(failed.pk), str(done.pk), gone, code=1)

    assert (document["retried"], document["skipped_count"]) == (1, 2)
    assert {one["id"]: one["why"] for one in document["skipped"]} == {
        str(done.pk): "was SUCCESSFUL; only force runs it a second time",
        gone: "there is no such task",
    }
    assert "1 task(s) retried." in taskqueue("retry", str(done.pk), "--force")


def test_retry_takes_filters() -> None:
    for name in ("shop.tasks.send", "shop.tasks.pay", "other.tasks.send"):
        make_row(TaskStatus.FAILED, task=name)
    make_row(TaskStatus.CANCELLED, task="shop.tasks.send")

    flags = ("--all-failed", "--task", "shop.*")
    assert read("retry", *flags, "--dry-run") == {"would_be_retried": 2}
    assert LiveTask.objects.count() == 0
    assert read("retry", *flags)["retried"] == 2
    assert read("retry", *flags, code=1)["retried"] == 0
    assert read("retry", "--status", "cancelled")["retried"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Say what to retry"),
        (("--queue", "mail"), "Say what to retry"),
        (("0199", "--all-failed"), "either ids or filters"),
        (("0199", "--dry-run"), "--dry-run is for filters"),
        (("--all-failed", "--status", "EXPIRED"), "contradict"),
        (("--status", "SUCCESSFUL"), "--force"),
        (("--status", "READY"), "not finished"),
        (("--status", "READY", "--dry-run"), "not finished"),
    ],
)
def test_a_retry_that_makes_no_sense_is_refused(words: tuple[str, ...], message: str) -> None:
    assert message in refusal("retry", *words)


# --- cancel ---------------------------------------------------------------------------------------


def test_cancel_takes_ids() -> None:
    row, done = make_row(TaskStatus.READY), make_row(TaskStatus.SUCCESSFUL)

    text = taskqueue("cancel", str(row.pk), str(done.pk), "--reason", "Too late.", code=1)

    assert "1 task(s) cancelled." in text and "has ended already, as SUCCESSFUL" in text
    assert FinishedTask.objects.get(pk=row.pk).errors[-1]["message"] == "Too late."


def test_cancel_takes_filters() -> None:
    for name in ("mail", "bulk"):
        make_row(TaskStatus.READY, queue_name=name)
        make_row(TaskStatus.HELD, queue_name=name)

    assert read("cancel", "--queue", "mail", "--dry-run") == {"would_be_cancelled": 2}
    assert read("cancel", "--queue", "mail", "--status", "held")["cancelled"] == 1
    assert read("cancel", "--all")["cancelled"] == 3
    assert read("cancel", "--all", code=1)["cancelled"] == 0


def test_cancel_asks_running_tasks_to_end() -> None:
    row = make_row(TaskStatus.RUNNING)

    assert read("cancel", "--status", "RUNNING", "--dry-run") == {"would_be_cancelled": 1}
    document = read("cancel", str(row.pk))
    assert (document["cancelled"], document["asked"], document["skipped"]) == (0, 1, [])
    assert LiveTask.objects.get(pk=row.pk).cancel_requested_at is not None
    assert "1 running task(s) asked to end." in taskqueue("cancel", "--all")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer", ["y", "n", "Ctrl+D", "Ctrl+C"])
def test_cancel_asks_somebody_at_a_terminal(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    make_row(TaskStatus.READY)
    asked: list[str] = []

    def ask(text: str) -> str:
        asked.append(text)
        if answer.startswith("Ctrl"):
            raise EOFError if answer.endswith("D") else KeyboardInterrupt
        return answer

    monkeypatch.setattr(sys, "stdin", _Terminal())
    monkeypatch.setattr("builtins.input", ask)

    if answer == "y":
        assert "1 task(s) cancelled." in taskqueue("cancel", "--all")
    else:
        assert "Nothing was changed" in refusal("cancel", "--all")

    assert asked == ["Cancel 1 task(s)? [y/N] "]
    assert LiveTask.objects.exists() == (answer != "y")
    taskqueue("cancel", "--all", "--no-input", code=1 if answer == "y" else 0)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Say what to cancel"),
        (("0199", "--all"), "either ids or filters"),
        (("0199", "--dry-run"), "--dry-run is for filters"),
        (("--status", "FAILED"), "have finished"),
        (("--status", "FAILED", "--dry-run"), "have finished"),
    ],
)
def test_a_cancellation_that_makes_no_sense_is_refused(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(sys, "stdin", _Terminal())  # nobody is asked about what cannot be
    assert message in refusal("cancel", *words)


# --- prune ----------------------------------------------------------------------------------------


def test_prune_deletes_what_ended_long_ago() -> None:
    for days in (1, 8, 9, 10):
        make_row(TaskStatus.SUCCESSFUL, finished_at=timezone.now() - timedelta(days=days))
    make_row(TaskStatus.READY)

    assert read("prune", "--limit", "1") == {"deleted": 1}
    assert taskqueue("prune") == "2 task(s) deleted.\n"
    assert taskqueue("prune") == "0 task(s) deleted.\n"
    assert read("prune", "--older-than", "12h") == {"deleted": 1}
    assert LiveTask.objects.count() == 1


def test_prune_has_to_be_told_an_age_where_everything_is_kept(settings: Any) -> None:
    settings.DJANGO_TASKQ = {"RETENTION": None}
    make_row(TaskStatus.FAILED, finished_at=timezone.now() - timedelta(days=10))

    assert "keeps finished tasks for ever" in refusal("prune")
    assert read("prune", "--older-than", "1w") == {"deleted": 1}


# --- enqueue and run ------------------------------------------------------------------------------


def test_enqueue_puts_a_task_into_its_queue() -> None:
    id = taskqueue("enqueue", "samples.named", '"hello"', "--kwargs", '{"urgent": true}').strip()

    row = LiveTask.objects.get(pk=id)
    assert (row.args, row.kwargs, row.queue_name, row.priority) == (
        ["hello"],
        {"urgent": True},
        "mail",
        7,
    )


def test_enqueue_takes_options() -> None:
    before = timezone.now()

    document = read(
        *("enqueue", "tests.tasks.add", "1", "-5", "--queue", "bulk", "--priority", "-9"),
        *("--run-after", "2h", "--max-attempts", "4", "--expires-after", "10m"),
    )

    row = LiveTask.objects.get(pk=document["id"])
    assert (row.args, row.queue_name, row.priority, row.max_attempts) == ([1, -5], "bulk", -9, 4)
    assert timedelta(hours=1.9) < row.run_after - before < timedelta(hours=2.1)
    assert row.expires_at - row.run_after == timedelta(minutes=10)
    assert (document["task"], document["queue_name"]) == ("tests.tasks.add", "bulk")
    assert document["status"] == "READY"


def test_enqueue_takes_a_moment() -> None:
    id = taskqueue("enqueue", "tests.tasks.add", "1", "--run-after", "2030-05-01T12:00Z").strip()

    assert LiveTask.objects.get(pk=id).run_after.isoformat() == "2030-05-01T12:00:00+00:00"


@pytest.mark.parametrize("verb", ["enqueue", "run"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tests.tasks.ad", "1"), 'Did you mean "tests.tasks.add"?'),
        (("tests.tasks.add", "Ada"), """A text has quotes of its own: '"Ada"'"""),
        (("tests.tasks.add", "[1"), "argument 1 is not JSON: [1"),
        (("tests.tasks.add", "--kwargs", "[1]"), "--kwargs takes a JSON object"),
        (("tests.tasks.add",), "missing a required argument: 'a'"),
        (("tests.tasks.add", "NaN"), "is nan"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(
    verb: str, words: tuple[str, ...], message: str
) -> None:
    assert message in refusal(verb, *words)
    assert not LiveTask.objects.exists()


def test_run_runs_here_and_shows_the_value() -> None:
    assert taskqueue("run", "tests.tasks.echo", "1", "--kwargs", '{"b": "ü"}') == (
        '{"args": [1], "kwargs": {"b": "ü"}}\n'
    )
    document = read("run", "tests.tasks.add", "1", "2")
    assert (document["task"], document["return_value"], document["problem"]) == (
        "tests.tasks.add",
        3,
        None,
    )
    assert not LiveTask.objects.exists() and not FinishedTask.objects.exists()


def test_run_shows_progress_beside_the_value(capsys: pytest.CaptureFixture[str]) -> None:
    read("run", "tests.tasks.report", "1", "2", '"half"')

    assert capsys.readouterr().err == "1 of 2 half\n"


def test_run_lets_through_what_the_task_raises() -> None:
    with pytest.raises(ValueError, match="it did not work"):
        taskqueue("run", "tests.tasks.fail")


def test_run_says_what_a_worker_would_do() -> None:
    text = taskqueue("run", "tests.tasks.say", '"snooze"', "5", code=1)

    assert "raised Snooze: a worker would act on that" in text
    assert read("run", "tests.tasks.say", '"cancel"', "0", '"why not"', code=1) == {
        "task": "tests.tasks.say",
        "raised": "Cancel",
        "message": "why not",
    }


def test_run_fails_for_a_value_that_cannot_be_stored() -> None:
    assert "could not store" in taskqueue("run", "tests.tasks.unstorable", code=1)


# --- health and doctor ----------------------------------------------------------------------------


def test_health_is_an_exit_code() -> None:
    assert "No worker was heard of" in taskqueue("health", code=1)

    make_worker(info={**INFO, "queues": ["mail"]}, host="web-1")
    assert taskqueue("health", "--host", "web-1", "--queue", "mail") == "Healthy: 1 worker(s).\n"
    assert 'serves the queue "bulk"' in taskqueue(
        "health", "--queue", "mail", "--queue", "bulk", code=1
    )

    make_row(TaskStatus.READY, queue_name="mail", run_after=timezone.now() - timedelta(minutes=10))
    assert read("health", "--max-wait", "1h")["is_healthy"] is True
    document = read("health", "--max-wait", "5m", code=1)
    assert document["problems"] and document["oldest_due_seconds"] >= 600


def test_doctor_is_an_exit_code() -> None:
    make_worker(info=INFO)
    make_row(TaskStatus.HELD, held_for="unknown:tests.tasks.ad")
    doctor = ("doctor", "--watch", "0s")
    assert "warning  1 task(s) are held" in taskqueue(*doctor)
    assert "1 warning(s)." in taskqueue(*doctor, "--strict", code=1)

    make_row(TaskStatus.RUNNING)
    text = taskqueue(*doctor, code=1)
    assert text.startswith("error ") and "1 task(s) are RUNNING" in text
    first = read(*doctor, code=1)["findings"][0]
    assert (first["id"], first["severity"]) == ("orphans", "error")
    assert set(first) == {"id", "severity", "what", "where", "fix"}


# --- all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("stauts",), 'Did you mean "status"?'),
        (("list", "--quue", "mail"), 'Did you mean "--queue"?'),
        (("--json", "status"), "Write --json behind the verb"),
        (("list", "--status", "FIALED"), 'Did you mean "FAILED"?'),
        (("list", "--since", "yesterday"), "is not a time"),
        (("list", "--since", "2026-13-01"), "is not a time"),
        (("list", "--limit", "0"), "not between 1 and"),
        (("list", "--limit", "x"), "not a whole number"),
        (("list", "--before", "x"), "not the end of a page"),
        (("status", "--database", "defualt"), 'Did you mean "default"?'),
        (("health", "--max-wait", "soon"), "not a duration"),
        (("enqueue", "tests.tasks.add", "1", "--priority", "101"), "not between -100 and 100"),
    ],
)
def test_a_mistake_is_refused_with_help(words: tuple[str, ...], message: str) -> None:
    assert message in refusal(*words)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in {"enqueue", "run"}])
def test_missing_tables_are_told_in_words(verb: str) -> None:
    words = {"show": ["00"], "retry": ["--all-failed"], "cancel": ["--all"]}.get(verb, [])
    with connection.cursor() as cursor:
        for table in ("livetask", "finishedtask", "worker"):
            cursor.execute(f"ALTER TABLE django_taskq_{table} RENAME TO gone_{table}")

    if verb == "doctor":
        assert "manage.py migrate" in taskqueue(verb, code=1)
    else:
        text = refusal(verb, *words)
        assert "run manage.py migrate" in text and "LINE" not in text


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own on the tests' database."""
    server, _, options = os.environ["DATABASE_URL"].partition("?")
    name = connection.settings_dict["NAME"]
    url = f"{server.rpartition('/')[0]}/{name}" + (f"?{options}" if options else "")
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", "taskqueue", *words],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "DATABASE_URL": url,
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_exit_codes_and_streams_of_a_real_process() -> None:
    well = command("status", "--json", "-v", "0", "--no-color")
    assert (well.returncode, well.stderr) == (0, "")
    assert json.loads(well.stdout)["queues"] == []

    nothing = command("list", "--json")
    assert (nothing.returncode, nothing.stderr) == (1, "")
    assert json.loads(nothing.stdout)["tasks"] == []

    mistaken = command("list", "--quue", "mail")
    assert (mistaken.returncode, mistaken.stdout) == (2, "")
    assert 'Did you mean "--queue"?' in mistaken.stderr

    refused = command("enqueue", "tests.tasks.ad", "1")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith('CommandError: No task is registered as "tests.tasks.ad".')

    failed = command("run", "tests.tasks.fail")
    assert failed.returncode == 1 and "ValueError: it did not work" in failed.stderr

    ran = command("run", "tests.tasks.echo", '"ü"', "--json", PYTHONIOENCODING="ascii")
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["return_value"]["args"] == ["ü"]
    told = command("run", "tests.tasks.echo", '"ü"', PYTHONIOENCODING="ascii")
    assert (told.returncode, told.stdout) == (0, '{"args": ["\\xfc"], "kwargs": {}}\n')


def test_a_database_that_is_down_is_told_in_words() -> None:
    down = command("health", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")

    assert (down.returncode, down.stdout) == (1, "")
    assert down.stderr.startswith("CommandError: The database does not answer: ")
    assert down.stderr.count("\n") == 1
