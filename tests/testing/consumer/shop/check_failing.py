"""Tests that fail, for what is shown then."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from django_taskq.testing import worker
from shop.tasks import add_group


def test_that_fails_beside_the_fixture(taskq_worker: Any) -> None:
    add_group.enqueue("mammals").wait(timeout=60)
    assert not "of any help"


@pytest.mark.django_db(transaction=True)
def test_that_fails_inside_a_block() -> None:
    with worker():
        add_group.enqueue("mammals").wait(timeout=60)
        assert not "of any help"


@pytest.mark.django_db(transaction=True)
def test_whose_worker_dies() -> None:
    with worker() as running:
        os.kill(running.pid, signal.SIGKILL)
        running.process.wait()


@pytest.mark.django_db(transaction=True)
def test_whose_worker_does_not_come_up() -> None:
    with worker(settings={"DJANGO_TASKQ": {"NO_SUCH": 1}}):
        assert not "reached"


@pytest.mark.django_db(transaction=True)
def test_that_misspells_an_option() -> None:
    with worker(concurency=2):
        assert not "reached"
