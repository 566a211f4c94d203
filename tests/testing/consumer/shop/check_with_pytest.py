"""The fixtures, in pytest."""

from __future__ import annotations

import os
import urllib.request
from types import ModuleType
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import connection

from django_taskq import get_result
from django_taskq.testing import worker
from shop.tasks import add_group, succeed_at, tell_if_cancelled


@pytest.mark.parametrize("name", ["mammals", "birds", "fish"])
def test_draining(taskq: ModuleType, name: str) -> None:
    add_group.enqueue(name)
    taskq.assert_enqueued(add_group, name, times=1)
    assert taskq.drain(raise_errors=True).counts == {"completed": 1}
    assert Group.objects.get().name == name


def test_running_inline(taskq_inline: None) -> None:
    assert succeed_at.enqueue(3).return_value == 3


@pytest.mark.django_db(transaction=True)
def test_draining_without_a_transaction(taskq: ModuleType) -> None:
    assert not connection.in_atomic_block
    succeed_at.enqueue(3)
    assert taskq.drain().counts == {"retrying": 2, "completed": 1}


@pytest.mark.parametrize("name", ["mammals", "birds"])
def test_a_worker_runs_tasks_in_the_test_database(taskq_worker: Any, name: str) -> None:
    value = add_group.enqueue(name).wait(timeout=60)
    assert value["database"] == connection.settings_dict["NAME"]
    assert value["database"].startswith("test_")
    gateway = os.environ.get("PYTEST_XDIST_WORKER", "")
    assert value["database"].endswith(gateway)
    assert Group.objects.get().name == name
    assert "add_group" in taskq_worker.output


@pytest.mark.taskq_worker(queues="mail", settings={"MEDIA_ROOT": "/elsewhere"})
def test_a_worker_with_options(taskq_worker: Any, live_server: Any) -> None:
    value = add_group.using(queue_name="mail").enqueue("mammals").wait(timeout=60)
    assert value["media"] == "/elsewhere"
    with urllib.request.urlopen(f"{live_server.url}/enqueue/fish/") as answer:
        result = get_result(answer.read().decode())
    assert not result.is_finished


@pytest.mark.parametrize("pool", ["threads", "asyncio", "solo"])
@pytest.mark.django_db(transaction=True)
def test_a_worker_with_another_pool(pool: str) -> None:
    with worker(pool=pool) as running:
        result = tell_if_cancelled.enqueue() if pool == "asyncio" else succeed_at.enqueue(2)
        assert result.wait(timeout=60) == (False if pool == "asyncio" else 2), running.output


def test_nobody_cancels_what_is_drained(taskq: ModuleType) -> None:
    tell_if_cancelled.enqueue()
    assert taskq.drain(raise_errors=True).results[0].return_value is False
