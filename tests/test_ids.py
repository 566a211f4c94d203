"""Ids: UUIDv7, in ascending order within a process."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any
from uuid import RFC_4122, UUID, uuid4

import pytest

from django_taskq import ids
from django_taskq.ids import new_id, new_ids, parse_id


def test_ids_are_uuids_of_version_7_in_canonical_form() -> None:
    for made in new_ids(1000):
        read = UUID(made)
        assert str(read) == made
        assert (read.version, read.variant) == (7, RFC_4122)


def test_ids_begin_with_the_time_in_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    made = UUID(new_id()).int >> 80
    # A burst of ids before this one may have run a little ahead.
    assert before <= made <= time.time_ns() // 1_000_000 + 1000


def test_ids_ascend_and_differ_however_many_are_made_at_once() -> None:
    made = [new_id(), *new_ids(20_000), new_id(), *new_ids(3), new_id()]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_ascend_when_the_clock_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_id()
    monkeypatch.setattr(ids.time, "time_ns", lambda: 1_000_000_000)
    assert new_id() > first


def test_threads_never_make_the_same_id() -> None:
    made: list[str] = []

    def work() -> None:
        for _ in range(200):
            made.extend(new_ids(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == len(made) == 4000


def test_ids_of_two_processes_differ_in_the_same_millisecond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment = time.time_ns() + 10**12
    monkeypatch.setattr(ids.time, "time_ns", lambda: moment)
    monkeypatch.setattr(ids, "_last", 0)
    first = new_ids(50)
    monkeypatch.setattr(ids, "_last", 0)
    second = new_ids(50)
    assert [made[:18] for made in first] == [made[:18] for made in second]
    assert not set(first) & set(second)


@pytest.mark.parametrize("text", ["", "5", "x" * 36, None, 5, b"ab", "\x00", "1-2-3-4-5", object()])
def test_what_is_no_id_is_none(text: Any) -> None:
    assert parse_id(text) is None


def test_an_id_is_read_in_any_spelling() -> None:
    made = uuid4()
    for spelling in (made, str(made).upper(), made.hex, f"{{{made}}}"):
        assert parse_id(spelling) == str(made)


# Python 3.12 warns of exactly this.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_process_that_is_forked_while_a_thread_makes_ids_can_make_its_own() -> None:
    holds, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with ids._lock:
            holds.set()
            may_go.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait(10)
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)  # by its default it ends a process that hangs
        new_id()
        os._exit(0)
    may_go.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
