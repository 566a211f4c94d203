"""The one setting, DJANGO_TASKQ."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_taskq import conf


def test_without_the_setting_everything_has_a_default() -> None:
    assert conf.get() == conf.Settings()
    assert conf.get().payload_limit == 65_536


def test_a_change_of_the_setting_is_noticed_and_undone() -> None:
    with override_settings(
        DJANGO_TASKQ={"PAYLOAD_LIMIT": 5, "SHUTDOWN_TIMEOUT": 3, "LISTEN": False}
    ):
        assert conf.get().payload_limit == 5
        assert conf.get().shutdown_timeout == 3
        assert conf.get().listen is False
        assert conf.get().result_limit == conf.Settings().result_limit
    assert conf.get() == conf.Settings()


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(timedelta(days=2), 172_800.0), (3600, 3600), (0.5, 0.5), (0, 0), (None, None)],
)
def test_the_retention_is_seconds_or_a_timedelta_or_none(given: Any, seconds: Any) -> None:
    with override_settings(DJANGO_TASKQ={"RETENTION": given}):
        assert conf.get().retention == seconds


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"PAYLOAD_LIMITS": 5}, r"unknown key 'PAYLOAD_LIMITS'\. Did you mean \"PAYLOAD_LIMIT\"\?"),
        ({"payload_limit": 5}, r"unknown key 'payload_limit'\. Did you mean \"PAYLOAD_LIMIT\"\?"),
        ({5: 5}, r"unknown key 5\..*Known keys: .*CONCURRENCY"),
        ({"PAYLOAD_LIMIT": "5"}, r"\"PAYLOAD_LIMIT\"\] is '5'; it takes a whole number"),
        ({"PAYLOAD_LIMIT": 5.5}, "takes a whole number"),
        ({"PAYLOAD_LIMIT": True}, "takes a whole number"),
        ({"PAYLOAD_LIMIT": None}, "takes a whole number"),
        ({"PAYLOAD_LIMIT": -1}, "may not be negative"),
        ({"SHUTDOWN_TIMEOUT": "25"}, r"\"SHUTDOWN_TIMEOUT\"\] is '25'; it takes a number"),
        ({"SHUTDOWN_TIMEOUT": -0.5}, "may not be negative"),
        ({"SHUTDOWN_TIMEOUT": float("nan")}, "SHUTDOWN_TIMEOUT"),
        ({"RETENTION": "7d"}, r"\"RETENTION\"\] is '7d'; it takes seconds"),
        ({"RETENTION": timedelta(days=-1)}, "it takes seconds from 0 up"),
        ({"RETENTION": float("inf")}, "or None"),
        ({"LISTEN": 1}, r"\"LISTEN\"\] is 1; it takes True or False"),
        ({"POOLED": "yes"}, r"\"POOLED\"\] is 'yes'; it takes True or False"),
        ({"LISTEN_DSN": "nonsense"}, r"\"LISTEN_DSN\"\] is no connection string.*host=db"),
        ({"LISTEN_DSN": 5432}, r"\"LISTEN_DSN\"\] is no connection string"),
        (None, "DJANGO_TASKQ is None; it takes a dict"),
        ([("LISTEN", True)], "it takes a dict"),
    ],
)
def test_a_mistake_is_named_with_what_is_right(given: Any, words: str) -> None:
    with (
        override_settings(DJANGO_TASKQ=given),
        pytest.raises(ImproperlyConfigured, match=words) as caught,
    ):
        conf.get()
    assert "DJANGO_TASKQ" in str(caught.value)


def test_what_is_wrong_stays_wrong_at_the_second_look() -> None:
    with override_settings(DJANGO_TASKQ={"NOTHING": 1}):
        for _ in range(2):
            with pytest.raises(ImproperlyConfigured):
                conf.get()


def test_a_password_in_a_bad_connection_string_is_not_shown() -> None:
    with (
        override_settings(DJANGO_TASKQ={"LISTEN_DSN": "host=db secret-and-more"}),
        pytest.raises(ImproperlyConfigured) as caught,
    ):
        conf.get()
    assert "secret" not in str(caught.value)
