"""Workers, operators and death in any order: the rows say at each step what the model says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from django_taskq import db
from django_taskq.ids import new_id
from django_taskq.outcomes import (
    Cancelled,
    CancelledUnstarted,
    Completed,
    Expired,
    Failed,
    Parked,
    Retrying,
    Snoozed,
    Unanswered,
)
from django_taskq.transitions import (
    atomic,
    claim,
    expire,
    finish,
    operate,
    presence,
    prune,
    rescue,
    travel,
)
from django_taskq.transitions.claim import Lane
from django_taskq.worker.aftermath import Aftermath, Death
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.record import Holdings
from tests.races.model import SUSPECT, Task
from tests.support import rows

ERROR = '{"exception_class_path": "ValueError", "message": "no", "traceback": ""}'
NAME = "shop.tasks.send"
HALF_AN_HOUR, AN_HOUR = 1800.0, timedelta(hours=1)
# What a worker may say of a task that it runs, or believes to run.
OUTCOMES = [
    "complete",
    "complete_anyway",
    "fail",
    "fail_anyway",
    "cancel",
    "cancel_unstarted",
    "expire",
    "retry",
    "retry_later",
    "snooze",
    "park",
    "run_again",
]
WORKERS = st.integers(0, 2)

READ = """
SELECT id::text, status, attempts, crashes, jsonb_array_length(errors), claim::text,
  worker_id::text, cancel_requested_at IS NOT NULL, run_after > clock_timestamp()
FROM django_taskq_livetask
UNION ALL
SELECT id::text, status, attempts, crashes, jsonb_array_length(errors), claim::text,
  worker_id::text, NULL, NULL
FROM django_taskq_finishedtask
"""


class Protocol(RuleBasedStateMachine):
    """Three workers with a connection each, and people who have one of their own."""

    connections: ClassVar[list[db.Connection]]

    def __init__(self) -> None:
        super().__init__()
        self.tasks: dict[str, Task] = {}
        # Every claim that there ever was: a worker may wake up late and believe in it.
        self.claims: list[tuple[str, str]] = []

    @initialize()
    def begin(self) -> None:
        for table in ("livetask", "finishedtask", "worker"):
            self.connections[0].execute(f"DELETE FROM django_taskq_{table}")
        self.workers = [rows.add_worker(connection) for connection in self.connections]
        self.enqueue(3, later=False, crashes=0, expires="never")

    # --- what users do ---------------------------------------------------------------------------

    @precondition(lambda self: len(self.tasks) < 6)  # few, so that they meet again and again
    @rule(
        count=st.integers(1, 3),
        later=st.booleans(),
        crashes=st.sampled_from([0, 0, 0, 2]),
        expires=st.sampled_from(["never", "never", "later"]),
    )
    def enqueue(self, count: int, later: bool, crashes: int, expires: str) -> None:
        for _ in range(count):
            columns: dict[str, Any] = {"id": new_id(), "crashes": crashes}
            if later:
                columns["run_after"] = rows.ago(-HALF_AN_HOUR)
            if expires == "later":
                columns["expires_at"] = rows.ago(-HALF_AN_HOUR)
            rows.add(self.connections[0], **columns)
            self.tasks[columns["id"]] = Task(is_later=later, expires=expires, crashes=crashes)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), how=st.sampled_from(["one", "many"]))
    def cancel(self, data: st.DataObject, how: str) -> None:
        id = data.draw(st.sampled_from(sorted(self.tasks)))
        task = self.tasks[id]
        waits = task.status in ("READY", "HELD")
        if how == "one":
            assert operate.cancel_waiting("default", id, error=ERROR) == waits
            assert operate.request_cancel("default", id) == (task.status == "RUNNING")
        else:
            gone = operate.cancel_many("default", [id], error=ERROR)
            assert gone == ({id} if waits else set())
            asked = operate.request_cancel_many("default", [id])
            assert asked == ({id} if task.status == "RUNNING" else set())
        if waits:
            self._set(id, task.failed_once().ended("CANCELLED"))
        elif task.status == "RUNNING":
            self._set(id, task, asked_to_end=True)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), statuses=st.sampled_from([["FAILED", "CANCELLED"], ["SUCCESSFUL"]]))
    def requeue(self, data: st.DataObject, statuses: list[str]) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.tasks)), unique=True, max_size=4))
        moved = {id for id in ids if self.tasks[id].status in statuses}
        assert operate.requeue("default", ids, statuses=statuses) == moved
        for id in moved:
            task = self.tasks[id]
            self.tasks[id] = Task(errors=task.errors, is_later=task.is_later)

    @rule()
    def let_an_hour_pass(self) -> None:
        travel.move_times(self.connections[0], -AN_HOUR)
        for id, task in self.tasks.items():
            if task.status in ("READY", "HELD"):
                over = "over" if task.expires == "later" else task.expires
                self._set(id, task, is_later=False, expires=over)

    @precondition(lambda self: any(not _is_live(task) for task in self.tasks.values()))
    @rule()
    def delete_what_has_ended(self) -> None:
        ended = [id for id, task in self.tasks.items() if not _is_live(task)]
        pruned = prune.prune_batch(self.connections[0], age=0.0)
        assert pruned.rows == len(ended)
        for id in ended:
            del self.tasks[id]

    # --- what workers do -------------------------------------------------------------------------

    @rule(who=WORKERS, limit=st.integers(1, 4), woken=st.booleans())
    def claim(self, who: int, limit: int, woken: bool) -> None:
        lanes = [] if woken else [Lane("default", 0)]
        token = str(uuid4())
        if woken:
            cursor = claim.claim_woken(
                self.connections[who], worker_id=self.workers[who], token=token, limit=limit
            )
        else:
            cursor = claim.claim(
                self.connections[who],
                worker_id=self.workers[who],
                token=token,
                lanes=lanes,
                floors=["-infinity"],
                limit=limit,
            )
        taken, _ = claim.claimed_rows(cursor, token, lanes)
        free = [id for id, t in self.tasks.items() if t.is_claimable and t.crashes < SUSPECT]
        assert len(taken) == min(limit, len(free))
        assert {row.id for row in taken} <= set(free)
        self._note_claims(who, token, taken)

    @rule(who=WORKERS)
    def claim_a_suspect(self, who: int) -> None:
        token = str(uuid4())
        taken = claim.claim_suspect(
            self.connections[who], worker_id=self.workers[who], token=token, queues=["default"]
        )
        free = [id for id, t in self.tasks.items() if t.is_claimable and t.crashes >= SUSPECT]
        assert len(taken) == min(1, len(free))
        self._note_claims(who, token, taken)

    @precondition(lambda self: self.tasks)
    @rule(who=WORKERS, data=st.data())
    def claim_one(self, who: int, data: st.DataObject) -> None:
        id, token = data.draw(st.sampled_from(sorted(self.tasks))), str(uuid4())
        row = claim.claim_one(
            self.connections[who], worker_id=self.workers[who], token=token, task_id=id
        )
        assert (row is not None) == (self.tasks[id].status == "READY")
        self._note_claims(who, token, [] if row is None else [row])

    def _finish(self, who: int, data: st.DataObject, outcome: str) -> None:
        """Say what tasks came to: by whom they run, or by whom they did once."""
        present = [pair for pair in self.claims if self._is_ours(*pair)]
        among = data.draw(st.sampled_from([present or self.claims, self._late or self.claims]))
        most = 1 if outcome.endswith("_anyway") else 4
        pairs = data.draw(st.lists(st.sampled_from(among), min_size=1, max_size=most, unique=True))
        ours = [pair for pair in pairs if self._is_ours(*pair)]
        cursor = _send(self.connections[who], outcome, pairs)
        assert cursor.rowcount == len(ours)
        for id, _ in ours:
            self._set(id, self.tasks[id].after(outcome))

    @precondition(lambda self: self.claims)
    @rule(who=WORKERS, data=st.data())
    def look_what_became_of_it(self, who: int, data: st.DataObject) -> None:
        id, token = data.draw(st.sampled_from(self.claims))
        task = self.tasks.get(id)
        has_ended = task is not None and not _is_live(task) and task.claim == token
        assert finish.confirm(self.connections[who], [(id, token)]) == (
            {id} if has_ended else set()
        )
        is_ours = self._is_ours(id, token)
        asked = is_ours and self.tasks[id].asked_to_end
        assert atomic.still_mine(self.connections[who], id=id, claim=token) == (is_ours, asked)
        reported = finish.report_progress(self.connections[who], [(id, token, '{"done": 1}')])
        assert reported.rowcount == is_ours

    @precondition(lambda self: any(map(self._held_by, self.workers)))
    @rule(who=WORKERS, data=st.data())
    def give_back(self, who: int, data: st.DataObject) -> None:
        held = self._held_by(self.workers[who])
        kept = data.draw(st.lists(st.sampled_from(held), unique=True)) if held else []
        count = rescue.give_back(self.connections[who], self.workers[who], kept=kept)
        assert count == len(held) - len(kept)
        for id in set(held) - set(kept):
            self._set(id, self.tasks[id].waits(attempts=1, later=self.tasks[id].is_later))

    @precondition(lambda self: any(task.status == "HELD" for task in self.tasks.values()))
    @rule(who=WORKERS)
    def learn_names(self, who: int) -> None:
        held = [id for id, task in self.tasks.items() if task.status == "HELD"]
        assert operate.resume_known(self.connections[who], [NAME]) == len(held)
        for id in held:
            self._set(id, self.tasks[id], status="READY")

    @precondition(lambda self: any(task.expires == "over" for task in self.tasks.values()))
    @rule(who=WORKERS)
    def end_what_expired_while_it_waited(self, who: int) -> None:
        late = [
            id
            for id, task in self.tasks.items()
            if task.expires == "over" and task.status in ("READY", "HELD")
        ]
        assert expire.expire_waiting(self.connections[who], error=ERROR) == len(late)
        for id in late:
            self._set(id, self.tasks[id].failed_once().ended("EXPIRED"))

    # --- death -----------------------------------------------------------------------------------

    @precondition(lambda self: any(map(self._held_by, self.workers)))
    @rule(who=WORKERS, observer=WORKERS, data=st.data())
    def die(self, who: int, observer: int, data: st.DataObject) -> None:
        """A child dies; its supervisor knows what had started, and what ran."""
        dead = self.workers[who]
        held = self._held_by(dead)
        started = data.draw(st.lists(st.sampled_from(held), unique=True)) if held else []
        running = started[-1:] if data.draw(st.booleans()) else []
        # What it remembers, others may hold by now.
        running += sorted({id for id, _ in self._late} - set(held))[:1]
        holdings = Holdings(
            started=list({*started, *running}),
            unstarted=[id for id in held if id not in started],
            running=tuple(running),
            since=(time.monotonic(),) * len(running),
        )
        deaths = Aftermath(WorkerOptions(database="default"))
        deaths.add(Death(worker_id=dead, slot=0, pid=1, status=-9, held=holdings, killed_for=""))
        deaths.settle(self.connections[observer])
        for id in held:
            task = self.tasks[id]
            back = task.crashed() if id in running else task.waits(attempts=1, later=task.is_later)
            self._set(id, back)
        self.workers[who] = rows.add_worker(self.connections[who])

    @precondition(lambda self: any(map(self._held_by, self.workers)))
    @rule(who=WORKERS, observer=WORKERS)
    def vanish(self, who: int, observer: int) -> None:
        """A whole host dies: nobody knows what it had started."""
        dead, connection = self.workers[who], self.connections[observer]
        [seen] = [row for row in presence.beat(connection, []).others if row.id == dead]
        assert presence.declare_dead(connection, [seen._replace(beat=seen.beat - 1)]) == set()
        assert presence.declare_dead(connection, [seen]) == {dead}
        held = self._held_by(dead)
        assert rescue.find_orphaned(connection) == ([dead] if held else [])
        swept = rescue.sweep(connection, dead, known=[NAME], once=[], error=ERROR, once_error=ERROR)
        assert sorted(swept.rescued + swept.failed) == sorted(held)
        for id in held:
            self._set(id, self.tasks[id].crashed())
        self.workers[who] = rows.add_worker(self.connections[who])

    # --- the rows and the model ------------------------------------------------------------------

    @invariant()
    def rows_say_what_the_model_says(self) -> None:
        found = {row[0]: row[1:] for row in self.connections[0].execute(READ).fetchall()}
        assert found == {id: _row_of(task) for id, task in self.tasks.items()}

    def _note_claims(self, who: int, token: str, taken: list[claim.Claimed]) -> None:
        for row in taken:
            task = self.tasks[row.id].claimed(self.workers[who], token)
            assert row.attempts == task.attempts
            assert row.is_expired == (task.expires == "over")
            assert row.is_cancelled == task.asked_to_end
            self.tasks[row.id] = task
            self.claims.append((row.id, token))

    def _set(self, id: str, task: Task, **changes: Any) -> None:
        self.tasks[id] = Task(**{**vars(task), **changes})

    @property
    def _late(self) -> list[tuple[str, str]]:
        """Return the claims of tasks that run by another one now."""
        running = {id: t.claim for id, t in self.tasks.items() if t.status == "RUNNING"}
        return [(id, token) for id, token in self.claims if running.get(id, token) != token]

    def _is_ours(self, id: str, token: str) -> bool:
        task = self.tasks.get(id)
        return task is not None and task.status == "RUNNING" and task.claim == token

    def _held_by(self, worker: str) -> list[str]:
        held = [(id, t) for id, t in self.tasks.items() if t.status == "RUNNING"]
        return sorted(id for id, task in held if task.worker == worker)


def _finishing(outcome: str) -> Any:
    """Make the rule of an outcome: one each, for rules are chosen evenly."""

    @precondition(lambda self: self.claims)
    @rule(who=WORKERS, data=st.data())
    def finish(self: Protocol, who: int, data: st.DataObject) -> None:
        self._finish(who, data, outcome)

    return finish


for outcome in OUTCOMES:
    setattr(Protocol, f"finish_by_{outcome}", _finishing(outcome))


def _is_live(task: Task) -> bool:
    return task.status in ("READY", "HELD", "RUNNING")


def _row_of(task: Task) -> tuple[Any, ...]:
    """Return what READ should find of a task."""
    live = (task.asked_to_end, task.is_later) if _is_live(task) else (None, None)
    return (
        task.status,
        task.attempts,
        task.crashes,
        task.errors,
        task.claim,
        task.worker,
        *live,
    )


def _send(connection: db.Connection, outcome: str, pairs: list[tuple[str, str]]) -> db.Cursor:
    now = time.monotonic()
    ended = (ERROR, now - 1, now)
    match outcome:
        case "complete":
            return finish.complete(connection, [Completed(*p, "1", now - 1, now) for p in pairs])
        case "complete_anyway":
            return finish.complete_anyway(connection, Completed(*pairs[0], "1", now - 1, now))
        case "fail":
            return finish.fail(connection, [Failed(*p, *ended) for p in pairs])
        case "fail_anyway":
            return finish.fail_anyway(connection, Failed(*pairs[0], *ended))
        case "cancel":
            return finish.cancel(connection, [Cancelled(*p, *ended) for p in pairs])
        case "cancel_unstarted":
            outcomes = [CancelledUnstarted(*p, *ended) for p in pairs]
            return finish.cancel_unstarted(connection, outcomes)
        case "expire":
            return finish.expire(connection, [Expired(*p, *ended) for p in pairs])
        case "retry" | "retry_later":
            delay = HALF_AN_HOUR if outcome == "retry_later" else 0.0
            retrying = [Retrying(*p, ERROR, delay, now - 1, now) for p in pairs]
            return finish.retry(connection, retrying)
        case "snooze":
            return finish.snooze(connection, [Snoozed(*p, 0.0) for p in pairs])
        case "park":
            held_for = operate.held_for_unknown(NAME)
            return finish.park(connection, [Parked(*p, held_for) for p in pairs])
        case "run_again":
            return finish.run_again(connection, [Unanswered(*p, now - 1, now) for p in pairs])
    raise ValueError(outcome)


@pytest.fixture
def protocol(transactional_db: None) -> Iterator[type[Protocol]]:
    with ExitStack() as opened:
        Protocol.connections = [
            opened.enter_context(db.worker_connection("default", name=f"model {n}"))
            for n in range(3)
        ]
        for connection in Protocol.connections:
            connection.execute("SET synchronous_commit = off")
        yield Protocol


COMMON = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


def test_rows_follow_the_model(protocol: type[Protocol]) -> None:
    few = settings(derandomize=True, max_examples=20, stateful_step_count=40, **COMMON)
    run_state_machine_as_test(protocol, settings=few)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_rows_follow_the_model_for_long(protocol: type[Protocol]) -> None:
    many = settings(max_examples=500, stateful_step_count=60, **COMMON)
    run_state_machine_as_test(protocol, settings=many)
