"""What ends a task in time without ending its process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from django_taskq.exceptions import SoftTimeLimit
from django_taskq.worker.pools.limits import Interrupter, Watchdog


def spin(seconds: float) -> None:
    """Run Python code: an exception may come between two steps."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass


def in_thread(work: Callable[[], object]) -> list[object]:
    """Run a function in a thread; return what it returned or raised."""
    came_to: list[object] = []

    def run() -> None:
        try:
            came_to.append(work())
        except BaseException as error:
            came_to.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    return came_to


def test_things_are_done_in_the_order_of_their_times() -> None:
    watchdog, done, all_done = Watchdog(), list[str](), threading.Event()
    now = time.monotonic()
    watchdog.at(now + 0.2, lambda: (done.append("late"), all_done.set()))  # type: ignore[func-returns-value]
    watchdog.at(now + 0.1, lambda: done.append("early"))
    watchdog.at(now + 0.05, lambda: done.append("never")).call_off()
    assert all_done.wait(10)
    assert done == ["early", "late"]


def test_what_is_called_off_takes_no_memory_for_long() -> None:
    watchdog = Watchdog()
    for _ in range(5000):
        watchdog.at(time.monotonic() + 3600, lambda: None).call_off()
    assert len(watchdog._heap) <= 1001


def test_a_thread_is_interrupted_between_two_steps() -> None:
    watchdog = Watchdog()

    def work() -> object:
        interrupter = Interrupter(watchdog)
        interrupter.arm(0.1)
        try:
            spin(20)
        except SoftTimeLimit as error:
            return str(error)
        finally:
            interrupter.disarm()
        return "in time"

    assert in_thread(work) == ["The task has run for its soft_timeout."]


def test_who_is_in_time_is_left_alone_and_so_is_the_next() -> None:
    watchdog = Watchdog()

    def work() -> object:
        interrupter = Interrupter(watchdog)
        for _ in range(300):
            # As the executor does: who ends just when the time is up may hear of it on disarming.
            with suppress(SoftTimeLimit):
                interrupter.arm(0.001)
                try:
                    spin(0.0009)
                finally:
                    interrupter.disarm()
            spin(0.0005)  # nothing may arrive here
        return "done"

    assert in_thread(work) == ["done"]


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_a_thread_that_was_told_too_late_hears_nothing(seconds: float) -> None:
    watchdog = Watchdog()

    def work() -> object:
        interrupter = Interrupter(watchdog)
        interrupter.arm(seconds)
        interrupter.disarm()
        spin(0.2)
        return "left alone"

    assert in_thread(work) == ["left alone"]
