"""Where our models live, by the TASKS setting."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import router
from django.test import override_settings

from django_taskq.models import FinishedTask, LiveTask, Worker
from django_taskq.router import database_of_tasks, databases_of_tasks
from tests.rows import IMMEDIATE, OURS

ROUTED = override_settings(DATABASE_ROUTERS=["django_taskq.router.TaskqRouter"])


def ours(database: str | None = None) -> dict[str, Any]:
    return {"BACKEND": OURS, "OPTIONS": {"DATABASE": database} if database else {}}


@pytest.mark.parametrize(
    ("tasks", "first", "all_of_them"),
    [
        (None, "default", ["default"]),
        ({"default": ours()}, "default", ["default"]),
        ({"default": ours("queue")}, "queue", ["queue"]),
        ({"default": ours("queue"), "bulk": ours("bulk")}, "queue", ["bulk", "queue"]),
        ({"default": {"BACKEND": IMMEDIATE}, "bulk": ours("bulk")}, "bulk", ["bulk"]),
        ({"default": {"BACKEND": IMMEDIATE}}, "default", ["default"]),
    ],
)
@ROUTED
def test_models_are_where_the_backend_keeps_tasks(
    tasks: Any, first: str, all_of_them: list[str]
) -> None:
    with override_settings(**({"TASKS": tasks} if tasks else {})):
        assert database_of_tasks() == first
        assert databases_of_tasks() == all_of_them
        for model in (LiveTask, FinishedTask, Worker):
            assert router.db_for_read(model) == first
            assert router.db_for_write(model) == first
            for alias in ("default", "queue", "bulk"):
                assert router.allow_migrate_model(alias, model) == (alias in all_of_them)


@ROUTED
@override_settings(TASKS={"default": ours("queue")})
def test_models_of_others_are_none_of_its_business() -> None:
    assert router.db_for_read(User) == "default"
    assert router.db_for_write(User) == "default"
    assert router.allow_migrate_model("default", User)
    assert router.allow_migrate_model("queue", User)
