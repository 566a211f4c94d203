"""What the flags of `taskworker`, their variables and the settings make of a worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import load_command_class
from django.test import override_settings

from django_taskq.management.taskworker.options import options_of
from django_taskq.worker.options import WorkerOptions

# A variable, what it says, the option of the worker, and what that becomes; then the same by flag.
VARIABLES = [
    ("QUEUES", "mail, slow", "queues", ("mail", "slow"), ["-Q", "x"], ("x",)),
    ("EXCLUDE_QUEUES", "slow", "excluded", ("slow",), ["-X", "x"], ("x",)),
    ("POOL", "threads", "pool", "threads", ["-P", "asyncio"], "asyncio"),
    ("CONCURRENCY", "3", "concurrency", 3, ["-c", "4"], 4),
    ("MAX_TASKS", "3", "max_tasks", 3, ["--max-tasks", "4"], 4),
    ("MAX_TASKS_PER_CHILD", "3", "max_tasks_per_child", 3, ["--max-tasks-per-child", "0"], 0),
    ("MAX_MEMORY_PER_CHILD", "3", "max_memory_per_child", 3, ["--max-memory-per-child", "0"], 0),
    ("SHUTDOWN_TIMEOUT", "2.5", "shutdown_timeout", 2.5, ["--shutdown-timeout", "0"], 0.0),
    ("RELOAD", "1", "reload", True, ["--no-reload"], False),
    ("RELOAD", "0", "reload", False, ["--reload"], True),
    ("HEALTH_PORT", "8001", "health_port", 8001, ["--health-port", "0"], 0),
]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take away what the environment of the tests says."""
    for name in [name for name in os.environ if name.startswith("TASKWORKER_")]:
        monkeypatch.delenv(name)
    yield


def options(*arguments: str) -> WorkerOptions:
    """Return what the command makes of a command line."""
    command: Any = load_command_class("django_taskq", "taskworker")
    parser = command.create_parser("manage.py", "taskworker")
    return options_of(vars(parser.parse_args(arguments)))


@pytest.mark.parametrize(
    ("name", "text", "option", "value", "flag", "other"),
    VARIABLES,
    ids=[f"{name}={text}" for name, text, *_ in VARIABLES],
)
def test_a_variable_stands_for_its_flag_and_the_flag_wins(
    name: str,
    text: str,
    option: str,
    value: Any,
    flag: list[str],
    other: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(f"TASKWORKER_{name}", text)

    # Where nobody says so, DEBUG decides on reloading.
    with override_settings(DEBUG=text == "0"):
        assert getattr(options(), option) == value
        assert getattr(options(*flag), option) == other


@pytest.mark.parametrize(("text", "preload"), [("1", False), ("0", True), ("", True)])
def test_a_variable_has_each_process_load_the_project(
    text: str, preload: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKWORKER_NO_PRELOAD", text)

    assert options().preload is preload


@pytest.mark.parametrize("debug", [False, True])
def test_a_variable_that_is_empty_says_nothing(
    debug: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, *_ in VARIABLES:
        monkeypatch.setenv(f"TASKWORKER_{name}", "")

    with override_settings(DEBUG=debug):
        made = options()

    assert (made.queues, made.pool, made.max_tasks, made.reload) == ((), "processes", 0, debug)
