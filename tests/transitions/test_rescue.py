"""give back and rescue: nothing is lost with the process that held it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from django_taskq.db import Connection
from django_taskq.serialization import error_record
from django_taskq.transitions import rescue
from tests.support import rows

CRASH = error_record(
    class_path="django_taskq.exceptions.TaskCrashed",
    message="The process died.",
    traceback_text="",
    attempt=0,
    worker="w",
)


def test_what_is_not_kept_goes_back_with_its_attempt_and_its_place(
    connection: Connection, worker_id: str
) -> None:
    kept, started = (rows.add_running(connection, worker_id, attempts=3) for _ in range(2))
    before = rows.row(connection, started.id)

    assert rescue.give_back(connection, worker_id, kept=[kept.id]) == 1

    assert rows.row(connection, kept.id)["status"] == "RUNNING"
    after = rows.row(connection, started.id)
    assert after["status"] == "READY"
    assert after["attempts"] == 2
    assert after["run_after"] == before["run_after"]
    assert after["crashes"] == 0
    assert [after[key] for key in ("claim", "worker_id", "started_at")] == [None] * 3


def test_giving_back_touches_no_other_worker(connection: Connection, worker_id: str) -> None:
    other = rows.add_running(connection, rows.add_worker(connection))

    assert rescue.give_back(connection, worker_id, kept=[]) == 0
    assert rows.row(connection, other.id)["status"] == "RUNNING"


def test_the_task_that_ran_is_blamed_and_those_before_it_are_not(
    connection: Connection, worker_id: str
) -> None:
    ended, ran = (
        rows.add_running(connection, worker_id, attempts=1, progress={"done": 1}) for _ in range(2)
    )

    assert rescue.rescue(connection, worker_id, running=[ran.id], error=CRASH) == 2

    innocent, blamed = rows.row(connection, ended.id), rows.row(connection, ran.id)
    assert [innocent["status"], blamed["status"]] == ["READY", "READY"]
    assert [innocent["attempts"], blamed["attempts"]] == [0, 0]
    assert [innocent["crashes"], blamed["crashes"]] == [0, 1]
    assert [innocent["progress"], blamed["progress"]] == [None, None]
    assert innocent["errors"] == []
    assert [record["message"] for record in blamed["errors"]] == ["The process died."]
    assert blamed["errors"][0]["started_at"] < blamed["errors"][0]["finished_at"]


def test_when_nobody_is_to_blame_all_run_again(connection: Connection, worker_id: str) -> None:
    mine = rows.add_running(connection, worker_id, crashes=2)

    assert rescue.rescue(connection, worker_id, running=[], error=CRASH) == 1

    assert rows.row(connection, mine.id)["status"] == "READY"
    assert rows.row(connection, mine.id)["crashes"] == 2


def test_the_third_crash_ends_a_task(connection: Connection, worker_id: str) -> None:
    id = rows.add(connection, max_attempts=1, headers={"language": "de"})
    seen = []
    for _ in range(3):
        connection.execute(
            "UPDATE django_taskq_livetask SET status = 'RUNNING', claim = %s, worker_id = %s, "
            "started_at = clock_timestamp(), attempts = attempts + 1 WHERE id = %s",
            [str(uuid4()), worker_id, id],
        )
        rescue.rescue(connection, worker_id, running=[id], error=CRASH)
        row = rows.row(connection, id)
        seen.append((row["status"], row["crashes"], len(row["errors"])))

    assert seen == [("READY", 1, 1), ("READY", 2, 2), ("FAILED", 3, 3)]
    assert rows.live(connection, id) is None
    assert rows.row(connection, id)["finished_at"] is not None
    assert rows.row(connection, id)["headers"] == {"language": "de"}


def test_the_third_crash_of_one_task_lets_the_others_go_on(
    connection: Connection, worker_id: str
) -> None:
    ended = rows.add_running(connection, worker_id, crashes=2)
    ran = rows.add_running(connection, worker_id, crashes=2)

    assert rescue.rescue(connection, worker_id, running=[ran.id], error=CRASH) == 2
    assert rows.statuses(connection, [ended.id, ran.id]) == ["READY", "FAILED"]


def test_a_rescue_touches_no_other_worker(connection: Connection, worker_id: str) -> None:
    other = rows.add_running(connection, rows.add_worker(connection), crashes=2)

    assert rescue.rescue(connection, worker_id, running=[other.id], error=CRASH) == 0
    assert rows.row(connection, other.id)["crashes"] == 2


@pytest.mark.parametrize("crashes", [0, 2])
def test_of_many_errors_the_first_and_the_last_19_are_kept(
    connection: Connection, worker_id: str, crashes: int
) -> None:
    before = [{"message": f"error {n}"} for n in range(20)]
    mine = rows.add_running(connection, worker_id, crashes=crashes, errors=before)

    rescue.rescue(connection, worker_id, running=[mine.id], error=CRASH)

    messages = [record["message"] for record in rows.row(connection, mine.id)["errors"]]
    assert messages == ["error 0", *(f"error {n}" for n in range(2, 20)), "The process died."]


def test_an_overdue_task_is_read_with_what_its_failure_needs(
    connection: Connection, worker_id: str
) -> None:
    options: dict[str, Any] = {"timeout": 1.5}
    mine = rows.add_running(
        connection, worker_id, attempts=2, max_attempts=3, options=options, started_at=rows.ago(100)
    )

    found = rescue.read_running(connection, worker_id, mine.id)

    assert found is not None
    assert (found.id, found.task, found.claim) == (mine.id, "shop.tasks.send", mine.claim)
    assert found.queue_name == "default"
    assert (found.attempts, found.max_attempts) == (2, 3)
    assert found.options == '{"timeout": 1.5}'
    assert found.ended - found.began == pytest.approx(100, abs=20)


def test_an_overdue_task_that_another_process_runs_is_not_read(
    connection: Connection, worker_id: str
) -> None:
    others = rows.add_running(connection, rows.add_worker(connection))

    assert rescue.read_running(connection, worker_id, others.id) is None


def once(names: list[str], *, running: list[str]) -> rescue.Once:
    return rescue.Once(
        names=names,
        running=running,
        error=CRASH,
        unsent=CRASH.replace("The process died.", "It was done."),
    )


def test_what_is_started_at_most_once_ends_with_its_process(
    connection: Connection, worker_id: str
) -> None:
    ran, killed, done = (
        rows.add_running(connection, worker_id, task="shop.pay", kwargs={"a": 1}) for _ in range(3)
    )
    other = rows.add_running(connection, worker_id, task="shop.tasks.send")
    elsewhere = rows.add_running(connection, rows.add_worker(connection), task="shop.pay")

    moved = rescue.rescue(
        connection,
        worker_id,
        running=[ran.id],
        error=CRASH,
        once=once(["shop.pay", 'odd "name"'], running=[ran.id, killed.id]),
    )

    assert moved == 4
    stored = [rows.row(connection, mine.id) for mine in (ran, killed, done)]
    assert {row["status"] for row in stored} == {"FAILED"}
    assert [row["crashes"] for row in stored] == [1, 0, 0]
    assert [row["attempts"] for row in stored] == [1, 1, 1]
    assert [row["errors"][-1]["message"] for row in stored] == [
        "The process died.",
        "The process died.",
        "It was done.",
    ]
    assert (stored[0]["claim"], stored[0]["kwargs"]) == (ran.claim, {"a": 1})
    assert rows.row(connection, other.id)["status"] == "READY"
    assert rows.row(connection, elsewhere.id)["status"] == "RUNNING"


def test_what_had_not_started_is_given_back_before_anything_ends(
    connection: Connection, worker_id: str
) -> None:
    started, waiting = (rows.add_running(connection, worker_id, task="shop.pay") for _ in range(2))

    rescue.give_back(connection, worker_id, kept=[started.id])
    rescue.rescue(
        connection, worker_id, running=[], error=CRASH, once=once(["shop.pay"], running=[])
    )

    assert rows.row(connection, started.id)["status"] == "FAILED"
    assert rows.row(connection, waiting.id)["status"] == "READY"


def lose(connection: Connection, worker_id: str) -> None:
    connection.execute("DELETE FROM django_taskq_worker WHERE id = %s", [worker_id])


def sweep(
    connection: Connection, worker_id: str, *, known: list[str] | None = None
) -> rescue.Swept:
    names = ["shop.tasks.send", "shop.pay", 'odd "name"'] if known is None else known
    return rescue.sweep(
        connection,
        worker_id,
        known=names,
        once=[name for name in names if name == "shop.pay"],
        error=CRASH,
        once_error=CRASH.replace("The process died.", "Not again."),
    )


def test_tasks_of_processes_that_are_not_listed_are_found(
    connection: Connection, worker_id: str
) -> None:
    lost = [rows.add_worker(connection) for _ in range(2)]
    for id in (worker_id, *lost, *lost):
        rows.add_running(connection, id)
    rows.add(connection)
    assert rescue.find_orphaned(connection) == []

    for id in lost:
        lose(connection, id)

    assert rescue.find_orphaned(connection) == sorted(lost)


def test_all_that_a_lost_process_held_runs_again_and_counts_as_crashed(
    connection: Connection, worker_id: str
) -> None:
    lost = rows.add_worker(connection)
    first, again = (
        rows.add_running(connection, lost, attempts=n, crashes=n - 1, progress={"done": 1})
        for n in (1, 2)
    )
    other = rows.add_running(connection, worker_id)
    before = rows.row(connection, first.id)
    lose(connection, lost)

    swept = sweep(connection, lost)

    assert (sorted(swept.rescued), swept.failed) == (sorted([first.id, again.id]), [])
    found = [rows.row(connection, mine.id) for mine in (first, again)]
    assert [row["status"] for row in found] == ["READY", "READY"]
    assert [(row["attempts"], row["crashes"]) for row in found] == [(0, 1), (1, 2)]
    assert [row["progress"] for row in found] == [None, None]
    assert found[0]["run_after"] == before["run_after"]
    assert [row["errors"][-1]["message"] for row in found] == ["The process died."] * 2
    assert found[0]["errors"][0]["started_at"] < found[0]["errors"][0]["finished_at"]
    assert rows.row(connection, other.id)["status"] == "RUNNING"
    assert sweep(connection, lost) == ([], [])


def test_the_third_loss_ends_a_task(connection: Connection) -> None:
    lost = rows.add_worker(connection)
    mine = rows.add_running(connection, lost, crashes=2, attempts=2, headers={"language": "de"})
    lose(connection, lost)

    assert sweep(connection, lost) == ([], [mine.id])

    row = rows.row(connection, mine.id)
    assert (row["status"], row["crashes"], row["attempts"]) == ("FAILED", 3, 1)
    assert (row["claim"], row["headers"]) == (mine.claim, {"language": "de"})
    assert row["errors"][-1]["exception_class_path"].endswith("TaskCrashed")


def test_what_is_started_at_most_once_ends_with_the_host(connection: Connection) -> None:
    lost = rows.add_worker(connection)
    mine = rows.add_running(connection, lost, task="shop.pay", kwargs={"a": 1})
    lose(connection, lost)

    assert sweep(connection, lost) == ([], [mine.id])

    row = rows.row(connection, mine.id)
    assert (row["status"], row["crashes"], row["attempts"]) == ("FAILED", 1, 1)
    assert row["errors"][-1]["message"] == "Not again."


def test_a_name_that_is_not_known_here_is_left_to_whoever_knows_it(
    connection: Connection,
) -> None:
    lost = rows.add_worker(connection)
    mine = rows.add_running(connection, lost, task="shop.pay", crashes=2)
    lose(connection, lost)

    assert sweep(connection, lost, known=["shop.tasks.send"]) == ([], [])
    assert rows.row(connection, mine.id)["status"] == "RUNNING"
    assert rescue.find_orphaned(connection) == [lost]
    assert sweep(connection, lost).failed == [mine.id]


def test_a_process_that_is_listed_is_not_swept(connection: Connection, worker_id: str) -> None:
    mine = [rows.add_running(connection, worker_id, crashes=n) for n in (0, 2)]

    assert sweep(connection, worker_id) == ([], [])
    assert rows.statuses(connection, [one.id for one in mine]) == ["RUNNING", "RUNNING"]


@pytest.mark.parametrize(
    ("task", "crashes", "place"),
    [
        ("shop.tasks.send", 1, "rescued"),
        ("shop.tasks.send", 2, "failed"),
        ("shop.pay", 0, "failed"),
    ],
    ids=["rescued", "crashed", "at-most-once"],
)
def test_a_sweep_takes_a_thousand_at_once_and_says_that_there_may_be_more(
    connection: Connection, task: str, crashes: int, place: str
) -> None:
    lost = rows.add_worker(connection)
    connection.execute(
        "INSERT INTO django_taskq_livetask "
        "(task, crashes, status, claim, worker_id, started_at, attempts) "
        "SELECT %s, %s, 'RUNNING', gen_random_uuid(), %s, clock_timestamp(), 1 "
        "FROM generate_series(1, 1001)",
        [task, crashes, lost],
    )
    lose(connection, lost)

    first, second = sweep(connection, lost), sweep(connection, lost)

    assert [len(getattr(swept, place)) for swept in (first, second)] == [1000, 1]
    assert [sum(map(len, swept)) for swept in (first, second)] == [1000, 1]
    assert [swept.may_be_more for swept in (first, second)] == [True, False]
    assert not set(getattr(first, place)) & set(getattr(second, place))


def test_a_row_whose_id_has_ended_before_does_not_stop_the_sweep(connection: Connection) -> None:
    lost = rows.add_worker(connection)
    both = rows.add_running(connection, lost, crashes=2)
    rows.insert(connection, rows.DONE, id=both.id, status="SUCCESSFUL", claim=both.claim)
    other = rows.add_running(connection, lost, crashes=2)
    lose(connection, lost)

    assert sweep(connection, lost).failed == [other.id]
    assert rows.row(connection, both.id)["status"] == "SUCCESSFUL"


def test_a_task_whose_id_has_finished_before_ends_all_the_same(
    connection: Connection, worker_id: str
) -> None:
    # Its id was sent twice, or came back from a backup. Nobody would ever settle the others.
    condemned = rows.add_running(connection, worker_id, crashes=2)
    once_only = rows.add_running(connection, worker_id, task="shop.pay")
    other = rows.add_running(connection, worker_id)
    for mine in (condemned, once_only):
        rows.insert(connection, rows.DONE, id=mine.id, status="SUCCESSFUL", return_value="1")

    rescue.rescue(
        connection,
        worker_id,
        running=[condemned.id],
        error=CRASH,
        once=once(["shop.pay"], running=[once_only.id]),
    )

    for mine in (condemned, once_only):
        row = rows.row(connection, mine.id)
        assert (row["status"], row["claim"], row["return_value"]) == ("FAILED", mine.claim, None)
    assert rows.row(connection, condemned.id)["crashes"] == 3
    assert rows.row(connection, other.id)["status"] == "READY"
