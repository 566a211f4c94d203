"""When a child looks for tasks that the database holds for it and it has not in hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from django_taskq import db
from django_taskq.db import Connection
from django_taskq.transitions import rescue
from django_taskq.worker import give_back
from django_taskq.worker.give_back import GiveBack
from tests.support import rows

START = 1000.0
NO_CONNECTION: Any = None


@pytest.fixture
def hand() -> set[str]:
    """Return the ids of what the child has in hand."""
    return set()


@pytest.fixture
def sweeps(hand: set[str], monkeypatch: pytest.MonkeyPatch) -> GiveBack:
    """Return those of a child that has nothing in hand and has looked just now."""
    monkeypatch.setattr(rescue, "give_back", mock.Mock(return_value=0))
    monkeypatch.setattr(give_back, "time", SimpleNamespace(monotonic=lambda: START))
    sweeps = GiveBack("worker", 0, kept=hand)
    sweeps.sweep(NO_CONNECTION, START)
    return sweeps


def moments(sweeps: GiveBack, seconds: int, *, late: bool = False) -> list[float]:
    """Let time pass, and sweep whenever it is due, or overdue; return when that was."""
    swept = []
    for now in range(seconds * 10):
        seconds_on = now / 10
        is_time = sweeps.is_overdue if late else sweeps.is_due
        if is_time(START + seconds_on):
            sweeps.sweep(NO_CONNECTION, START + seconds_on)
            swept.append(seconds_on)
    return swept


def test_a_child_with_work_looks_once_a_minute(sweeps: GiveBack, hand: set[str]) -> None:
    hand.add("one")

    assert moments(sweeps, 181) == [60, 120, 180]


def test_a_child_without_work_does_not_look(sweeps: GiveBack) -> None:
    assert moments(sweeps, 300) == []
    assert sweeps.next_at(START + 300) == float("inf")


@pytest.mark.parametrize("in_hand", [{"one"}, set[str]()], ids=["busy", "idle"])
def test_after_a_reconnect_a_child_looks_at_once_and_every_five_seconds_for_a_minute(
    sweeps: GiveBack, hand: set[str], in_hand: set[str]
) -> None:
    hand |= in_hand
    sweeps.look_soon(START)

    assert moments(sweeps, 61) == [*range(0, 60, 5), *([60] if in_hand else [])]


def test_an_idle_child_wakes_for_its_next_look(sweeps: GiveBack) -> None:
    sweeps.look_soon(START)
    assert sweeps.next_at(START) == START
    sweeps.sweep(NO_CONNECTION, START + 1)

    assert sweeps.next_at(START + 1) == START + 6


def test_a_child_that_is_always_busy_looks_two_seconds_late_and_no_more_often(
    sweeps: GiveBack, hand: set[str]
) -> None:
    hand.add("one")
    assert moments(sweeps, 130, late=True) == [62, 124]

    sweeps.look_soon(START)
    assert moments(sweeps, 60, late=True) == [2, 9, 16, 23, 30, 37, 44, 51, 58]


def test_what_a_child_lets_go_goes_back_once_and_soon_even_when_it_is_always_busy(
    sweeps: GiveBack, hand: set[str]
) -> None:
    hand.add("one")
    sweeps.ask()
    assert sweeps.is_due(START)
    assert not sweeps.is_overdue(START + 1.9)
    sweeps.ask()  # once more does not put it off

    assert moments(sweeps, 50, late=True) == [2]


def test_a_row_that_somebody_holds_keeps_a_child_from_nothing_else(
    connection: Connection, worker_id: str
) -> None:
    lost = rows.add_running(connection, worker_id)
    sweeps = GiveBack(worker_id, 0, kept=())
    with (
        db.worker_connection("default", name="test other") as other,
        other.transaction(force_rollback=True),
    ):
        other.execute("SELECT FROM django_taskq_livetask FOR UPDATE")
        sweeps.sweep(connection, START)
    assert rows.statuses(connection, [lost.id]) == ["RUNNING"]
    assert [sweeps.is_due(START + seconds) for seconds in (0, 4.9, 5)] == [False, False, True]
    assert sweeps.next_at(START) == START + 5

    sweeps.sweep(connection, START + 5)

    assert rows.statuses(connection, [lost.id]) == ["READY"]
