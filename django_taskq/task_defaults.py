"""The project's own defaults for options of tasks: `DJANGO_TASKQ["TASK_DEFAULTS"]`."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver

from django_taskq import conf
from django_taskq.retries import DEFAULT_BACKOFF
from django_taskq.suggestions import did_you_mean
from django_taskq.task_options import TaskOptions, check_options
from django_taskq.tasks_api import InvalidTask

# The options that a project may give a default for, and what they are when nobody says anything.
PLAIN: dict[str, Any] = {
    "queue_name": "default",
    "priority": 0,
    "max_attempts": 1,
    "retry_on": (Exception,),
    "give_up_on": (),
    "backoff": DEFAULT_BACKOFF,
    "timeout": None,
    "soft_timeout": None,
    "expires_after": None,
    "store_result": True,
}

_SETTING = 'DJANGO_TASKQ["TASK_DEFAULTS"]'


@cache
def project_defaults() -> dict[str, Any]:
    """Return the project's defaults in the form that tasks hold. Raise ImproperlyConfigured."""
    given = conf.get().task_defaults
    for option in given:
        if option in PLAIN:
            continue
        if option in (*TaskOptions.__annotations__, "takes_context"):
            raise ImproperlyConfigured(
                f"{_SETTING} cannot hold {option!r}: give it to the @task that it is meant for. "
                f"It takes {', '.join(PLAIN)}."
            )
        raise ImproperlyConfigured(
            f"{_SETTING} has an unknown option {option!r}.{did_you_mean(str(option), PLAIN)} "
            f"It takes {', '.join(PLAIN)}."
        )
    # A task that says nothing itself, made of these: its options are checked as any task's.
    own: dict[str, Any] = {"name": "", "key": _SETTING, "aliases": (), "redact": ()}
    own |= {"atomic": False, "at_most_once": False}
    example = SimpleNamespace(**{**own, **PLAIN, **given})
    try:
        check_options(example)
    except InvalidTask as error:
        raise ImproperlyConfigured(str(error).replace(f"@task {_SETTING}", _SETTING)) from None
    return {option: getattr(example, option) for option in given}


def apply_defaults(task: Any) -> None:
    """Give a task the project's defaults for those options that its decorator left open.

    Django's decorator does not tell "left open" from "the default was written down".
    """
    if task.given is None:
        chosen = (option for option, value in PLAIN.items() if getattr(task, option) != value)
        object.__setattr__(task, "given", frozenset(chosen))
    try:
        project = project_defaults()
    except ImproperlyConfigured:
        return  # check E002 says so, and so does every enqueue
    for option, value in PLAIN.items():
        if option == "max_attempts" and task.at_most_once:
            continue  # a project that lets its tasks be retried does not mean these
        if option not in task.given:
            object.__setattr__(task, option, project.get(option, value))


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "DJANGO_TASKQ":
        project_defaults.cache_clear()
