"""What `from django_taskq import …` offers."""

from __future__ import annotations

import types

import django_taskq
from django_taskq import exceptions


def test_the_public_names_are_sorted_and_there() -> None:
    assert django_taskq.__all__ == sorted(django_taskq.__all__)
    assert len(set(django_taskq.__all__)) == len(django_taskq.__all__)
    for name in django_taskq.__all__:
        assert hasattr(django_taskq, name), name


def test_nothing_public_is_left_out() -> None:
    public = {
        name
        for name, value in vars(django_taskq).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public - {"annotations"} == set(django_taskq.__all__)


def test_every_exception_that_users_meet_is_offered() -> None:
    family = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type)
        and issubclass(value, Exception)
        and value.__module__ == exceptions.__name__
    }
    # The base of Retry, Snooze and Cancel is never raised by itself.
    assert family - {"TaskControl"} == family & set(django_taskq.__all__)


def test_what_a_task_raises_to_say_how_it_goes_on_is_no_error_of_ours() -> None:
    for control in (django_taskq.Retry, django_taskq.Snooze, django_taskq.Cancel):
        assert not issubclass(control, django_taskq.TaskqError)


def test_every_public_name_explains_itself() -> None:
    for name in django_taskq.__all__:
        assert (getattr(django_taskq, name).__doc__ or "").strip(), name
