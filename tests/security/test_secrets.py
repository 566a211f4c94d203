"""What a secret argument holds: canaries go in, and are looked for wherever something comes out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from django.core.management import call_command

from django_taskq.models import FinishedTask
from tests import tasks
from tests.processes.conftest import Starter, database, database_url, start, use_database
from tests.processes.support import sql, wait_until

__all__ = ["database", "database_url", "start", "use_database"]

CANARY = "c4nary-s3cret-0xfeed"
WAYS = ["message", "key", "cause", "context", "note", "group", "cancel", "retry", "unstorable"]

PROJECT = """
from tests.processes.settings import *

INSTALLED_APPS = [*INSTALLED_APPS, "tests"]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"file": {"class": "logging.FileHandler", "filename": "all.log"}},
    "root": {"handlers": ["file"], "level": "DEBUG"},
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["processes", "asyncio"])
def test_no_canary_gets_out_of_a_worker(
    start: Starter, tmp_path: Path, capsys: pytest.CaptureFixture[str], pool: str
) -> None:
    (tmp_path / "talkative.py").write_text(PROJECT)
    worker = start("-v", "2", children=1, settings="talkative", pool=pool)
    made = [tasks.pay.enqueue(CANARY, card_number=CANARY, how=way) for way in WAYS]
    held = sql(
        "INSERT INTO django_taskq_livetask (task, args) VALUES ('gone.task', %s) RETURNING id",
        json.dumps([CANARY]),
    )
    ids = [result.id for result in made]
    wait_until(lambda: FinishedTask.objects.filter(id__in=ids).count() >= len(ids) - 1)
    worker.stop()

    logged = worker.output + (tmp_path / "all.log").read_text()
    assert "tests.tasks.pay" in logged and CANARY not in logged
    # The row holds the arguments for the task; nothing else of it does.
    for table in ("django_taskq_livetask", "django_taskq_finishedtask"):
        kept = sql(f"SELECT errors::text, progress::text, headers::text FROM {table}")
        assert CANARY not in str(kept)
    for id in [*ids, str(held[0][0])]:
        for words in (["show", id], ["show", id, "--json"], ["list"], ["list", "--json"]):
            call_command("taskqueue", *words)
            assert CANARY not in capsys.readouterr().out
    for result in made:
        result.refresh()
        assert CANARY not in repr(result)
        assert CANARY not in "".join(error.message + error.traceback for error in result.errors)
