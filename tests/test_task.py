"""Defining tasks: @task, its options, and what it refuses."""

from __future__ import annotations

import copy
import functools
import pickle
import runpy
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import django
import pytest
from asgiref.sync import async_to_sync
from django.test import override_settings

from django_taskq import Task, TaskContext, TaskqError, exponential, registry, task
from django_taskq.task import at_most_once_names, find
from django_taskq.tasks_api import DjangoTask, InvalidTask
from tests import tasks
from tests.rows import OURS

if django.VERSION >= (6, 0):
    from django.tasks import task as django_decorator
else:
    from django_tasks import task as django_decorator


def plain(x: int = 1) -> int:
    return x


def other(x: int = 1) -> int:
    return x


async def plain_async(x: int) -> int:
    return x


def with_context(context: TaskContext, x: int = 1) -> int:
    return x


def without_context(x: int) -> int:
    return x


def always_five(attempt: int, error: BaseException) -> float:
    return 5.0


class Shape:
    def area(self) -> float:
        return 1.0


@task(backoff=lambda attempt, error: attempt * 2.0, queue_name="odd")
def with_lambda_backoff(x: int = 1) -> int:
    return x


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget afterwards what a test registered."""
    monkeypatch.setattr(registry, "_tasks", dict(registry._tasks))
    monkeypatch.setattr(registry, "_aliases", dict(registry._aliases))
    monkeypatch.setattr(registry, "_clashes", {})


# What it makes


def test_a_bare_decorator_makes_a_task_with_defaults() -> None:
    made = task(plain)
    assert isinstance(made, Task)
    assert isinstance(made, DjangoTask)
    assert (made.queue_name, made.priority, made.backend) == ("default", 0, "default")
    assert made.max_attempts == 1
    assert made.retry_on == (Exception,)
    assert made.give_up_on == ()
    assert made.backoff == exponential(base=15, cap=3600)
    assert (made.timeout, made.soft_timeout, made.expires_after) == (None, None, None)
    assert made.store_result is True
    assert made.atomic is False
    assert made.takes_context is False


def test_every_option_is_kept_in_plain_hashable_form() -> None:
    made = task(
        name="shop.send",
        queue_name="mail",
        priority=-100,
        takes_context=True,
        max_attempts=5,
        retry_on=[ConnectionError, TimeoutError],
        give_up_on=PermissionError,
        backoff=[1, 2.5, 60],
        timeout=timedelta(minutes=2),
        soft_timeout=90,
        expires_after=timedelta(hours=1),
        store_result=False,
        atomic=True,
    )(with_context)
    assert made.name == made.key == "shop.send"
    assert made.queue_name == "mail"
    assert made.priority == -100
    assert made.max_attempts == 5
    assert made.retry_on == (ConnectionError, TimeoutError)
    assert made.give_up_on == (PermissionError,)
    assert made.backoff == (1.0, 2.5, 60.0)
    assert (made.timeout, made.soft_timeout, made.expires_after) == (120.0, 90.0, 3600.0)
    assert made.store_result is False
    assert made.atomic is True
    assert made.takes_context is True
    assert hash(made) == hash(copy.deepcopy(made))  # no list is among the fields


def test_empty_parentheses_are_the_same_as_none() -> None:
    assert task()(plain).key == "tests.test_task.plain"


def test_a_task_is_called_by_its_function_and_known_by_its_path() -> None:
    made = task(plain)
    assert made.name == "plain"
    assert made.key == made.module_path == "tests.test_task.plain"
    assert repr(made) == "<Task tests.test_task.plain>"


def test_calling_a_task_calls_the_function() -> None:
    assert tasks.add(1, b=2) == 3


def test_calling_a_task_that_takes_a_context_passes_what_was_given() -> None:
    seen: list[dict[str, Any]] = []
    context = TaskContext(task_result=None, report=seen.append)  # type: ignore[arg-type]
    assert task(takes_context=True)(with_context)(context, 3) == 3


def test_call_and_acall_run_sync_and_async_functions() -> None:
    assert tasks.add.call(1, 2) == 3
    assert tasks.add_async.call(1, 2) == 3
    assert async_to_sync(tasks.add.acall)(1, 2) == 3
    assert async_to_sync(tasks.add_async.acall)(1, 2) == 3


def test_a_task_can_be_a_key_and_cannot_be_changed() -> None:
    assert {tasks.add: 1}[tasks.add] == 1
    with pytest.raises(AttributeError):
        tasks.add.queue_name = "mail"  # type: ignore[misc]


def test_a_name_is_the_key_under_which_rows_know_the_task() -> None:
    assert tasks.named.key == tasks.named.name == "samples.named"
    assert tasks.named.module_path == "tests.tasks.named"
    assert find("samples.named") is tasks.named
    assert find("tests.tasks.named") is None


# Copies that leave the process


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_task_survives_pickling(protocol: int) -> None:
    found = pickle.loads(pickle.dumps(tasks.named, protocol))
    assert found == tasks.named
    assert found.func is tasks.named.func
    assert isinstance(found, Task)


def test_a_copy_by_using_survives_pickling_with_its_options() -> None:
    changed = tasks.fail_as.using(priority=5, run_after=60, timeout=9, backoff=[1, 2])
    found = pickle.loads(pickle.dumps(changed))
    assert found == changed
    assert (found.priority, found.delay, found.timeout, found.backoff) == (5, 60.0, 9.0, (1.0, 2.0))
    assert found.retry_on == (ConnectionError, OSError)


def test_a_task_whose_backoff_is_a_lambda_survives_pickling() -> None:
    changed = with_lambda_backoff.using(priority=9)
    found = pickle.loads(pickle.dumps(changed))
    assert found == changed
    assert found.backoff(2, ValueError()) == 4.0


def test_deepcopy_gives_an_equal_task_with_the_same_function() -> None:
    changed = tasks.add.using(priority=3)
    copied = copy.deepcopy(changed)
    assert copied == changed
    assert copied.func is tasks.add.func


def test_unpickling_never_imports_what_is_not_registered() -> None:
    pickled = pickle.dumps(task(name="tests.gone")(plain))
    del registry._tasks["tests.gone"]
    with pytest.raises(TaskqError, match=r'"tests\.gone".*registered'):
        pickle.loads(pickled)


# What it refuses


def test_an_unknown_option_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(TypeError, match=r'unknown option "retries"'):
        task(retries=3)(plain)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r'unknown option "max_attempt"\. Did you mean "max_att'):
        task(max_attempt=3)(plain)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r'Did you mean "queue_name"'):
        task(queue="mail")(plain)  # type: ignore[call-overload]


def test_an_unknown_option_that_resembles_none_is_told_with_the_function_and_all_known_ones() -> (
    None
):
    with pytest.raises(TypeError) as refused:
        task(colour="red")(plain)  # type: ignore[call-overload]
    assert str(refused.value) == (
        '@task tests.test_task.plain got an unknown option "colour". It takes name, aliases, '
        "queue_name, priority, backend, max_attempts, retry_on, give_up_on, backoff, timeout, "
        "soft_timeout, expires_after, store_result, redact, atomic, at_most_once, takes_context."
    )


@pytest.mark.parametrize("option", ["key", "delay", "is_copy", "func"])
def test_what_tasks_use_inside_is_no_option(option: str) -> None:
    with pytest.raises(TypeError, match=f'@task tests.test_task.plain has no option "{option}"'):
        task(**{option: 1})(plain)


def test_run_after_belongs_to_using() -> None:
    with pytest.raises(TypeError, match=r"using\(run_after="):
        task(run_after=1)(plain)  # type: ignore[call-overload]


def test_a_lambda_is_refused() -> None:
    with pytest.raises(InvalidTask, match=r"lambda cannot be a task.*function with a name"):
        task(lambda: 1)


def test_a_nested_function_is_refused_with_where_to_put_it() -> None:
    def inside() -> None: ...

    with pytest.raises(InvalidTask, match=r"inside.*module level"):
        task(inside)


def test_a_wrapper_without_functools_wraps_is_refused_with_the_cure() -> None:
    def careless(f: Any) -> Any:
        def wrapper(*args: Any) -> Any:
            return f(*args)

        return wrapper

    with pytest.raises(InvalidTask, match=r"functools\.wraps"):
        task(careless(plain))


def test_a_wrapper_with_functools_wraps_is_welcome() -> None:
    def careful(f: Any) -> Any:
        @functools.wraps(f)
        def wrapper(*args: Any) -> Any:
            return f(*args) + 100

        return wrapper

    made = task(careful(plain))
    assert made.key == "tests.test_task.plain"
    assert made(1) == 101


@pytest.mark.parametrize("thing", [Shape, functools.partial(plain, 1), 5, Shape()])
def test_what_is_no_function_is_refused(thing: Any) -> None:
    with pytest.raises(InvalidTask, match="takes a function"):
        task()(thing)


def test_a_method_is_refused() -> None:
    with pytest.raises(InvalidTask, match=r"module.level"):
        task(Shape().area)


def test_a_task_is_not_decorated_twice() -> None:
    with pytest.raises(InvalidTask, match=r"tests\.tasks\.add is a task already"):
        task(tasks.add)


def test_a_context_must_be_the_first_argument() -> None:
    with pytest.raises(InvalidTask, match="context"):
        task(takes_context=True)(without_context)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"priority": True}, "priority is a whole number, not True"),
        ({"priority": 1.0}, "priority is a whole number, not 1.0"),
        ({"priority": "high"}, "priority is a whole number, not 'high'"),
        ({"priority": 101}, "priority.*-100.*100"),
        ({"priority": -101}, "priority.*-100.*100"),
        ({"max_attempts": 0}, "max_attempts=0"),
        ({"max_attempts": 40_000}, "max_attempts=40000"),
        ({"max_attempts": 1.5}, "max_attempts is a whole number, not 1.5"),
        ({"max_attempts": True}, "max_attempts is a whole number, not True"),
        ({"retry_on": "ValueError"}, "retry_on takes exception classes"),
        ({"retry_on": (ValueError, 5)}, "retry_on takes exception classes"),
        ({"give_up_on": int}, "give_up_on takes exception classes"),
        ({"backoff": "fast"}, "backoff takes seconds"),
        ({"backoff": []}, "backoff takes seconds"),
        ({"backoff": [1, "2"]}, "backoff takes seconds, not '2'"),
        ({"backoff": -1}, "backoff takes seconds from 0 up"),
        ({"backoff": float("inf")}, "backoff takes seconds from 0 up"),
        ({"backoff": float("nan")}, "backoff takes seconds from 0 up"),
        ({"backoff": True}, "backoff takes seconds, not True"),
        ({"timeout": 0}, "timeout=0 must be above 0"),
        ({"timeout": "5"}, "timeout takes seconds or a timedelta, not '5'"),
        ({"timeout": timedelta(0)}, "timeout.*above 0"),
        ({"soft_timeout": -1}, "soft_timeout=-1 must be above 0"),
        ({"expires_after": float("nan")}, "expires_after takes seconds"),
        ({"expires_after": 1e12}, "expires_after.*30 years"),
        ({"timeout": 5, "soft_timeout": 5}, "soft_timeout=5 s must be shorter than timeout=5 s"),
        ({"store_result": "no"}, "store_result is True or False, not 'no'"),
        ({"aliases": "shop.old"}, "aliases takes a list of names.*not 'shop.old'"),
        ({"aliases": [""]}, "aliases takes a list of names"),
        ({"aliases": ["x" * 129]}, "aliases takes a list of names"),
        ({"aliases": ["\x00"]}, "aliases takes a list of names"),
        ({"atomic": 1}, "atomic is True or False, not 1"),
        ({"at_most_once": None}, "at_most_once is True or False, not None"),
        ({"at_most_once": True, "max_attempts": 2}, "allows one start, max_attempts=2 more"),
        ({"at_most_once": True, "atomic": True}, "exclude each other"),
        ({"name": 5}, "name is text"),
        ({"name": "x" * 129}, "name is text of at most 128"),
        ({"queue_name": ""}, "queue_name is text of 1 to 128"),
        ({"queue_name": "x" * 129}, "queue_name is text of 1 to 128"),
        ({"queue_name": 5}, "queue_name is text of 1 to 128"),
    ],
)
def test_a_bad_option_is_refused_where_the_task_stands(options: Any, words: str) -> None:
    with pytest.raises(InvalidTask, match=words) as caught:
        task(**options)(plain)
    assert str(options.get("name", "plain")) in str(caught.value)


@pytest.mark.parametrize("text", ["a\x00b", "a\ud800b"])
@pytest.mark.parametrize("option", ["name", "queue_name"])
def test_a_name_that_postgresql_cannot_store_is_refused(option: str, text: str) -> None:
    with pytest.raises(InvalidTask, match="name"):
        task(**{option: text})(plain)


@pytest.mark.parametrize("priority", [-100, 100])
def test_the_highest_and_the_lowest_priority_are_allowed(priority: int) -> None:
    assert task(priority=priority)(plain).priority == priority


def test_names_of_the_greatest_length_are_allowed() -> None:
    assert task(name="x" * 128, queue_name="q" * 128)(plain).key == "x" * 128


def test_a_function_as_backoff_belongs_to_the_decorator() -> None:
    assert task(backoff=always_five)(plain).backoff is always_five


def test_an_unknown_backend_is_refused() -> None:
    with (
        override_settings(TASKS={"default": {"BACKEND": OURS}}),
        pytest.raises(Exception, match="nowhere"),
    ):
        task(backend="nowhere")(plain)


def test_a_script_may_define_a_task_but_not_enqueue_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from django_taskq import task\n@task\ndef f(x): return x\n")
    made = runpy.run_path(str(script), run_name="__main__")["f"]
    assert made(3) == 3
    with pytest.raises(InvalidTask, match=r"__main__.*Move it to a module"):
        made.enqueue(3)


# Django's own decorator


@pytest.fixture
def ours_by_setting() -> Iterator[None]:
    with override_settings(TASKS={"default": {"BACKEND": OURS}}):
        yield


@pytest.mark.usefixtures("ours_by_setting")
def test_djangos_decorator_makes_our_task_when_the_backend_is_ours() -> None:
    made = django_decorator(plain)
    assert isinstance(made, Task)
    assert made.key == "tests.test_task.plain"


@pytest.mark.usefixtures("ours_by_setting")
def test_a_task_of_djangos_decorator_is_known_to_workers() -> None:
    made = django_decorator(priority=4, queue_name="mail")(plain)
    assert find("tests.test_task.plain") == made


@pytest.mark.usefixtures("ours_by_setting")
def test_two_tasks_of_djangos_decorator_with_one_path_clash() -> None:
    django_decorator(plain)
    django_decorator(queue_name="slow")(plain)
    assert "tests.test_task.plain" in registry.clashes()


@pytest.mark.usefixtures("ours_by_setting")
def test_our_options_pass_through_djangos_decorator_where_it_lets_them() -> None:
    options: dict[str, Any] = {"max_attempts": 4, "timeout": 5, "name": "through.django"}
    if (6, 0) <= django.VERSION < (6, 1):
        with pytest.raises(TypeError, match="max_attempts"):
            django_decorator(**options)
        return
    made = django_decorator(**options)(plain)
    assert (made.max_attempts, made.timeout, made.key) == (4, 5.0, "through.django")
    with pytest.raises(TypeError, match=r'Did you mean "max_attempts"'):
        django_decorator(max_attempt=4)(plain)


def test_an_atomic_task_may_not_be_async_and_the_message_says_what_to_do() -> None:
    with pytest.raises(InvalidTask, match="Write it as def"):
        task(atomic=True, name="atomic and async")(plain_async)


def test_a_task_that_is_started_at_most_once_gets_no_attempts_by_using() -> None:
    once = task(at_most_once=True, name="once only")(plain)
    assert at_most_once_names() >= {"once only"}

    with pytest.raises(InvalidTask, match="allows one start"):
        once.using(max_attempts=3)
    with pytest.raises(TypeError, match="using\\(\\) cannot change at_most_once"):
        once.using(at_most_once=False)


def test_former_names_of_a_task_are_started_at_most_once_too() -> None:
    task(at_most_once=True, name="once new", aliases=["once old"])(plain)

    assert at_most_once_names() >= {"once new", "once old"}
