"""Every statement goes through the index that was made for it, whatever the statistics say."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.plans.cases import CASES, WITHOUT_PLAN, Case
from tests.support import plans, population
from tests.support.statements import statements

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)


def test_every_statement_has_a_plan_test() -> None:
    assert {case.name for case in CASES} | WITHOUT_PLAN == set(statements())


@every_case
def test_planned_for_its_parameters_it_uses_its_indexes(filled: Any, case: Case) -> None:
    check(plans.custom_plan(filled.connection(case.by), case.sent), case)


@every_case
def test_planned_for_any_parameters_it_uses_its_indexes(filled: Any, case: Case) -> None:
    connection = filled.connection(case.by)
    execute = plans.prepare(connection, "stmt", case.sent)
    try:
        check(plans.prepared_plan(connection, execute), case)
    finally:
        connection.execute("DEALLOCATE stmt")
        connection.execute("RESET plan_cache_mode")


def _new(connection: Any) -> None:
    """Leave the tables as `migrate` has made them."""


def _few_rows(connection: Any) -> None:
    population.fill_ready(connection, 30)
    population.fill_running(connection, workers=2, each=5)
    population.fill_finished(connection, 30)
    connection.execute("ANALYZE")
    connection.execute("DELETE FROM django_taskq_worker")
    population.empty_but_keep_statistics(connection)


@pytest.fixture(scope="module", params=[_new, _few_rows], ids=["empty", "few-rows"])
def prepared_early(request: pytest.FixtureRequest, copies: Any) -> tuple[Any, dict[str, str]]:
    """Return a database that filled up after its connections had prepared every statement.

    A worker keeps its plans until somebody analyses the table: minutes later, or never. Django
    prepares nothing on the server.
    """
    database = copies()
    request.param(database.user)
    executes = {
        case.label: plans.prepare(database.connection(case.by), f"stmt{number}", case.sent)
        for number, case in enumerate(CASES)
        if case.by == "worker"
    }
    population.fill(database.user, ready=20_000, finished=20_000)
    return database, executes


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.by == "worker"], ids=lambda case: case.label
)
def test_planned_while_the_tables_were_small_it_uses_its_indexes(
    prepared_early: tuple[Any, dict[str, str]], case: Case
) -> None:
    database, executes = prepared_early
    check(plans.prepared_plan(database.connection(case.by), executes[case.label]), case)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.by == "operator"], ids=lambda case: case.label
)
def test_what_operators_ask_reads_few_rows_of_full_tables(filled: Any, case: Case) -> None:
    _, _, plan = plans.measure(filled.operator, case.sent)

    # Of 100,000 in each table: a status counts 20,000 at the most.
    assert plans.rows_read(plan) <= 25_000, plans.describe(plan)


def check(plan: Any, case: Case) -> None:
    """Fail unless the plan reads tables through the indexes of the case, each with a condition."""
    found = list(plans.scans(plan))
    drawn = plans.describe(plan)
    for scan in found:
        assert scan.index, f"{case.label} reads all of {scan.table}:\n{drawn}"
        assert scan.condition or scan.stops_early, (
            f"{case.label} reads all of {scan.index}:\n{drawn}"
        )
    used = {(scan.index, *_columns(scan.condition)) for scan in found}
    assert used in (case.indexes, case.instead), f"{case.label} goes another way:\n{drawn}"


def _columns(condition: str) -> list[str]:
    """Return the columns that a condition compares, in the order of the index."""
    columns = ["queue_name", "priority", "run_after", "worker_id", "held_for", "id"]
    columns += ["finished_at", "expires_at", "status"]
    return [column for column in columns if re.search(rf"[(.]{column} (?:[<>=]|<=|>=)", condition)]
