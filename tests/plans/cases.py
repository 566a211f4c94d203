"""For every statement: how the code sends it, and through which indexes it has to go."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from django_taskq import results
from django_taskq.control import bulk, detail, findings, listing, overview
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
    enqueue,
    expire,
    finish,
    operate,
    presence,
    prune,
    rescue,
)
from django_taskq.transitions.claim import Lane
from tests.support.population import PRIORITIES, QUEUES, id_of
from tests.support.statements import Sent, sent_by, statements

LIVE_KEY = ("django_taskq_livetask_pkey", "id")
FINISHED_KEY = ("django_taskq_finishedtask_pkey", "id")
FINISHED_AT = ("django_taskq_finished_at", "finished_at")
# From one lane to the next, a lane, and the due part of it.
QUEUE = ("django_taskq_live_ready", "queue_name")
LANE = ("django_taskq_live_ready", "queue_name", "priority")
DUE = (*LANE, "run_after")
WORKER = ("django_taskq_live_worker", "worker_id")
# Tasks that run and were asked to end.
CANCEL = ("django_taskq_live_cancel", "worker_id")
HELD = ("django_taskq_live_held", "held_for")
SUSPECT = ("django_taskq_live_suspect", "run_after")
EXPIRES = ("django_taskq_live_expires", "expires_at")
# The first entries of an index, no matter which.
READY_HEAD = ("django_taskq_live_ready",)
WORKER_ALL = ("django_taskq_live_worker",)
HELD_ALL = ("django_taskq_live_held",)
ENDED = ("django_taskq_finished_at", "finished_at")
ENDED_BADLY = ("django_taskq_finished_badly", "finished_at", "status")

ERROR = '{"exception_class_path": "ValueError", "message": "no \\"such\\" order", "traceback": ""}'


@dataclass(frozen=True)
class Case:
    """A statement with parameters, and the scans that its plan consists of."""

    name: str
    send: Callable[[Any], object]
    # Indexes, each with the columns that its condition names. Empty: the statement reads no rows.
    indexes: frozenset[tuple[str, ...]] = field(default_factory=frozenset)
    # Another choice that is as good.
    instead: frozenset[tuple[str, ...]] | None = None
    by: str = "worker"
    variant: str = ""

    @property
    def label(self) -> str:
        return f"{self.name}{f'-{self.variant}' if self.variant else ''}"

    @property
    def sent(self) -> Sent:
        """Return the statement as the code sends it."""
        text = statements()[self.name]
        return next(sent for sent in sent_by(self.send) if sent.text == text)


def running(count: int) -> list[tuple[str, str]]:
    """Return ids and claims of running tasks."""
    return [(id_of("b", n), id_of("c", n)) for n in range(1, count + 1)]


def lanes(*, queues: int = QUEUES, priorities: Sequence[int] = PRIORITIES) -> list[Lane]:
    return [Lane(f"queue{n}", priority) for n in range(queues) for priority in priorities]


def claim_from(some: Sequence[Lane], *, limit: int, floor: str = "-infinity") -> Any:
    return lambda connection: claim.claim(
        connection,
        worker_id=id_of("e", 1),
        token=str(uuid4()),
        lanes=some,
        floors=[floor] * len(some),
        limit=limit,
    )


def complete(count: int) -> Any:
    now = time.monotonic()
    outcomes = [Completed(*mine, '"done"', now - 1, now) for mine in running(count)]
    return lambda connection: finish.complete(connection, outcomes)


def end(kind: Any, send: Any, count: int) -> Any:
    now = time.monotonic()
    outcomes = [kind(*mine, ERROR, now - 1, now) for mine in running(count)]
    return lambda connection: send(connection, outcomes)


def retry(count: int) -> Any:
    now = time.monotonic()
    outcomes = [Retrying(*mine, ERROR, 30.0, now - 1, now) for mine in running(count)]
    return lambda connection: finish.retry(connection, outcomes)


def settled(**changes: Any) -> enqueue.Settled:
    values: dict[str, Any] = {
        "task": "shop.tasks.send",
        "queue_name": "default",
        "priority": 0,
        "max_attempts": 1,
        "run_after": None,
        "delay": 0.0,
        "expires_after": None,
        "options": None,
        "headers": None,
    }
    return enqueue.Settled(**{**values, **changes})


def _add_looks(add: Any) -> None:
    """Add what operators ask about the whole, and about one task."""

    def look(name: str, send: Any, *indexes: tuple[str, ...]) -> None:
        add(name, send, *indexes, by="operator")

    for name, indexes in {
        "STATUS_LANES": [READY_HEAD, QUEUE, LANE, DUE],
        "STATUS_RUNNING": [WORKER_ALL],
        "STATUS_HELD": [HELD_ALL],
        "STATUS_BADLY": [("django_taskq_finished_badly", "status")],
        "STATUS_RECENT": [ENDED],
        "WORKERS": [WORKER],
        "OLDEST_DUE": [READY_HEAD, QUEUE, LANE],
    }.items():
        look(f"overview.{name}", asking(getattr(overview, name)), *indexes)
    look("detail.FIND_IDS", lambda c: detail.find_id("019f"), LIVE_KEY, FINISHED_KEY)
    look(
        "detail.SHOW",
        lambda c: detail._read("default", id_of("a", 1)),
        LIVE_KEY,
        FINISHED_KEY,
    )
    look(
        "detail.AHEAD",
        lambda c: detail._ahead(
            "default", "queue1", 0, datetime(2020, 1, 1, tzinfo=UTC), id_of("a", 1)
        ),
        LANE,
        DUE,
    )
    for name in vars(findings):
        if name.isupper():
            few = {"HELD_NAMES": [HELD_ALL], "ORPHANS": [WORKER_ALL]}
            statement = getattr(findings, name)
            look(f"findings.{name}", asking(statement), *few.get(name, []))


def asking(statement: str) -> Any:
    """Send a statement without parameters as an operator does."""
    return lambda connection: findings.ask("default", statement)


def _add_lists(add: Any) -> None:
    """Add what lists tasks, with filters and without."""
    filters: list[dict[str, Any]] = [
        {},
        {"queue_name": "queue1", "task": "shop.*", "since": datetime(2020, 1, 1, tzinfo=UTC)},
    ]
    ways: dict[str, tuple[str | None, list[tuple[str, ...]]]] = {
        "LIST_ALL": (None, [LIVE_KEY, FINISHED_KEY]),
        "LIST_READY": ("READY", [LIVE_KEY]),
        "LIST_RUNNING": ("RUNNING", [WORKER_ALL]),
        "LIST_HELD": ("HELD", [HELD_ALL]),
        "LIST_SUCCESSFUL": ("SUCCESSFUL", [ENDED]),
        "LIST_BADLY": ("FAILED", [ENDED_BADLY]),
    }
    for name, (status, indexes) in ways.items():
        for given in filters:
            add(
                f"listing.{name}",
                lambda c, s=status, g=given: listing.list_tasks(status=s, **g),
                *indexes,
                by="operator",
                variant="filtered" if given else "",
            )


def _cases() -> list[Case]:
    cases: list[Case] = []

    def add(
        name: str,
        send: Any,
        *indexes: tuple[str, ...],
        instead: tuple[str, ...] | None = None,
        by: str = "worker",
        variant: object = "",
    ) -> None:
        other = None if instead is None else frozenset([instead])
        cases.append(Case(name, send, frozenset(indexes), other, by, str(variant)))

    add("claim.FIND_LANES", claim.find_lanes, READY_HEAD, QUEUE, LANE, DUE)
    for count in (1, 64):
        children = [id_of("e", n) for n in range(1, count + 1)]
        add(
            "claim.TICK",
            lambda c, n=children: claim.tick(c, n),
            READY_HEAD,
            QUEUE,
            LANE,
            DUE,
            SUSPECT,
            CANCEL,
            variant=f"{count}-children",
        )
    add("claim.COUNT_WAITING", claim.count_waiting, READY_HEAD)
    for limit in (1, 50, 500):
        add("claim.CLAIM", claim_from(lanes(), limit=limit), DUE, LIVE_KEY, variant=limit)
    add(
        "claim.CLAIM",
        claim_from(lanes(queues=75), limit=50),
        DUE,
        LIVE_KEY,
        variant="150-lanes",
    )
    add(
        "claim.CLAIM",
        claim_from(lanes()[:1], limit=50, floor="2020-01-01 00:00:00+00"),
        DUE,
        LIVE_KEY,
        variant="floor",
    )
    for limit in (1, 500):
        add(
            "claim.CLAIM_WOKEN",
            lambda c, n=limit: claim.claim_woken(
                c, worker_id=id_of("e", 1), token=str(uuid4()), limit=n
            ),
            READY_HEAD,
            QUEUE,
            LANE,
            DUE,
            LIVE_KEY,
            variant=limit,
        )
    add(
        "claim.CLAIM_ONE",
        lambda connection: claim.claim_one(
            connection, worker_id=id_of("e", 1), token=str(uuid4()), task_id=id_of("b", 1)
        ),
        LIVE_KEY,
    )
    add("claim.SUSPECT_QUEUES", claim.suspect_queues, SUSPECT)
    add(
        "claim.CLAIM_SUSPECT",
        lambda connection: claim.claim_suspect(
            connection, worker_id=id_of("e", 1), token=str(uuid4()), queues=["queue0", "queue1"]
        ),
        SUSPECT,
        LIVE_KEY,
    )
    for count in (1, 50, 500):
        add("finish.COMPLETE", complete(count), LIVE_KEY, variant=count)
        add("finish.FAIL", end(Failed, finish.fail, count), LIVE_KEY, variant=count)
        add("finish.CANCEL", end(Cancelled, finish.cancel, count), LIVE_KEY, variant=count)
        add("finish.EXPIRE", end(Expired, finish.expire, count), LIVE_KEY, variant=count)
        add(
            "finish.CANCEL_UNSTARTED",
            end(CancelledUnstarted, finish.cancel_unstarted, count),
            LIVE_KEY,
            variant=count,
        )
        add("finish.RETRY", retry(count), LIVE_KEY, variant=count)
        snoozed = [Snoozed(*mine, 5.0) for mine in running(count)]
        add("finish.SNOOZE", lambda c, o=snoozed: finish.snooze(c, o), LIVE_KEY, variant=count)
        unanswered = [Unanswered(*mine, 0.0, 0.0) for mine in running(count)]
        add(
            "finish.RUN_AGAIN",
            lambda c, o=unanswered: finish.run_again(c, o),
            LIVE_KEY,
            variant=count,
        )
        parked = [Parked(*mine, "unknown:gone.task") for mine in running(count)]
        add("finish.PARK", lambda c, o=parked: finish.park(c, o), LIVE_KEY, variant=count)
        reports = [(*mine, '{"done": 1}') for mine in running(count)]
        add(
            "finish.REPORT_PROGRESS",
            lambda c, r=reports: finish.report_progress(c, r),
            LIVE_KEY,
            variant=count,
        )
        done = [(id_of("d", n), id_of("c", n)) for n in range(1, count + 1)]
        add("finish.CONFIRM", lambda c, d=done: finish.confirm(c, d), FINISHED_KEY, variant=count)
        ours = running(count)
        add(
            "finish.FIND_HELD",
            lambda c, r=ours: finish.find_held(c, r),
            LIVE_KEY,
            variant=count,
        )
    mine = running(1)[0]
    add(
        "finish.COMPLETE_ANYWAY",
        lambda c: finish.complete_anyway(c, Completed(*mine, "1", 0.0, 0.0)),
        LIVE_KEY,
    )
    add(
        "finish.FAIL_ANYWAY",
        lambda c: finish.fail_anyway(c, Failed(*mine, ERROR, 0.0, 0.0)),
        LIVE_KEY,
    )
    add("atomic.LIMIT_END", atomic.limit_end)
    add(
        "atomic.STILL_MINE",
        lambda c: atomic.still_mine(c, id=mine[0], claim=mine[1]),
        LIVE_KEY,
    )
    for count in (0, 1, 500):
        kept = [id for id, _ in running(count)]
        add(
            "rescue.GIVE_BACK",
            lambda c, k=kept: rescue.give_back(c, id_of("e", 1), kept=k),
            WORKER,
            LIVE_KEY,
            variant=f"{count}-kept",
        )

        claims = [id_of("c", n) for n in range(1, 4)]
        add(
            "rescue.GIVE_BACK_UNSTARTED",
            lambda c, k=kept, t=claims: rescue.give_back_unstarted(
                c, id_of("e", 1), claims=t, kept=k
            ),
            WORKER,
            LIVE_KEY,
            variant=f"{count}-kept",
        )

    def rescued(connection: Any) -> object:
        return rescue.rescue(connection, id_of("e", 1), running=[mine[0]], error=ERROR)

    def ended(connection: Any) -> object:
        once = rescue.Once(["shop.tasks.send", "shop.pay"], [mine[0]], ERROR, ERROR)
        return rescue.rescue(connection, id_of("e", 1), running=[mine[0]], error=ERROR, once=once)

    add(
        "rescue.NOTE_START",
        lambda c: rescue.note_start(c, id_of("e", 1), [(mine[0], 0.0)]),
        LIVE_KEY,
        instead=WORKER,  # what a worker holds are few rows too
    )
    add("rescue.CONDEMN_ONCE", ended, WORKER)
    # Here as well.
    add("rescue.CONDEMN", rescued, LIVE_KEY, instead=WORKER)
    add("rescue.RESCUE", rescued, WORKER, LIVE_KEY)
    add("rescue.FIND_ORPHANED", rescue.find_orphaned, WORKER_ALL, WORKER)

    def swept(connection: Any) -> object:
        names = ["shop.tasks.send", "shop.pay"]
        return rescue.sweep(
            connection, id_of("e", 9), known=names, once=["shop.pay"], error=ERROR, once_error=ERROR
        )

    add("rescue.CONDEMN_ORPHANS", swept, WORKER, LIVE_KEY)
    add("rescue.RESCUE_ORPHANS", swept, WORKER, LIVE_KEY)
    add(
        "rescue.READ_RUNNING",
        lambda c: rescue.read_running(c, id_of("e", 1), mine[0]),
        LIVE_KEY,
        instead=WORKER,
    )
    add(
        "operate.CANCEL_WAITING",
        lambda c: operate.cancel_waiting("default", mine[0], error=ERROR),
        LIVE_KEY,
        by="user",
    )
    add(
        "operate.REQUEST_CANCEL",
        lambda c: operate.request_cancel("default", mine[0]),
        LIVE_KEY,
        by="user",
    )
    for count in (1, 1000):
        asked = [id for id, _ in running(count)]
        add(
            "operate.REQUEST_CANCEL_MANY",
            lambda c, i=asked: operate.request_cancel_many("default", i),
            LIVE_KEY,
            by="user",
            variant=count,
        )
    for count in (1, 300):
        names = [f"gone.task{n}" for n in range(count)]
        add(
            "operate.RESUME",
            lambda c, n=names: operate.resume_known(c, n),
            HELD,
            LIVE_KEY,
            variant=f"{count}-names",
        )
    add(
        "expire.EXPIRE_WAITING",
        lambda c: expire.expire_waiting(c, error=ERROR),
        EXPIRES,
        LIVE_KEY,
    )
    for count in (1, 1000):
        ids = [id_of("a", n) for n in range(count)]
        add(
            "operate.CANCEL_MANY",
            lambda c, i=ids: operate.cancel_many("default", i, error=ERROR),
            LIVE_KEY,
            by="user",
            variant=count,
        )
        add(
            "operate.REQUEUE",
            lambda c, i=ids: operate.requeue("default", i, statuses=["FAILED", "EXPIRED"]),
            FINISHED_KEY,
            by="user",
            variant=count,
        )
        add(
            "bulk.STANDING",
            lambda c, i=ids: bulk._reasons("default", i, None),
            LIVE_KEY,
            FINISHED_KEY,
            by="operator",
            variant=count,
        )
    _add_lists(add)
    _add_looks(add)
    add(
        "results.READ",
        lambda c: results.read_row("default", mine[0]),
        LIVE_KEY,
        FINISHED_KEY,
        by="user",
    )
    row = enqueue.NewRow(id_of("a", 1), "[1]", "{}")
    add(
        "enqueue.ENQUEUE",
        lambda c: enqueue.enqueue("default", settled(expires_after=60.0), row),
        by="user",
    )
    add(
        "enqueue.ENQUEUE_NOW",
        lambda c: enqueue.enqueue("default", settled(), row),
        by="user",
    )
    for name, statement, key in (
        ("FIND_ENQUEUED", enqueue.FIND_ENQUEUED, LIVE_KEY),
        ("FIND_ENDED", enqueue.FIND_ENDED, FINISHED_KEY),
    ):
        add(
            f"enqueue.{name}",
            lambda c, s=statement: enqueue.find("default", s, mine[0]),
            key,
            by="user",
        )
    add(
        "enqueue.HINT",
        lambda c: enqueue.hint("default"),
        by="user",
    )
    for floor in (prune.BEGINNING, "2020-01-01 00:00:00+00"):
        add(
            "prune.PRUNE",
            lambda c, f=floor: prune.prune_batch(c, age=80_000.0, floor=f),
            FINISHED_AT,
            FINISHED_KEY,
            variant=f"from {floor[:9]}",
        )
    add("enqueue.PROBE", lambda c: enqueue.probe(c, "probe:1"))
    worker = id_of("e", 1)
    add(
        "presence.ARRIVE",
        lambda c: presence.arrive(
            c, id=id_of("f", 1), kind="CHILD", parent_id=None, host="here", pid=1, info={}
        ),
    )
    add("presence.SET_PID", lambda c: presence.set_pid(c, id=worker, pid=2))
    add("presence.BEAT", lambda c: presence.beat(c, [worker]))
    silent = [presence.Seen(worker, "CHILD", None, "here", 1, 5)]
    add("presence.DECLARE_DEAD", lambda c: presence.declare_dead(c, silent))
    add("presence.LEAVE", lambda c: presence.leave(c, [worker]))
    add("presence.TABLES_EXIST", presence.tables_exist)
    add("presence.RECORD_IS_READABLE", presence.applied_migrations)
    return cases


CASES = _cases()

# COPY has no plan, SHARED_TIMES reads no table (it is sent right before COPY), and MOVE_TIMES moves
# every row that waits: there are few of them in a test. APPLIED reads Django's own small table.
WITHOUT_PLAN = frozenset(
    {"enqueue.COPY", "enqueue.SHARED_TIMES", "travel.MOVE_TIMES", "presence.APPLIED"}
)
