"""What PostgreSQL does with our statements, where the protocol stands on it."""

from __future__ import annotations

import ast
import re
import threading
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from django.db import connection as django_connection

import django_taskq
from django_taskq import db, results
from django_taskq.db import Connection
from django_taskq.outcomes import Completed, Retrying
from django_taskq.transitions import claim, finish, operate, rescue
from django_taskq.worker import store
from tests.races.test_races import DEFAULT, complete, take
from tests.support import rows

PACKAGE = Path(django_taskq.__file__).parent


# --- reading a task that moves -------------------------------------------------------------------


def test_a_task_that_moves_between_the_tables_is_always_found_exactly_once(
    one: Connection, other: Connection, worker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operate, "user_cursor", lambda alias: one.cursor())
    id = rows.add(one)
    is_over = threading.Event()

    def move_about() -> None:
        while not is_over.is_set():
            (mine,) = take(one, worker_id)
            complete(one, mine)
            assert operate.requeue("default", [id], statuses=["SUCCESSFUL"]) == {id}

    mover = threading.Thread(target=move_about)
    mover.start()
    try:
        seen: Counter[str] = Counter()
        while sum(seen.values()) < 3000 or len(seen) < 3:
            found = other.execute(results.READ, {"id": id}).fetchall()
            assert len(found) == 1
            seen[found[0][1]] += 1
    finally:
        is_over.set()
        mover.join()
    assert set(seen) == {"READY", "RUNNING", "SUCCESSFUL"}


# --- a finish and the claim behind it ------------------------------------------------------------


def test_a_finish_and_the_claim_behind_it_are_one_transaction(
    one: Connection, other: Connection, worker_id: str
) -> None:
    mine, waiting = rows.add_running(one, worker_id), rows.add(one)
    with one.pipeline():
        finish.complete(one, [Completed(*mine, "1", 0.0, 0.0)])
        claim.claim(
            one,
            worker_id=worker_id,
            token=mine.claim,
            lanes=DEFAULT,
            floors=["-infinity"],
            limit=1,
        )
    xids = other.execute(
        "SELECT xmin::text FROM django_taskq_finishedtask WHERE id = %(done)s "
        "UNION ALL SELECT xmin::text FROM django_taskq_livetask WHERE id = %(live)s",
        {"done": mine.id, "live": waiting},
    ).fetchall()
    assert len(xids) == 2
    assert len(set(xids)) == 1


def test_a_claim_that_fails_undoes_the_finish_which_is_sent_again_alone(
    one: Connection, worker_id: str
) -> None:
    mine, waiting = rows.add_running(one, worker_id), rows.add(one)
    outcome = Completed(*mine, "1", 0.0, 0.0)
    with pytest.raises(psycopg.DataError), one.pipeline():
        store.send(one, [outcome])
        claim.claim(
            one, worker_id=worker_id, token="nonsense", lanes=DEFAULT, floors=["-infinity"], limit=1
        )
    assert one.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert rows.statuses(one, [mine.id, waiting]) == ["RUNNING", "READY"]
    assert store.store(one, [outcome], worker_id) == 1
    assert rows.statuses(one, [mine.id, waiting]) == ["SUCCESSFUL", "READY"]


def test_a_finish_that_fails_undoes_the_claim_behind_it(one: Connection, worker_id: str) -> None:
    mine, waiting = rows.add_running(one, worker_id), rows.add(one)
    with pytest.raises(psycopg.DataError), one.pipeline():
        finish.retry(one, [Retrying(*mine, "no json", 1.0, 0.0, 0.0)])
        claim.claim(
            one, worker_id=worker_id, token=mine.claim, lanes=DEFAULT, floors=["-infinity"], limit=1
        )
    assert rows.statuses(one, [mine.id, waiting]) == ["RUNNING", "READY"]


def test_a_claim_whose_answer_was_lost_and_that_commits_late_is_found_by_a_later_look(
    one: Connection, other: Connection, worker_id: str
) -> None:
    ids = [rows.add(one) for _ in range(3)]
    with one.transaction():  # the server's side of the lost connection has not ended yet
        take(one, worker_id)
        assert rescue.give_back(other, worker_id, kept=[]) == 0, "one look would not be enough"
    assert rescue.give_back(other, worker_id, kept=[]) == 3
    assert rows.statuses(other, ids) == ["READY"] * 3


# --- our connections -----------------------------------------------------------------------------


def test_what_the_server_gives_by_default_does_not_reach_our_connections(one: Connection) -> None:
    name = one.info.dbname
    theirs = {
        "default_transaction_isolation": "serializable",
        "lock_timeout": "0",
        "statement_timeout": "0",
    }
    for setting, value in theirs.items():
        one.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")  # type: ignore[arg-type]
    try:
        with psycopg.connect(**django_connection.get_connection_params()) as plain:
            assert plain.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
        with db.worker_connection("default", name="fresh") as fresh:
            ours = [
                fresh.execute(f"SHOW {setting}").fetchone()  # type: ignore[arg-type]
                for setting in ("transaction_isolation", "lock_timeout", "statement_timeout")
            ]
            assert ours == [("read committed",), ("1s",), ("30s",)]
    finally:
        one.execute(f"ALTER DATABASE {name} RESET ALL")  # type: ignore[arg-type]


# --- what SQL may not say ------------------------------------------------------------------------


def sql_texts() -> list[tuple[str, str]]:
    """Return every text of the package that is a statement, with the file it stands in."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        if "migrations" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
                if re.search(r"\b(SELECT|UPDATE|INSERT INTO|DELETE FROM)\b", text):
                    found.append((str(path.relative_to(PACKAGE)), text))
    assert len(found) > 50
    return found


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (
            r"\bnow\(\)|\bCURRENT_TIMESTAMP\b|\btransaction_timestamp\b",
            "is the time at which the caller's transaction began",
        ),
        (r"\bMERGE INTO\b", "returns rows from PostgreSQL 17 on"),
        (r"\bRETURNING (old|new)\.", "is of PostgreSQL 18"),
        (r"\buuidv7\(\)", "is of PostgreSQL 18"),
    ],
)
def test_no_statement_says_what_does_not_hold(pattern: str, why: str) -> None:
    found = [(file, text) for file, text in sql_texts() if re.search(pattern, text)]
    assert not found, why


def test_no_pipeline_is_synchronised_in_the_middle() -> None:
    # It would wait for the answers: a second round trip, and a second commit.
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Attribute) and node.attr == "sync"), path
