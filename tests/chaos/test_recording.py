"""Triggers and ledger note what happens, in one order; what was rolled back is not there."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest

from tests.chaos import recording
from tests.chaos.evidence import Death
from tests.chaos.rig import Rig


@pytest.fixture
def direct(rig: Rig) -> Any:
    with psycopg.connect(rig.url, autocommit=True) as connection:
        yield connection


def test_a_task_that_is_enqueued_claimed_and_completed_leaves_three_changes(
    rig: Rig, direct: psycopg.Connection[Any]
) -> None:
    claim, worker = str(uuid.uuid4()), str(uuid.uuid4())
    id = direct.execute(
        "INSERT INTO django_taskq_livetask (task) VALUES ('x') RETURNING id::text"
    ).fetchall()[0][0]
    direct.execute("SELECT set_config('chaos.actor', %s, false)", [f"child:{worker}"])
    direct.execute(
        "UPDATE django_taskq_livetask SET status = 'RUNNING', claim = %s, worker_id = %s, "
        "started_at = clock_timestamp()",
        [claim, worker],
    )
    direct.execute("UPDATE django_taskq_livetask SET progress = '{}'")
    direct.execute(recording.NOTE, [id, 1, claim, worker, 1, "start"])
    direct.execute(
        "WITH gone AS (DELETE FROM django_taskq_livetask RETURNING *) "
        "INSERT INTO django_taskq_finishedtask (id, task, status, claim, worker_id, return_value) "
        "SELECT id, task, 'SUCCESSFUL', claim, worker_id, %s FROM gone",
        [f'{{"claim": "{claim}"}}'],
    )
    evidence = recording.read(direct)
    assert [(c.old, c.new, c.claim, c.worker, c.writer) for c in evidence.changes] == [
        (None, "READY", None, None, ""),
        ("READY", "RUNNING", claim, worker, f"child:{worker}"),
        ("RUNNING", "SUCCESSFUL", claim, worker, f"child:{worker}"),
    ]
    (note,) = evidence.notes
    assert evidence.changes[1].seq < note.seq < evidence.changes[2].seq
    assert evidence.finished[id].said == claim


def test_a_row_that_is_deleted_or_overwritten_is_a_change_that_no_arrow_allows(
    rig: Rig, direct: psycopg.Connection[Any]
) -> None:
    direct.execute("INSERT INTO django_taskq_livetask (task) VALUES ('x')")
    direct.execute("DELETE FROM django_taskq_livetask")
    direct.execute("INSERT INTO django_taskq_finishedtask (task, status) VALUES ('y', 'FAILED')")
    direct.execute("UPDATE django_taskq_finishedtask SET return_value = '1'")
    changes = recording.read(direct).changes
    assert [(c.old, c.new) for c in changes] == [
        (None, "READY"),
        ("READY", None),
        (None, "FAILED"),
        ("FAILED", "FAILED"),
    ]


def test_what_was_rolled_back_is_not_in_the_history(
    rig: Rig, direct: psycopg.Connection[Any]
) -> None:
    with direct.transaction(force_rollback=True):
        direct.execute("INSERT INTO django_taskq_livetask (task) VALUES ('x')")
    assert recording.read(direct).changes == []


def test_the_death_of_a_worker_is_that_of_all_its_processes(rig: Rig) -> None:
    first, second, other = (str(uuid.uuid4()) for _ in range(3))
    rig.say("birth", actor=first, worker="w1")
    rig.say("birth", actor=second, worker="w1")
    rig.say("birth", actor=other, worker="w2")
    rig.say("stop", worker="w2")
    rig.say("death", worker="w1")
    rig.say("cont", worker="w2")
    evidence = rig.evidence()
    assert evidence.deaths.keys() == {first, second}
    assert all(death.of_a_tree for death in evidence.deaths.values())
    ((pause,),) = evidence.pauses.values()
    assert pause.until is not None and pause.since < pause.until


def test_a_lost_worker_s_tasks_are_late_from_when_another_is_there_to_see_it(rig: Rig) -> None:
    rig.say("watch", worker="lost")
    rig.say("death", worker="lost")
    rig.say("watch", worker="gone before it has noticed")
    rig.say("death", worker="gone before it has noticed")
    rig.say("watch", worker="suspended")
    rig.say("stop", worker="suspended")
    rig.say("watch", worker="there")
    rig.say("watch", worker="there too")
    rig.say("cont", worker="suspended")
    evidence = rig.evidence()
    assert len(evidence.watches) == 6
    moments = dict(rig.sql("SELECT seq, extract(epoch FROM at)::float8 FROM chaos_event"))
    death = Death(0, moments[min(moments) + 1])
    there = moments[min(moments) + 6]
    assert evidence.seen_at(death, there + 10) == there
    assert evidence.seen_at(Death(0, there + 5), there + 10) == there + 5
    assert evidence.seen_at(death, death.at) == death.at
    assert evidence.seen_at(death, death.at - 100) is None
