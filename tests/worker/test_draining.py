"""How long a child keeps its hand empty for a suspect."""

from __future__ import annotations

from django_taskq.worker.draining import Draining

HOUR = 3600


def seconds_lost(draining: Draining, seconds: int, *, told_every: float = 1.0) -> list[float]:
    """Let time pass with a task of hours in hand; return how long each wait was."""
    waits, began = [], 0.0
    for tenths in range(seconds * 10):
        now = tenths / 10
        if draining.is_under_way and draining.give_up_if_in_vain(now):
            waits.append(now - began)
        if now % told_every == 0 and not draining.is_under_way:
            draining.begin(now)
            began = now
    return waits


def test_a_child_with_several_places_waits_longer_each_time_and_claims_for_as_long() -> None:
    waits = seconds_lost(Draining(places=4), 600)

    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert sum(waits) < 0.6 * 600


def test_one_that_has_had_its_suspect_begins_anew() -> None:
    draining = Draining(places=4)
    assert seconds_lost(draining, 20) == [1, 2, 4]

    draining.begin(HOUR)
    draining.end()
    assert not draining.is_under_way
    assert draining.ends_at == float("inf")
    draining.begin(2 * HOUR)

    assert draining.ends_at == 2 * HOUR + 1


def test_where_one_task_runs_at_a_time_nothing_is_lost_by_waiting_for_its_end() -> None:
    draining = Draining(places=1)
    draining.begin(0)
    draining.begin(1)

    assert seconds_lost(draining, HOUR) == []
    assert draining.is_under_way
