"""What PostgreSQL refuses of a child, an outcome or a claim, holds up nothing else of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest

from django_taskq.db import Connection
from django_taskq.worker import feeder, store
from tests.races.feeding import Child, child
from tests.support import rows
from tests.support.waiting import until

# So many tasks are claimed at a time, and their outcomes are sent together.
TOGETHER = 4


# How long each takes on average, as far as a child knows: four fill the 50 ms of its prefetch.
RUN_TIME = 0.012


def send_the_first_together(running: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a child send the outcomes of the first tasks that it has claimed all at once."""
    hand = running.feeder.hand
    collect, were_sent = hand.collect, False

    def collect_together() -> None:
        nonlocal were_sent
        if hand.rows and not were_sent:
            until(lambda: len(running.outbox) >= TOGETHER, "all that were claimed have ended")
            were_sent = True
        collect()

    monkeypatch.setattr(hand, "collect", collect_together)


@pytest.mark.parametrize(
    "kind, status, errors",
    [
        ("complete", "SUCCESSFUL", []),
        ("fail", "FAILED", ["ValueError"]),
        # No statement cancels a task over a finished row: that is too rare.
        ("cancel", "FAILED", ["django_taskq.exceptions.UnstorableResult"]),
    ],
)
def test_a_task_whose_id_has_finished_before_ends_alone_and_those_behind_it_run(
    one: Connection,
    worker_id: str,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    status: str,
    errors: list[str],
) -> None:
    # A queue that is named is claimed from in the same trip as outcomes are sent.
    with child(worker_id, queues=("*",)) as running:
        running.feeder.hand.run_time = RUN_TIME
        send_the_first_together(running, monkeypatch)
        bad = rows.insert(one, rows.DONE, task=kind, status="SUCCESSFUL", return_value="0")
        with one.transaction():
            first, last = (rows.add(one, task="complete", run_after=rows.ago(s)) for s in (90, 70))
            neighbour = rows.add(one, task="retry", run_after=rows.ago(70))
            rows.add(one, id=bad, task=kind, run_after=rows.ago(80))
            behind = [rows.add(one, task="complete") for _ in range(3 * TOGETHER)]
        good = [first, last, neighbour, *behind]
        with mock.patch.object(store, "store", wraps=store.store) as store_alone:
            running.wake()
            until(
                lambda: rows.statuses_now(one, good) == ["SUCCESSFUL"] * len(good),
                "all others have ended",
            )
        until(lambda: rows.live(one, bad) is None, "it has ended")

    refused = {outcome.id for outcome in store_alone.call_args_list[0].args[1]}
    assert refused == {first, last, neighbour, bad}, "they were not sent together"
    assert running.starts == dict.fromkeys([bad, *good], 1) | {neighbour: 2}
    # The claim that went with the refused outcomes has taken no attempt.
    assert [rows.row(one, id)["attempts"] for id in (first, last, *behind)] == [1] * 14
    ended = rows.row(one, bad)
    assert (ended["status"], ended["worker_id"], ended["attempts"]) == (status, worker_id, 1)
    assert ended["return_value"] == (1 if kind == "complete" else None)
    assert [error["exception_class_path"] for error in ended["errors"]] == errors


@contextmanager
def refused_claims(one: Connection) -> Iterator[None]:
    """Let PostgreSQL refuse every claim."""
    one.execute(
        "ALTER TABLE django_taskq_livetask "
        "ADD CONSTRAINT nothing_runs CHECK (status <> 'RUNNING') NOT VALID"
    )
    try:
        yield
    finally:
        one.execute("ALTER TABLE django_taskq_livetask DROP CONSTRAINT nothing_runs")


@pytest.mark.parametrize("queues", [(), ("*",)], ids=["woken", "along-lanes"])
def test_a_claim_that_fails_by_itself_is_tried_again_and_loses_nothing(
    one: Connection,
    worker_id: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    queues: tuple[str, ...],
) -> None:
    monkeypatch.setattr(feeder, "_PAUSE_LAST", 0.02)

    def has_failed(times: int) -> bool:
        return caplog.text.count("A claim failed and is tried again") >= times

    with child(worker_id, queues=queues) as running:
        running.feeder.hand.run_time = RUN_TIME
        # It may start so many and no more: a claim that has failed must not count.
        running.memory.budget.create(TOGETHER)
        with refused_claims(one):
            ids = [rows.add(one, task="complete") for _ in range(TOGETHER)]
            running.wake()
            until(lambda: has_failed(3), "it has failed")
            assert rows.statuses(one, ids) == ["READY"] * len(ids)
        until(lambda: rows.statuses_now(one, ids) == ["SUCCESSFUL"] * len(ids), "all have ended")
    assert running.starts == dict.fromkeys(ids, 1)
    assert [rows.row(one, id)["attempts"] for id in ids] == [1] * len(ids)
    assert running.memory.budget.left == 0
