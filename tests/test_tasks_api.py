"""The seam to django.tasks: Django's own, or the backport on 5.2."""

from __future__ import annotations

import subprocess
import sys

import django
import pytest
from django.test import override_settings

from django_taskq import tasks_api
from django_taskq.statuses import TaskStatus
from tests.rows import IMMEDIATE, OURS


def test_every_name_that_is_offered_is_there() -> None:
    for name in tasks_api.__all__:
        assert hasattr(tasks_api, name), name


def test_on_django_6_its_own_tasks_are_used_and_the_backport_before() -> None:
    own = django.VERSION >= (6, 0)
    assert tasks_api.DjangoTask.__module__ == ("django.tasks.base" if own else "django_tasks.base")
    assert ("django.tasks" if own else "django_tasks") == tasks_api.LOGGER_NAME


def test_djangos_own_receivers_are_counted_right() -> None:
    # One writes the log line of each signal; any more is somebody who listens.
    for signal in (tasks_api.task_enqueued, tasks_api.task_started, tasks_api.task_finished):
        assert len(signal.receivers) == tasks_api.DJANGO_LOG_RECEIVERS


def test_the_words_that_we_share_with_django_are_equal() -> None:
    for word in tasks_api.TaskResultStatus:
        assert TaskStatus(word.value) == word
    assert len(tasks_api.TaskResultStatus) == 4


def test_a_tasks_setting_is_noticed() -> None:
    assert tasks_api.has_tasks_setting() is False
    with override_settings(TASKS={"default": {"BACKEND": IMMEDIATE}}):
        assert tasks_api.has_tasks_setting() is True
        first = tasks_api.task_backends["default"]
    with override_settings(TASKS={"default": {"BACKEND": OURS}}):
        # The receiver that drops backends is connected without "django_tasks" in INSTALLED_APPS.
        assert type(tasks_api.task_backends["default"]) is not type(first)
    assert tasks_api.has_tasks_setting() is False


@pytest.mark.skipif(django.VERSION >= (6, 0), reason="Django 6 needs no backport")
def test_without_the_backport_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['django_tasks'] = None\n"
        "from django.conf import settings; settings.configure()\n"
        "import django_taskq\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "ImproperlyConfigured" in ran.stderr
    assert "pip install 'django-taskq-pg[django52]'" in ran.stderr


@pytest.mark.skipif(django.VERSION >= (6, 0), reason="Django 6 checks its own backends")
def test_the_backports_check_runs_without_its_app() -> None:
    from django.core.checks.registry import registry

    assert "django_tasks.checks" in {check.__module__ for check in registry.get_checks()}
