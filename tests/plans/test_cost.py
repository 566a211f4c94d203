"""What a claim costs does not grow with what waits, what waits for later, or what has died.

Costs are buffers: blocks of tables and indexes that a statement looks at. They do not depend on how
busy the machine is.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from django_taskq.transitions import claim, expire, prune, rescue
from django_taskq.transitions.claim import Lane
from tests.plans.cases import Case, claim_from, complete, lanes
from tests.support import plans, population
from tests.support.statements import Sent

LIMIT = 10


@pytest.fixture
def worker(scratch: Any) -> psycopg.Connection[Any]:
    """Return the connection of the worker that claims."""
    population.fill_running(scratch.user, workers=1, each=0)
    return scratch.worker


def claiming(some: list[Lane], *, floor: str = "-infinity") -> Sent:
    return Case("claim.CLAIM", claim_from(some, limit=LIMIT, floor=floor)).sent


def cost_of_claim(connection: Any, some: list[Lane], *, floor: str = "-infinity") -> int:
    """Claim LIMIT tasks, undo it, and return what it cost."""
    sent = claiming(some, floor=floor)
    rows, buffers, plan = plans.measure(connection, sent)
    assert rows == LIMIT, plans.describe(plan)
    return buffers


def looking(text: str = claim.FIND_LANES) -> Sent:
    return Sent(text, {"children": "{}"} if "%(children)s" in text else None)


def test_a_claim_costs_the_same_with_a_backlog_of_10_thousand_and_of_200_thousand(
    scratch: Any, worker: Any
) -> None:
    population.fill_ready(scratch.user, 10_000)
    small = cost_of_claim(worker, lanes())
    population.fill_ready(
        scratch.user, 190_000, run_after="statement_timestamp() - n * interval '1 millisecond'"
    )

    large = cost_of_claim(worker, lanes())

    # A level more in each index, and what is inserted there splits a page now and then.
    assert large <= small * 1.5


def test_tasks_that_wait_for_later_with_a_higher_priority_cost_a_claim_nothing(
    scratch: Any, worker: Any
) -> None:
    population.fill_ready(scratch.user, 2_000, queue_name="'queue0'", priority="0")
    some = [Lane("queue0", 10), Lane("queue0", 0)]
    before = cost_of_claim(worker, some)
    population.fill_ready(
        scratch.user,
        100_000,
        queue_name="'queue0'",
        priority="10",
        run_after="statement_timestamp() + interval '1 hour' + n * interval '1 millisecond'",
    )

    assert cost_of_claim(worker, some) <= before * 1.5


def test_tasks_that_wait_for_later_in_the_same_lane_cost_a_claim_nothing(
    scratch: Any, worker: Any
) -> None:
    some = [Lane("queue0", 0)]
    population.fill_ready(scratch.user, 2_000, queue_name="'queue0'", priority="0")
    before = cost_of_claim(worker, some)
    population.fill_ready(
        scratch.user,
        100_000,
        queue_name="'queue0'",
        priority="0",
        run_after="statement_timestamp() + interval '1 hour' + n * interval '1 millisecond'",
    )

    assert cost_of_claim(worker, some) <= before * 1.5


def test_an_empty_claim_does_not_look_at_tasks_that_wait_for_later(
    scratch: Any, worker: Any
) -> None:
    population.fill_ready(
        scratch.user,
        100_000,
        queue_name="'queue0'",
        priority="0",
        run_after="statement_timestamp() + interval '1 hour' + n * interval '1 millisecond'",
    )

    rows, buffers, plan = plans.measure(worker, claiming([Lane("queue0", 0)]))

    assert rows == 0
    assert buffers < 20, plans.describe(plan)


def test_a_floor_spares_a_claim_the_dead_rows_that_a_long_transaction_keeps(
    scratch: Any, worker: Any
) -> None:
    some = [Lane("queue0", 0)]
    population.fill_ready(scratch.user, 22_000, queue_name="'queue0'", priority="0")
    untouched = cost_of_claim(worker, some)
    with psycopg.connect(scratch.url) as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        other.execute("SELECT FROM django_taskq_livetask LIMIT 1")
        floor = scratch.user.execute(
            """
            WITH gone AS (
              DELETE FROM django_taskq_livetask WHERE id IN (
                SELECT id FROM django_taskq_livetask ORDER BY run_after LIMIT 20000)
              RETURNING run_after)
            SELECT max(run_after) FROM gone
            """
        ).fetchone()[0]

        without = cost_of_claim(worker, some)
        with_floor = cost_of_claim(worker, some, floor=floor.isoformat(sep=" "))

    assert without > untouched * 5, "the dead rows are not in the way: this test shows nothing"
    assert with_floor <= untouched * 1.5


def test_a_floor_spares_pruning_the_dead_rows_of_the_batches_before_it(scratch: Any) -> None:
    def pruning(floor: Any) -> Sent:
        return Case(
            "prune.PRUNE",
            lambda connection: prune.prune_batch(connection, age=0.0, limit=LIMIT, floor=floor),
        ).sent

    def cost(floor: Any) -> int:
        return plans.measure(scratch.worker, pruning(floor))[1]

    population.fill_finished(scratch.user, 22_000)
    untouched = cost(prune.BEGINNING)
    with psycopg.connect(scratch.url) as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        other.execute("SELECT FROM django_taskq_finishedtask LIMIT 1")
        floor = prune.prune_batch(scratch.user, age=0.0, limit=20_000).floor

        without, with_floor = cost(prune.BEGINNING), cost(floor)

    assert without > untouched * 5, "the dead rows are not in the way: this test shows nothing"
    assert with_floor <= untouched * 1.5


def test_a_look_for_lanes_costs_a_few_descents_per_lane(scratch: Any, worker: Any) -> None:
    population.fill_ready(
        scratch.user, 15_000, queue_name="'queue' || n % 75", priority="(n / 75 % 2) * 10"
    )

    rows, buffers, plan = plans.measure(worker, looking())

    assert rows == 150
    # A descent is three blocks; two for the next lane, one for its head, and the rows themselves.
    assert buffers <= rows * 15, plans.describe(plan)


@pytest.mark.parametrize("text", [claim.FIND_LANES, claim.TICK], ids=["feeder", "supervisor"])
def test_a_look_for_lanes_costs_the_same_whatever_the_lanes_hold(
    scratch: Any, worker: Any, text: str
) -> None:
    population.fill_ready(scratch.user, 1_000)
    small = plans.measure(worker, looking(text))[1]
    population.fill_ready(scratch.user, 100_000)

    rows, large, plan = plans.measure(worker, looking(text))

    assert rows == len(lanes())
    assert large <= small * 3, plans.describe(plan)


def test_a_suspect_at_the_head_of_a_lane_does_not_make_a_look_read_the_backlog(
    scratch: Any, worker: Any
) -> None:
    population.fill_ready(
        scratch.user, 1, run_after="statement_timestamp() - interval '1 day'", crashes=2
    )
    population.fill_ready(scratch.user, 100_000)

    rows, buffers, plan = plans.measure(worker, looking())

    assert rows == len(lanes())
    assert buffers <= rows * 30, plans.describe(plan)


def test_a_suspect_is_found_without_looking_at_the_backlog(scratch: Any, worker: Any) -> None:
    population.fill_ready(scratch.user, 100_000)
    population.fill_ready(scratch.user, 1, queue_name="'queue0'", crashes=2)
    sent = Case(
        "claim.CLAIM_SUSPECT",
        lambda connection: claim.claim_suspect(
            connection,
            worker_id=population.id_of("e", 1),
            token=population.id_of("c", 1),
            queues=["queue0"],
        ),
    ).sent

    rows, buffers, plan = plans.measure(worker, sent)

    assert rows == 1
    assert buffers < 60, plans.describe(plan)


def test_a_look_for_expired_tasks_reads_neither_the_backlog_nor_what_may_still_start(
    scratch: Any,
) -> None:
    population.fill_ready(scratch.user, 50_000)
    population.fill_ready(
        scratch.user, 50_000, expires_at="statement_timestamp() + interval '1 hour'"
    )
    sent = Case(
        "expire.EXPIRE_WAITING", lambda connection: expire.expire_waiting(connection, error="{}")
    ).sent

    rows, buffers, plan = plans.measure(scratch.worker, sent)

    assert rows == 0
    assert buffers < 20, plans.describe(plan)


def test_a_look_for_lost_tasks_costs_a_few_descents_per_process(scratch: Any) -> None:
    population.fill_running(scratch.user, workers=8, each=5)
    sent = Case("rescue.FIND_ORPHANED", rescue.find_orphaned).sent
    small = plans.measure(scratch.worker, sent)[1]
    population.empty(scratch.user)
    population.fill_ready(scratch.user, 100_000)
    population.fill_running(scratch.user, workers=8, each=500)
    scratch.user.execute("DELETE FROM django_taskq_worker WHERE pid > 6")

    rows, large, plan = plans.measure(scratch.worker, sent)

    assert rows == 2
    # What a process holds is not read, but for the first of it.
    assert large <= small + 40, plans.describe(plan)


@pytest.mark.parametrize("count", [1, 50, 500])
def test_storing_results_costs_the_same_per_task_with_a_backlog_of_100_thousand(
    scratch: Any, count: int
) -> None:
    population.fill_running(scratch.user, workers=1, each=500)
    population.fill_ready(scratch.user, 5_000)
    sent = Case("finish.COMPLETE", complete(count)).sent
    small = plans.measure(scratch.worker, sent)[1]
    population.fill_ready(scratch.user, 95_000)

    large, plan = plans.measure(scratch.worker, sent)[1:]

    # A level more in the primary key.
    assert large <= small + 3 * count + 20, plans.describe(plan)
