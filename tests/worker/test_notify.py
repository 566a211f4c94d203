"""What systemd is told, by a socket that stands in for its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from django_taskq.worker.notify import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(5)
        yield end


def heard(end: socket.socket) -> list[str]:
    return end.recv(4096).decode().split("\n")


def nothing_more(end: socket.socket) -> bool:
    end.setblocking(False)
    try:
        end.recv(4096)
    except BlockingIOError:
        return True
    return False


def test_each_word_is_said_once_and_the_status_when_it_changes(systemd: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd.getsockname()})
    for _ in range(2):
        notifier.ready()
        notifier.status("2 of 2 up")
    assert [heard(systemd), heard(systemd)] == [["READY=1"], ["STATUS=2 of 2 up"]]
    notifier.reloading()
    reloading = heard(systemd)
    assert reloading[0] == "RELOADING=1"
    assert reloading[1].startswith("MONOTONIC_USEC=") and int(reloading[1][15:]) > 0
    notifier.stopping()
    assert heard(systemd)[0] == "STOPPING=1"
    notifier.beat(1e9)
    assert nothing_more(systemd)


def test_the_watchdog_hears_twice_in_its_time(systemd: socket.socket) -> None:
    environment = {
        "NOTIFY_SOCKET": systemd.getsockname(),
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    notifier = Notifier(environment)
    now = notifier.next_at
    notifier.beat(now)
    assert notifier.next_at == now + 15
    notifier.beat(now + 14)
    assert heard(systemd) == ["WATCHDOG=1"]
    assert nothing_more(systemd)
    other = Notifier({**environment, "WATCHDOG_PID": str(os.getpid() + 1)})
    assert other.next_at == float("inf")


def test_an_abstract_socket_is_found() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(f"\0django_taskq-{os.getpid()}")
        end.settimeout(5)
        Notifier({"NOTIFY_SOCKET": f"@django_taskq-{os.getpid()}"}).ready()
        assert heard(end) == ["READY=1"]


@pytest.mark.parametrize(
    "environment", [{}, {"NOTIFY_SOCKET": "/nowhere/notify"}, {"WATCHDOG_USEC": "1000"}]
)
def test_without_a_systemd_that_listens_nothing_happens(environment: dict[str, str]) -> None:
    notifier = Notifier(environment)
    notifier.ready()
    notifier.status("up")
    notifier.beat(1e9)
    notifier.stopping()
