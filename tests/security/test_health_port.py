"""The health port tells nothing but how the worker is, and no client can keep others waiting."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from django_taskq.worker import health
from django_taskq.worker.children import Children
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.vitals import Vitals
from tests.processes.support import wait_until
from tests.worker.test_health import free_port, get


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Yield the port of a server that has less patience than a worker's."""
    monkeypatch.setattr(health, "_REQUEST_TIME", 1.0)
    monkeypatch.setattr(health, "_MOST_CONNECTIONS", 10)
    port = free_port()
    server = health.HealthServer("127.0.0.1", port, {"/live": lambda: (True, {})})
    yield port
    server.close()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def ends(end: socket.socket) -> bool:
    """Say that the other side hangs up; wait for it."""
    try:
        while end.recv(1000):
            pass
    except ConnectionError:
        pass
    return True


def test_who_sends_a_byte_now_and_then_is_hung_up_on(port: int) -> None:
    with connect(port) as slow:
        began = time.monotonic()
        try:
            while time.monotonic() - began < 20:
                slow.sendall(b"G")
                time.sleep(0.1)
        except ConnectionError:
            pass
        assert time.monotonic() - began < 5


def test_a_crowd_that_says_nothing_is_few_threads_and_probes_are_answered(port: int) -> None:
    before = threading.active_count()
    with ExitStack() as crowd:
        opened = [crowd.enter_context(connect(port)) for _ in range(100)]
        began = time.monotonic()
        assert get(port, "/live") == (200, {"ok": True})
        assert time.monotonic() - began < 2
        wait_until(lambda: threading.active_count() - before <= 12, 5, "few threads are left")
        assert ends(opened[0])
    wait_until(lambda: threading.active_count() <= before, 10, "no thread is left")


@pytest.mark.parametrize(
    "request_line",
    [
        b"POST /live HTTP/1.1",
        b"GET",
        b"\x16\x03\x01\x02\x00",
        b"GET /live HTTP/9.9",
        b"<script> /live HTTP/1.0",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.0",
        b"GET /live HTTP/1.0" + b"\r\nX: y" * 200,
    ],
    ids=lambda line: repr(line[:12]),
)
def test_what_is_no_proper_request_is_answered_without_repeating_it(
    port: int, request_line: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(port) as end:
        end.sendall(request_line + b"\r\n\r\n")
        answer = b""
        try:
            while more := end.recv(10_000):
                answer += more
        except ConnectionError:
            pass
    assert b"<" not in answer and b"aaaa" not in answer and b"Python" not in answer
    if answer:
        body = answer.rpartition(b"\r\n\r\n")[2]  # without a head for HTTP/0.9
        assert json.loads(body) == {"error": "Ask by GET or HEAD."}
    assert get(port, "/live")[0] == 200
    said = capsys.readouterr()
    assert "Traceback" not in said.err


def test_the_answers_hold_times_and_counts_only() -> None:
    options = WorkerOptions(database="default")
    vitals = Vitals(options, Children(options, "id"))
    vitals.loop(time.monotonic())
    for answer in (vitals.live, vitals.ready):
        _, facts = answer()
        for name, value in facts.items():
            assert value is None or isinstance(value, int | float | bool), name
