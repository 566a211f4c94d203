"""A connection that is lost at any byte of a statement loses no task and ends none twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args
from unittest import mock
from uuid import uuid4

import environ
import psycopg
import pytest
from django.db import Error as DjangoError
from django.db import connection as django_connection

from django_taskq import db
from django_taskq.db import Connection
from django_taskq.ids import new_id
from django_taskq.outcomes import Committed, Unanswered
from django_taskq.transitions import claim, enqueue, expire, operate, presence, prune, rescue
from django_taskq.worker import feeder, give_back, store
from django_taskq.worker.aftermath import Aftermath, Death
from django_taskq.worker.executor import Executor
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.record import Holdings
from tests.plans.cases import settled
from tests.races.feeding import KINDS, child
from tests.support import rows
from tests.support.proxy import Cut, Proxy, Way, serve_proxy, watch
from tests.support.waiting import until
from tests.worker import atomic_samples

ERROR = '{"exception_class_path": "ValueError", "message": "no", "traceback": ""}'
NAME = "shop.tasks.send"

# How many bytes of a request, and of its answer, are tried.
FEW, MANY = 3, 25


@pytest.fixture(scope="module")
def proxy(server_url: str) -> Iterator[Proxy]:
    with serve_proxy(server_url) as running:
        yield running


@pytest.fixture
def through(one: Connection, proxy: Proxy) -> Iterator[Proxy]:
    """Lead every connection from here on through the proxy."""
    django_connection.close()
    target = environ.Env.db_url_config(proxy.url(django_connection.settings_dict["NAME"]))
    with mock.patch.dict(django_connection.settings_dict, target):
        yield proxy
        proxy.clear()
        django_connection.close()


def spread(size: int, points: int) -> list[int]:
    """Return so many numbers from 0 to `size`, both included."""
    return sorted({round(size * n / (points - 1)) for n in range(points)})


# --- what a child sends --------------------------------------------------------------------------


# The statement that is cut; and the one whose answer has to be lost for it to be sent at all.
CHILDS = {
    "find_lanes": "",
    "claim_woken": "",
    "claim": "",
    "complete": "",
    "retry": "",
    "snooze": "",
    "fail": "",
    "cancel": "",
    "park": "",
    "progress": "",
    "give_back": "claim_woken",
    "confirm": "complete",
}


@contextmanager
def hasty_feeder() -> Iterator[None]:
    """Let feeders try again at once, and look for lost claims at once."""
    with (
        mock.patch.object(feeder, "_PAUSE_FIRST", 0.002),
        mock.patch.object(feeder, "_PAUSE_LAST", 0.01),
        mock.patch.object(give_back, "_SWEEP_SOON", 0.02),
    ):
        yield


def cut_a_child(statement: str, points: int, one: Connection, worker_id: str, proxy: Proxy) -> None:
    """Run tasks of all kinds again and again, with a connection that is cut in a statement."""
    text = f"django_taskq:{statement} */".encode()
    # One that serves all queues finds its lanes and claims along them at once.
    queues = ("*",) if statement in ("find_lanes", "claim") else ()
    with hasty_feeder(), child(worker_id, queues=queues) as running:
        happened: list[bool] = []

        def run_all(*cuts: Cut) -> None:
            proxy.cut_all()
            for cut in cuts:
                proxy.add(cut)
            ids = {kind: rows.add(one, task=kind) for kind in KINDS}
            expected = [status for status, _ in KINDS.values()]

            def have_ended() -> bool:
                running.wake()
                return rows.statuses_now(one, list(ids.values())) == expected

            until(have_ended, f"all tasks have ended after a cut in {statement}")
            proxy.clear()
            happened.append(cuts[-1].happened.is_set())
            for kind, id in ids.items():
                assert running.starts[id] == KINDS[kind][1], kind
                assert rows.row(one, id)["crashes"] == 0
            assert rows.row(one, ids["progress"])["progress"] == {"done": 7}

        def before() -> list[Cut]:
            lost = CHILDS[statement]
            return [Cut(f"django_taskq:{lost} */".encode(), "answer")] if lost else []

        seen = watch(text)
        run_all(*before(), seen)
        for way in get_args(Way):
            for after in spread(seen.passed[way] or 100, points):
                run_all(*before(), Cut(text, way, after=after))
    assert rows.live_statuses(one) <= {"HELD"}
    # Not all are sent each time, and an answer is as long as there are rows.
    assert any(happened), f"{statement} was not cut"


@pytest.mark.parametrize("part", range(3))
def test_a_child_loses_no_task_wherever_its_connection_is_cut(
    one: Connection, worker_id: str, through: Proxy, part: int
) -> None:
    for statement in list(CHILDS)[part::3]:
        cut_a_child(statement, FEW, one, worker_id, through)


@pytest.mark.chaos
@pytest.mark.parametrize("statement", CHILDS)
def test_a_child_loses_no_task_at_many_bytes(
    one: Connection, worker_id: str, through: Proxy, statement: str
) -> None:
    cut_a_child(statement, MANY, one, worker_id, through)


# --- what a supervisor sends ---------------------------------------------------------------------


@dataclass(frozen=True)
class Duty:
    """Something that is done again until it has succeeded, as a supervisor does."""

    # Makes the rows; returns what is done, and what is looked at afterwards.
    prepare: Callable[[Connection], tuple[Callable[[Connection], object], Callable[[], None]]]
    # The statements that it sends.
    statements: tuple[str, ...]


def settle(one: Connection) -> Any:
    """Settle what a dead child held."""
    worker_id = rows.add_worker(one)
    unstarted, done, ran, condemned = (
        rows.add_running(one, worker_id, crashes=crashes).id for crashes in (0, 0, 0, 2)
    )
    deaths = Aftermath(WorkerOptions(database="default"))
    held = Holdings(
        started=[done, ran, condemned],
        unstarted=[unstarted],
        running=(ran, condemned),
        since=(time.monotonic(),) * 2,
    )
    deaths.add(Death(worker_id=worker_id, slot=0, pid=1, status=-9, held=held, killed_for=""))

    def look() -> None:
        found = [rows.row(one, id) for id in (unstarted, done, ran, condemned)]
        assert [(row["status"], row["attempts"], row["crashes"]) for row in found] == [
            ("READY", 0, 0),
            ("READY", 0, 0),
            ("READY", 0, 1),
            ("FAILED", 0, 3),
        ]
        assert not deaths.waits
        assert worker_id not in {row.id for row in presence.beat(one, []).others}

    return deaths.settle, look


def sweep(one: Connection) -> Any:
    """Take tasks back from a process that is not listed."""
    lost = rows.add_worker(one)
    ids = [rows.add_running(one, lost, crashes=crashes).id for crashes in (0, 2)]
    presence.leave(one, [lost])

    def act(connection: Connection) -> None:
        until(lambda: _finds_none(connection), "nothing is left of it")

    def look() -> None:
        found = [rows.row(one, id) for id in ids]
        assert [(row["status"], row["crashes"]) for row in found] == [("READY", 1), ("FAILED", 3)]

    return act, look


def _finds_none(connection: Connection) -> bool:
    """Sweep once more than there is something to sweep: locked rows are left to the next time."""
    lost = rescue.find_orphaned(connection)
    for id in lost:
        rescue.sweep(connection, id, known=[NAME], once=[], error=ERROR, once_error=ERROR)
    return not lost


def arrive(one: Connection) -> Any:
    id = str(uuid4())
    act = partial(presence.arrive, id=id, kind="CHILD", parent_id=None, host="here", pid=1, info={})

    def look() -> None:
        assert [row.id for row in presence.beat(one, []).others].count(id) == 1

    return act, look


def beat(one: Connection) -> Any:
    id = rows.add_worker(one)

    def look() -> None:
        [seen] = [row for row in presence.beat(one, []).others if row.id == id]
        assert seen.beat in (1, 2), "at most one beat more than was answered"

    return lambda connection: presence.beat(connection, [id]), look


def declare_dead(one: Connection) -> Any:
    id = rows.add_worker(one)
    [seen] = [row for row in presence.beat(one, []).others if row.id == id]

    def look() -> None:
        assert id not in {row.id for row in presence.beat(one, []).others}

    def act(connection: Connection) -> None:
        # While the lost connection's transaction is open its rows are left alone: the next beat
        # finds them still there.
        until(lambda: _declares(connection, seen), "it is declared dead")

    return act, look


def _declares(connection: Connection, seen: presence.Seen) -> bool:
    presence.declare_dead(connection, [seen])
    return seen.id not in {row.id for row in presence.beat(connection, []).others}


def delete_old(one: Connection) -> Any:
    old = rows.insert(one, rows.DONE, status="FAILED", finished_at=rows.ago(100))
    young = rows.insert(one, rows.DONE, status="FAILED", finished_at=rows.ago(1))

    def look() -> None:
        assert rows.finished(one, old) is None
        assert rows.finished(one, young) is not None

    return lambda connection: prune.prune_batch(connection, age=50.0), look


def resume(one: Connection) -> Any:
    held_for = operate.held_for_unknown(NAME)
    id = rows.add(one, status="HELD", held_for=held_for)

    def look() -> None:
        assert rows.row(one, id)["status"] == "READY"

    return lambda connection: operate.resume_known(connection, [NAME]), look


def end_expired(one: Connection) -> Any:
    id = rows.add(one, queue_name="of nobody", expires_at=rows.ago(1))
    young = rows.add(one, queue_name="of nobody", expires_at=rows.ago(-60))

    def look() -> None:
        assert rows.row(one, id)["status"] == "EXPIRED"
        assert rows.row(one, young)["status"] == "READY"

    return lambda connection: expire.expire_waiting(connection, error=ERROR), look


def tick(one: Connection) -> Any:
    id = rows.add(one)

    def act(connection: Connection) -> None:
        lanes, _, _ = claim.tick(connection, [])
        assert [lane.is_due for lane in lanes] == [True]

    def look() -> None:
        assert rows.row(one, id)["status"] == "READY"

    return act, look


DUTIES = {
    "settle": Duty(settle, ("give_back", "note_start", "condemn", "rescue", "leave")),
    "sweep": Duty(sweep, ("condemn_orphans", "rescue_orphans")),
    "arrive": Duty(arrive, ("arrive",)),
    "beat": Duty(beat, ("beat",)),
    "declare dead": Duty(declare_dead, ("declare_dead",)),
    "prune": Duty(delete_old, ("prune",)),
    "resume": Duty(resume, ("resume",)),
    "expire": Duty(end_expired, ("expire_waiting",)),
    "tick": Duty(tick, ("tick",)),
}
SENT = [(duty, statement) for duty in DUTIES for statement in DUTIES[duty].statements]


def cut_a_duty(duty: str, statement: str, points: int, one: Connection, proxy: Proxy) -> None:
    text = f"django_taskq:{statement} */".encode()

    def do(cut: Cut) -> None:
        for table in ("livetask", "finishedtask", "worker"):
            one.execute(f"DELETE FROM django_taskq_{table}")
        act, look = DUTIES[duty].prepare(one)
        proxy.add(cut)
        for _ in range(3):
            try:
                with db.worker_connection("default", name="test cut") as connection:
                    act(connection)
                break
            except db.Trouble:
                pass
        proxy.clear()
        look()

    seen = watch(text)
    do(seen)
    for way in get_args(Way):
        for after in spread(seen.passed[way], points):
            do(Cut(text, way, after=after))


@pytest.mark.parametrize("part", range(2))
def test_a_supervisor_does_its_duty_once_wherever_its_connection_is_cut(
    one: Connection, through: Proxy, part: int
) -> None:
    for duty, statement in SENT[part::2]:
        cut_a_duty(duty, statement, FEW, one, through)


@pytest.mark.chaos
@pytest.mark.parametrize(("duty", "statement"), SENT)
def test_a_supervisor_does_its_duty_once_at_many_bytes(
    one: Connection, through: Proxy, duty: str, statement: str
) -> None:
    cut_a_duty(duty, statement, MANY, one, through)


# --- on the connection of users ------------------------------------------------------------------


def cut_an_atomic_task(
    statement: bytes, points: int, one: Connection, worker_id: str, proxy: Proxy
) -> None:
    executor = Executor(
        worker_id,
        arm=lambda seconds: None,
        disarm=lambda: None,
        report=lambda row, progress: None,
        is_stopping=lambda: False,
    )
    task = atomic_samples.write

    def run(cut: Cut) -> None:
        """Run a task as a worker does, until it has ended."""
        name = f"group {uuid4()}"
        id = rows.add(one, task=task.key, args=[name])
        django_connection.close()
        proxy.add(cut)
        while rows.live(one, id) is not None:
            token = uuid4()
            row = claim.claim_one(one, worker_id=worker_id, token=str(token), task_id=id)
            assert row is not None
            how = executor.run_of(row)
            assert how is not None
            outcome = executor.execute(row, how, time.monotonic())
            assert isinstance(outcome, Committed | Unanswered), outcome
            if isinstance(outcome, Unanswered):
                django_connection.close()
                store.store(one, [outcome], worker_id)
        proxy.clear()
        assert rows.row(one, id)["status"] == "SUCCESSFUL"
        groups = one.execute("SELECT count(*) FROM auth_group WHERE name = %s", [name])
        assert groups.fetchone() == (1,)

    seen = watch(statement)
    run(seen)
    for way in get_args(Way):
        for after in spread(seen.passed[way], points):
            run(Cut(statement, way, after=after))


# What ends an atomic task. Its BEGIN and its body are the project's own statements.
ENDS = [b"django_taskq:limit_end */", b"django_taskq:complete */", b"COMMIT"]


def test_an_atomic_task_commits_once_wherever_its_connection_is_cut(
    one: Connection, worker_id: str, through: Proxy
) -> None:
    for statement in ENDS:
        cut_an_atomic_task(statement, FEW, one, worker_id, through)


@pytest.mark.chaos
@pytest.mark.parametrize("statement", ENDS)
def test_an_atomic_task_commits_once_at_many_bytes(
    one: Connection, worker_id: str, through: Proxy, statement: bytes
) -> None:
    cut_an_atomic_task(statement, MANY, one, worker_id, through)


def cancel_one(one: Connection) -> Any:
    id = rows.add(one)

    def look() -> None:
        row = rows.row(one, id)
        assert (row["status"], len(row["errors"])) == ("CANCELLED", 1)

    return lambda: operate.cancel_waiting("default", id, error=ERROR), look


def cancel_several(one: Connection) -> Any:
    ids = [rows.add(one) for _ in range(3)]

    def look() -> None:
        assert rows.statuses(one, ids) == ["CANCELLED"] * 3

    return lambda: operate.cancel_many("default", ids, error=ERROR), look


def ask_to_end(one: Connection) -> Any:
    mine = rows.add_running(one, rows.add_worker(one))

    def look() -> None:
        row = rows.row(one, mine.id)
        assert row["status"] == "RUNNING" and row["cancel_requested_at"] is not None

    return lambda: operate.request_cancel("default", mine.id), look


def retry(one: Connection) -> Any:
    id = rows.insert(one, rows.DONE, status="FAILED", errors=[{"message": "once"}])

    def look() -> None:
        row = rows.row(one, id)
        assert (row["status"], len(row["errors"])) == ("READY", 1)

    return lambda: operate.requeue("default", [id], statuses=["FAILED"]), look


def enqueue_again(one: Connection, *, verb: Any = enqueue.enqueue) -> Any:
    """Enqueue under the same id until there is no error but that it is there."""
    id = new_id()

    def act() -> None:
        row = enqueue.NewRow(id, "[]", "{}")
        if rows.live(one, id) is None:
            verb("default", settled(), row)

    def look() -> None:
        assert rows.row(one, id)["status"] == "READY"

    return act, look


VERBS = {
    "cancel_waiting": cancel_one,
    "cancel_many": cancel_several,
    "request_cancel": ask_to_end,
    "requeue": retry,
    "enqueue": enqueue_again,
    # Together with the task that it is about.
    "hint": partial(enqueue_again, verb=enqueue.enqueue_alone),
}


def cut_a_verb(statement: str, points: int, one: Connection, proxy: Proxy) -> None:
    text = f"django_taskq:{statement} */".encode()

    def do(cut: Cut) -> None:
        act, look = VERBS[statement](one)
        proxy.add(cut)
        for _ in range(3):
            try:
                act()
                break
            except DjangoError:
                django_connection.close()
        proxy.clear()
        look()

    seen = watch(text)
    do(seen)
    for way in get_args(Way):
        for after in spread(seen.passed[way], points):
            do(Cut(text, way, after=after))


def test_what_people_ask_for_is_done_whole_or_not_at_all(one: Connection, through: Proxy) -> None:
    for statement in VERBS:
        cut_a_verb(statement, FEW, one, through)


@pytest.mark.chaos
@pytest.mark.parametrize("statement", VERBS)
def test_what_people_ask_for_is_done_whole_at_many_bytes(
    one: Connection, through: Proxy, statement: str
) -> None:
    cut_a_verb(statement, MANY, one, through)


def test_trouble_is_what_psycopg_raises_for_a_cut(through: Proxy) -> None:
    with db.worker_connection("default", name="test cut") as connection:
        through.add(Cut(b"mine"))
        with pytest.raises(db.Trouble) as caught:
            connection.execute("SELECT 'mine'")
        assert isinstance(caught.value, psycopg.OperationalError)
