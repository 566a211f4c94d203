"""Death is judged by counters that stand still, on our own clock, and by nothing else.

The clock here is a number, and the database a dict of counters: what an observer would read.
"""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import psycopg
import pytest

from django_taskq import clocks, db, registry
from django_taskq.db import Connection
from django_taskq.transitions import presence as rows
from django_taskq.transitions.presence import Beat, Seen
from django_taskq.worker.presence import Observer, Presence
from tests.support import rows as tables


class World:
    """Workers that beat as a test says, and an observer of them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.counters = {"other": 7}
        self.observer = Observer()
        self.condemned: list[str] = []

    def beat(self, *, takes: float = 0.0) -> list[str]:
        """Let the observer beat; return whom it condemns."""
        asked_at = self.now
        self.now += takes
        others = [Seen(id, "CHILD", None, "here", 1, n) for id, n in self.counters.items()]
        silent = self.observer.take_in(others, asked_at=asked_at, answered_at=self.now)
        self.condemned += [row.id for row in silent]
        return [row.id for row in silent]

    def go_on(self, seconds: float, *, every: float = 5.0, alive: bool = False) -> None:
        """Beat at intervals; `alive`: the other one does, too."""
        end = self.now + seconds
        while self.now + every <= end:
            self.now += every
            if alive:
                self.counters["other"] += 1
            self.beat()


@pytest.fixture
def world() -> World:
    started = World()
    started.beat()
    return started


def test_a_counter_that_stands_still_for_30_seconds_is_condemned(world: World) -> None:
    world.go_on(25)
    assert world.condemned == []

    world.go_on(5)
    assert world.condemned == ["other"]


def test_one_beat_within_30_seconds_is_enough_to_live(world: World) -> None:
    for _ in range(10):
        world.go_on(20)
        world.counters["other"] += 1

    assert world.condemned == []


def test_a_new_worker_has_30_seconds_for_its_first_beat(world: World) -> None:
    world.go_on(25, alive=True)
    world.counters["new"] = 0
    world.go_on(30, alive=True)
    assert world.condemned == []

    world.go_on(5, alive=True)
    assert world.condemned == ["new"]


def test_a_counter_that_went_back_after_a_failover_has_moved(world: World) -> None:
    world.go_on(25)
    world.counters["other"] = 3
    world.go_on(25)
    world.counters["other"] = 2
    world.go_on(25)

    assert world.condemned == []


def test_an_outage_is_not_held_against_whoever_comes_back_later_than_we(world: World) -> None:
    for _ in range(5):
        world.now += 45  # the database is away for one and a half times the TTL
        world.beat()
        world.go_on(25)  # the other one has paused for longer, and beats only now
        world.counters["other"] += 1
        world.go_on(5)

    assert world.condemned == []


def test_our_own_suspension_is_not_held_against_others(world: World) -> None:
    world.go_on(20, alive=True)
    world.now += 600

    assert world.beat() == []
    world.counters["other"] += 1
    world.go_on(25)
    assert world.condemned == []


def test_a_beat_that_took_too_long_is_a_gap(world: World) -> None:
    world.go_on(25)
    world.now += 4
    world.beat(takes=8)  # nobody knows when in these 8 s it was read: the window begins after them
    world.now += 1
    world.beat()
    world.go_on(25)
    assert world.condemned == []

    world.go_on(5)
    assert world.condemned == ["other"]


def test_beats_that_are_late_but_not_two_intervals_apart_are_no_gap(world: World) -> None:
    world.go_on(36, every=9)

    assert world.condemned == ["other"]


def test_whoever_beats_too_seldom_to_see_others_condemns_nobody(world: World) -> None:
    world.go_on(600, every=11)

    assert world.condemned == []


def test_a_process_that_left_and_one_that_came_are_no_one_process(world: World) -> None:
    world.go_on(25)
    beat = world.counters.pop("other")
    world.go_on(5)
    world.counters["other"] = beat  # as after a restore of the database
    world.go_on(25)
    assert world.condemned == []


def test_of_many_only_the_silent_are_condemned(world: World) -> None:
    world.counters.update({f"dead{n}": n for n in range(3)})
    world.go_on(35, alive=True)

    assert set(world.condemned) == {"dead0", "dead1", "dead2"}


# --- with a database -----------------------------------------------------------------------------


@pytest.fixture
def clock() -> Iterator[mock.Mock]:
    """Stop the monotonic clock of the module; a test sets what it shows."""
    with mock.patch("django_taskq.worker.presence.time") as time:
        time.monotonic.return_value = 1000.0
        yield time.monotonic


def watch(mine: Presence, connection: Connection, clock: mock.Mock, seconds: float) -> set[str]:
    """Beat for so many seconds."""
    known = mine.beat(connection, [])
    for _ in range(int(seconds / clocks.BEAT)):
        clock.return_value += clocks.BEAT
        known = mine.beat(connection, [])
    return known


def listed(connection: Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT id FROM django_taskq_worker").fetchall()}


@pytest.fixture
def mine(connection: Connection) -> Presence:
    return Presence(tables.add_worker(connection))


def test_what_a_lost_worker_held_goes_back_and_says_who_was_lost(
    connection: Connection, clock: mock.Mock, mine: Presence, caplog: pytest.LogCaptureFixture
) -> None:
    lost = tables.add_worker(connection)
    running = tables.add_running(connection, lost, task="tests.tasks.add")
    registry.discover()

    watch(mine, connection, clock, 30)
    assert listed(connection) == {mine.id}
    assert mine.sweep_at == 0.0
    assert mine.sweep(connection) is True

    row = tables.row(connection, running.id)
    assert (row["status"], row["attempts"], row["crashes"]) == ("READY", 0, 1)
    (error,) = row["errors"]
    assert error["exception_class_path"] == "django_taskq.exceptions.TaskCrashed"
    assert error["worker"] == lost
    assert "The process 1 on here was lost" in error["message"]
    assert "The process 1 on here is dead" in caplog.text
    assert f"held 1 task(s) that run again: {running.id}" in caplog.text
    assert mine.sweep_at == clock.return_value + clocks.SWEEP
    assert mine.sweep(connection) is False


def test_a_counter_that_moves_at_the_last_moment_saves_its_process(
    connection: Connection, clock: mock.Mock, mine: Presence
) -> None:
    late = tables.add_worker(connection)
    watch(mine, connection, clock, 25)
    clock.return_value += clocks.BEAT

    def beat_after_the_reading(*args: object) -> Beat:
        answer = ask(*args)  # type: ignore[arg-type]
        ask(connection, [late])
        return answer

    ask = rows.beat
    with mock.patch.object(rows, "beat", beat_after_the_reading):
        mine.beat(connection, [])

    assert late in listed(connection)


def test_a_beat_and_what_it_reads_are_one_statement(
    connection: Connection, clock: mock.Mock, mine: Presence
) -> None:
    """Else one of them could come through alone, or much later than the other."""
    silent = tables.add_worker(connection)

    with mock.patch.object(connection, "execute", wraps=connection.execute) as sent:
        beat = rows.beat(connection, [mine.id])

    assert sent.call_count == 1
    assert (beat.known, [row.id for row in beat.others]) == ({mine.id}, [silent])


def test_whoever_cannot_beat_judges_nobody(
    connection: Connection, clock: mock.Mock, mine: Presence
) -> None:
    """Somebody holds our row. What is read meanwhile says nothing of whom we would see."""
    silent = tables.add_worker(connection)
    watch(mine, connection, clock, 25)
    connection.execute("SET lock_timeout = '20ms'")
    with db.worker_connection("default", name="test other") as other, other.transaction():
        other.execute("SELECT FROM django_taskq_worker WHERE id = %s FOR UPDATE", [mine.id])
        for _ in range(3):
            clock.return_value += clocks.BEAT
            with pytest.raises(psycopg.errors.LockNotAvailable):
                mine.beat(connection, [])

    mine.beat(connection, [])
    assert silent in listed(connection)


def test_lost_tasks_are_looked_for_often_after_somebody_has_gone_and_else_now_and_then(
    connection: Connection, clock: mock.Mock, mine: Presence
) -> None:
    other = tables.add_worker(connection)

    def pause() -> float:
        mine.beat(connection, [])
        if clock.return_value >= mine.sweep_at:
            mine.sweep(connection)
        return float(mine.sweep_at - clock.return_value)

    assert pause() == 5  # we have just come
    clock.return_value += 60
    assert pause() == 60  # all are here
    connection.execute("DELETE FROM django_taskq_worker WHERE id = %s", [other])
    clock.return_value += 5
    assert pause() == 5
    clock.return_value += 5
    assert pause() == 5


def test_a_look_for_lost_tasks_that_is_slow_is_seldom(
    connection: Connection, clock: mock.Mock, mine: Presence
) -> None:
    def look(_: Connection) -> list[str]:
        clock.return_value += 4  # a snapshot of an hour ago keeps millions of dead rows
        return []

    with mock.patch("django_taskq.worker.presence.rescue.find_orphaned", look):
        mine.sweep(connection)

    assert mine.sweep_at == pytest.approx(1080)


def test_whoever_was_declared_dead_judges_nobody_and_sweeps_nothing(
    connection: Connection, clock: mock.Mock, mine: Presence
) -> None:
    silent = tables.add_worker(connection)
    watch(mine, connection, clock, 25)
    connection.execute("DELETE FROM django_taskq_worker WHERE id = %s", [mine.id])
    clock.return_value += clocks.BEAT

    assert mine.beat(connection, []) == set()
    assert mine.is_declared_dead
    assert silent in listed(connection)
    assert mine.sweep_at == float("inf")


def test_a_worker_is_told_which_of_its_processes_are_gone(
    connection: Connection, mine: Presence
) -> None:
    child, gone = tables.add_worker(connection), "019f0000-0000-7000-8000-000000000001"

    assert mine.beat(connection, [child, gone]) == {mine.id, child}
    assert not mine.is_declared_dead


def test_rows_that_the_database_refuses_do_not_end_the_supervisor(
    connection: Connection, mine: Presence, caplog: pytest.LogCaptureFixture
) -> None:
    registry.discover()
    nobody, other = (tables.add_worker(connection) for _ in range(2))
    # No claim leaves them like this: attempts cannot go below nothing.
    bad = tables.add_running(connection, nobody, task="tests.tasks.add", attempts=0)
    good = tables.add_running(connection, other, task="tests.tasks.add")
    connection.execute("DELETE FROM django_taskq_worker WHERE id <> %s", [mine.id])

    assert mine.sweep(connection) is True

    assert tables.row(connection, bad.id)["status"] == "RUNNING"
    assert tables.row(connection, good.id)["status"] == "READY"
    assert "cannot be taken back" in caplog.text
