"""System checks: each mistake has an id, names what is wrong, and says the way out."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections
from django.test import override_settings

from django_taskq import registry, task
from django_taskq.checks import (
    check_database,
    check_default_backend,
    check_distribution,
    check_one_transaction,
    check_pooler,
    check_router,
    check_settings,
    check_tasks,
)
from django_taskq.task import find_or_raise
from tests.rows import IMMEDIATE, OURS


def somebody(x: int) -> int:
    return x


def somebody_else(x: int) -> int:
    return x


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget afterwards what a test registered or failed to import."""
    registry.discover()
    monkeypatch.setattr(registry, "_tasks", dict(registry._tasks))
    monkeypatch.setattr(registry, "_clashes", {})
    monkeypatch.setattr(registry, "_failures", [])


@pytest.fixture
def no_atomic_tasks(own_registry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the atomic tasks that other modules of the tests have registered."""
    known = {key: task for key, task in registry._tasks.items() if not getattr(task, "atomic", 0)}
    monkeypatch.setattr(registry, "_tasks", known)


def only(messages: Any) -> checks.CheckMessage:
    (message,) = messages
    assert isinstance(message, checks.CheckMessage)
    return message


def test_an_ordinary_project_has_nothing_to_complain_about() -> None:
    call_command("check", deploy=False, fail_level="WARNING")


def test_our_checks_are_registered() -> None:
    registered = {check.__name__ for check in checks.registry.registry.get_checks(True)}
    assert {
        "check_database",
        "check_default_backend",
        "check_distribution",
        "check_one_transaction",
        "check_pooler",
        "check_router",
        "check_settings",
        "check_tasks",
    } <= registered


def test_checks_touch_no_database(django_assert_num_queries: Any, db: None) -> None:
    with django_assert_num_queries(0):
        checks.run_checks(include_deployment_checks=True)


# E001


@pytest.fixture
def sqlite(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Add a database of the wrong kind."""
    values = {**connections.settings["default"], "ENGINE": "django.db.backends.sqlite3"}
    monkeypatch.setitem(
        connections.settings, "wrong", {**values, "NAME": ":memory:", "OPTIONS": {}}
    )
    yield
    del connections["wrong"]


@pytest.mark.usefixtures("sqlite")
@override_settings(TASKS={"default": {"BACKEND": OURS, "OPTIONS": {"DATABASE": "wrong"}}})
def test_e001_another_database_than_postgresql() -> None:
    error = only(check_database())
    assert error.id == "django_taskq.E001"
    assert '"wrong"' in error.msg
    assert "SQLite" in error.msg
    assert "django.db.backends.postgresql" in error.msg


def test_e001_is_quiet_on_postgresql() -> None:
    assert list(check_database()) == []


@override_settings(TASKS={"default": {"BACKEND": IMMEDIATE}})
def test_e001_looks_at_the_default_database_when_no_backend_is_ours() -> None:
    assert list(check_database()) == []


# E002


@override_settings(DJANGO_TASKQ={"PAYLOAD_LIMITS": 5})
def test_e002_an_unknown_setting() -> None:
    error = only(check_settings())
    assert error.id == "django_taskq.E002"
    assert 'Did you mean "PAYLOAD_LIMIT"' in error.msg
    with pytest.raises(SystemCheckError, match=r"django_taskq\.E002"):
        call_command("check")


@override_settings(TASKS={"default": {"BACKEND": OURS, "OPTIONS": {"DATABSE": "default"}}})
def test_e002_an_unknown_option_of_the_backend() -> None:
    with pytest.raises(SystemCheckError) as caught:
        call_command("check")
    text = str(caught.value)
    assert "django_taskq.E002" in text
    assert 'TASKS["default"]["OPTIONS"] has an unknown key \'DATABSE\'' in text
    assert 'Did you mean "DATABASE"' in text


@override_settings(TASKS={"default": {"BACKEND": OURS, "OPTIONS": {"DATABASE": "defualt"}}})
def test_e002_a_database_that_is_not_among_databases() -> None:
    with pytest.raises(SystemCheckError) as caught:
        call_command("check")
    text = str(caught.value)
    assert "django_taskq.E002" in text
    assert "'defualt'" in text
    assert 'Did you mean "default"' in text


# E003


@pytest.mark.usefixtures("own_registry")
def test_e003_two_tasks_of_one_name() -> None:
    task(name="shop.send")(somebody)
    task(name="shop.send")(somebody_else)
    error = only(check_tasks())
    assert error.id == "django_taskq.E003"
    assert '"shop.send"' in error.msg
    assert error.msg.count("test_checks.py:") == 2
    assert '@task(name="…")' in str(error.hint)


@pytest.mark.usefixtures("own_registry")
def test_e003_a_name_that_is_anothers_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_aliases", {})
    task(name="shop.send", aliases=["shop.mail"])(somebody)
    task(name="shop.mail")(somebody_else)
    error = only(check_tasks())
    assert error.id == "django_taskq.E003"
    assert '"shop.mail"' in error.msg
    assert "alias" in str(error.hint)


# E005


def test_e005_the_other_project_of_our_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(metadata, "distribution", asked.append)
    error = only(check_distribution())
    assert asked == ["django-taskq"]
    assert error.id == "django_taskq.E005"
    assert '"django-taskq"' in error.msg
    assert error.hint == (
        "pip uninstall -y django-taskq django-taskq-pg && pip install django-taskq-pg"
    )


def test_e005_is_quiet_when_only_we_are_installed() -> None:
    assert list(check_distribution()) == []


# Warnings


@pytest.mark.usefixtures("own_registry")
def test_w008_an_installed_app_whose_tasks_cannot_be_imported() -> None:
    registry._failures.append(
        registry.ImportFailure(
            app="shop",
            module="shop.tasks",
            traceback="Traceback …\nModuleNotFoundError: No module named 'celery'\n",
            is_foreign=True,
        )
    )
    warning = only(check_tasks())
    assert warning.id == "django_taskq.W008"
    assert warning.level == checks.WARNING
    assert "shop.tasks" in warning.msg
    assert '"shop"' in warning.msg
    assert "No module named 'celery'" in warning.msg


@pytest.mark.usefixtures("own_registry")
def test_w008_is_quiet_where_a_bad_setting_keeps_our_own_tasks_from_being_imported() -> None:
    registry._failures.append(
        registry.ImportFailure(
            app="django_taskq",
            module="django_taskq.tasks",
            traceback="Traceback …\nImproperlyConfigured: an unknown key\n",
            is_foreign=True,
        )
    )
    assert only(check_tasks()).id == "django_taskq.W008"
    with override_settings(DJANGO_TASKQ={"PAYLOAD_LIMITS": 5}):
        assert list(check_tasks()) == []


@override_settings(TASKS={"default": {"BACKEND": IMMEDIATE}})
def test_w001_a_default_backend_that_is_not_ours() -> None:
    warning = only(check_default_backend())
    assert warning.id == "django_taskq.W001"
    assert "ImmediateBackend" in warning.msg
    assert OURS in str(warning.hint)


@pytest.mark.parametrize("backend", [None, OURS])
def test_w001_is_quiet_when_ours_is_the_default(backend: str | None) -> None:
    if backend is None:
        assert list(check_default_backend()) == []
        return
    with override_settings(TASKS={"default": {"BACKEND": backend}}):
        assert list(check_default_backend()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "server-side cursors"),
        ({"DISABLE_SERVER_SIDE_CURSORS": True, "OPTIONS": {"assume_role": "app"}}, "assume_role"),
        ({"DISABLE_SERVER_SIDE_CURSORS": True, "OPTIONS": {"prepare_threshold": 0}}, "prepare_th"),
    ],
)
@override_settings(DJANGO_TASKQ={"POOLED": True})
def test_w012_what_django_is_told_does_not_survive_a_pooler(
    changes: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in changes.items():
        monkeypatch.setitem(connections["default"].settings_dict, key, value)
    warning = only(check_pooler())
    assert warning.id == "django_taskq.W012"
    assert words in warning.msg
    assert '"default"' in warning.msg
    assert warning.hint


def test_w012_is_quiet_without_a_pooler_and_where_all_is_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert list(check_pooler()) == []
    monkeypatch.setitem(connections["default"].settings_dict, "DISABLE_SERVER_SIDE_CURSORS", True)
    with override_settings(DJANGO_TASKQ={"POOLED": True}):
        assert list(check_pooler()) == []


# A second database


SECOND = {"default": {"BACKEND": OURS, "OPTIONS": {"DATABASE": "queue"}}}
ROUTERS = ["django_taskq.router.TaskqRouter"]


class Elsewhere:
    """A project's router that keeps groups apart."""

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return "archive" if model.__name__ == "Group" else None


def atomically() -> None: ...


@pytest.mark.usefixtures("no_atomic_tasks")
@override_settings(TASKS=SECOND, DATABASE_ROUTERS=ROUTERS)
def test_w010_tasks_and_models_have_no_transaction_in_common() -> None:
    warning = only(check_one_transaction())
    assert warning.id == "django_taskq.W010"
    assert 'Tasks are kept in the database "queue", models in "default"' in warning.msg
    assert "on_commit" in str(warning.hint)
    assert 'SILENCED_SYSTEM_CHECKS = ["django_taskq.W010"]' in str(warning.hint)


@pytest.mark.usefixtures("no_atomic_tasks")
@pytest.mark.parametrize("routers", [ROUTERS, [*ROUTERS, "tests.test_checks.Elsewhere"]])
def test_w010_an_atomic_task_covers_one_database_only(
    routers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = task(name="shop.atomically")(atomically).key
    # The option, whatever else it asks for.
    object.__setattr__(find_or_raise(key), "atomic", True)
    with override_settings(DATABASE_ROUTERS=routers):
        warnings = list(check_one_transaction())
    if routers == ROUTERS:
        assert warnings == []
        return
    warning = only(warnings)
    assert warning.id == "django_taskq.W010"
    assert '"shop.atomically" is atomic' in warning.msg
    assert 'but not with what it writes to "archive"' in warning.msg


@pytest.mark.usefixtures("no_atomic_tasks")
def test_w010_is_quiet_when_tasks_are_beside_the_models() -> None:
    assert list(check_one_transaction()) == []


@override_settings(TASKS=SECOND)
def test_w011_a_second_database_without_a_router() -> None:
    warning = only(check_router())
    assert warning.id == "django_taskq.W011"
    assert 'in the database "queue"' in warning.msg
    assert 'the admin looks for them in "default"' in warning.msg
    assert "django_taskq.router.TaskqRouter" in str(warning.hint)


class NeverThere:
    """A project's router that leads reads right and lets nobody migrate."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "queue" if model._meta.app_label == "django_taskq" else None

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        return db == "default"


@override_settings(TASKS=SECOND, DATABASE_ROUTERS=["tests.test_checks.NeverThere"])
def test_w011_a_router_that_keeps_our_tables_from_being_made() -> None:
    assert 'does not create the tables in "queue"' in only(check_router()).msg


@override_settings(TASKS=SECOND, DATABASE_ROUTERS=ROUTERS)
def test_w011_is_quiet_with_our_router() -> None:
    assert list(check_router()) == []
