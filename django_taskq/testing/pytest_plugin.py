"""Fixtures for pytest, beside those of pytest-django. Loaded in every project: imports little."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from django_taskq.testing.processes import RunningWorker

_MARK = "taskq_worker(**options): the options with which the fixture taskq_worker starts its worker"


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", _MARK)


@pytest.fixture
def taskq(db: None) -> ModuleType:
    """Return django_taskq.testing (drain, assert_enqueued …), with access to the database."""
    from django_taskq import testing

    return testing


@pytest.fixture
def taskq_inline(db: None) -> Iterator[None]:
    """Let enqueue() run tasks at once."""
    from django_taskq.testing import run_inline

    with run_inline():
        yield


@pytest.fixture
def taskq_worker(request: pytest.FixtureRequest, transactional_db: None) -> Iterator[RunningWorker]:
    """Run a real worker on the test database; its output is shown when the test fails."""
    from django_taskq.testing import worker

    mark = request.node.get_closest_marker("taskq_worker")
    with worker(**(mark.kwargs if mark is not None else {})) as running:
        try:
            yield running
        finally:
            running.stop()
            # Among what pytest captures, which it shows for tests that fail.
            sys.stdout.write(f"--- worker {running.pid}:\n{running.output}\n")
