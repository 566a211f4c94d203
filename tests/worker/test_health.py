"""The HTTP server for probes, and what the worker says there of itself."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from django_taskq.worker.children import Children
from django_taskq.worker.health import HealthPortTaken, HealthServer
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.vitals import Vitals


def free_port(host: str = "127.0.0.1") -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as end:
        end.bind((host, 0))
        return int(end.getsockname()[1])


def get(port: int, path: str, host: str = "127.0.0.1", method: str = "GET") -> tuple[int, Any]:
    request = urllib.request.Request(f"http://{host}:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            code, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            code, text = error.code, error.read()
    return code, json.loads(text) if text else None


@pytest.fixture
def server() -> Iterator[int]:
    port = free_port()
    answers = {"/live": lambda: (True, {"a": 1}), "/ready": lambda: (False, {"b": None})}
    server = HealthServer("127.0.0.1", port, answers)
    yield port
    server.close()


def test_a_probe_gets_200_or_503_and_a_line_of_json(server: int) -> None:
    assert get(server, "/live") == (200, {"ok": True, "a": 1})
    assert get(server, "/ready?verbose") == (503, {"ok": False, "b": None})
    assert get(server, "/") == (404, {"error": "Ask for /live or /ready."})
    assert get(server, "/live", method="HEAD") == (200, None)


def test_who_connects_and_says_nothing_keeps_nobody_waiting(server: int) -> None:
    with socket.create_connection(("127.0.0.1", server)):
        began = time.monotonic()
        assert get(server, "/live")[0] == 200
        assert time.monotonic() - began < 2


def test_a_port_that_is_taken_is_named(server: int) -> None:
    with pytest.raises(HealthPortTaken, match=rf"--health-port 127.0.0.1:{server} .*in use"):
        HealthServer("127.0.0.1", server, {})


def test_an_ipv6_address_can_be_listened_on() -> None:
    try:
        port = free_port("::1")
    except OSError:
        pytest.skip("the IPv6 address was NOT tested: this machine has none")
    server = HealthServer("::1", port, {"/live": lambda: (True, {})})
    try:
        assert get(port, "/live", host="[::1]")[0] == 200
    finally:
        server.close()


@pytest.fixture
def children() -> Children:
    return Children(WorkerOptions(database="default", concurrency=2), "parent")


@pytest.fixture
def vitals(children: Children) -> Vitals:
    return Vitals(WorkerOptions(database="default", concurrency=2), children)


def test_a_worker_lives_while_it_starts_and_while_its_loop_goes_round(vitals: Vitals) -> None:
    now = time.monotonic()
    assert vitals.live()[0] is True
    vitals.loop(now - 9)
    assert vitals.live()[0] is True
    vitals.loop(now - 11)
    is_live, facts = vitals.live()
    assert (is_live, facts["loop_seconds_ago"] > 10) == (False, True)


def test_a_worker_is_ready_with_a_child_and_a_database_and_until_it_stops(
    vitals: Vitals, children: Children
) -> None:
    now = time.monotonic()
    vitals.answered(now)
    assert vitals.ready()[0] is False, "no child is up"
    children.slots[0].pid = 1
    children.slots[0].record.say_ready()
    assert vitals.ready()[0] is True
    assert vitals.ready()[1]["processes_up"] == 1
    vitals.answered(now - 13)
    assert vitals.ready()[0] is False, "the database has not answered"
    vitals.answered(now)
    vitals.stop()
    assert vitals.ready()[0] is False, "it stops"
    assert vitals.live()[0] is True
