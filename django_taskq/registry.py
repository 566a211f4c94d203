"""Know the tasks of this process by name. Rows name tasks; nothing is ever imported from a row.

The key is the task's `name` if it was given one, else the path of its function. Rows may also hold
a name that a task had before: one of its aliases.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import site
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.apps import apps

from django_taskq.suggestions import did_you_mean
from django_taskq.tasks_api import DjangoTask

_tasks: dict[str, DjangoTask[..., Any]] = {}
# Former names, and the keys of the tasks that had them.
_aliases: dict[str, str] = {}
_clashes: dict[str, tuple[str, str]] = {}
_discovered = False


@dataclass(frozen=True, kw_only=True)
class ImportFailure:
    """A tasks.py that could not be imported."""

    app: str
    module: str
    traceback: str
    # Lives among installed packages: somebody else's, and perhaps made for another task queue.
    is_foreign: bool


_failures: list[ImportFailure] = []


def add(key: str, task: DjangoTask[..., Any], aliases: Iterable[str] = ()) -> None:
    """Register a task that a decorator made; a second one of the same key is noted as a clash.

    A name that is another task's alias, or the other way round, is a clash too; the name wins.
    """
    known = get(key)
    if known is not None and not _is_reloaded(known.func, task.func):
        _clashes[key] = (_where(known.func), _where(task.func))
        if key in _tasks:
            return
    _tasks[key] = task
    for alias in aliases:
        holder = get(alias)
        if holder is None or holder is task:
            _aliases[alias] = key
        else:
            _clashes[alias] = (_where(holder.func), _where(task.func))


def add_plain(task: DjangoTask[..., Any]) -> None:
    """Register a task that Django's own decorator made, once."""
    if task.module_path not in _tasks:
        add(task.module_path, task)


def replace(key: str, task: DjangoTask[..., Any]) -> None:
    """Put another form of a registered task in its place."""
    _tasks[key] = task


def get(key: str) -> DjangoTask[..., Any] | None:
    """Return the task of this key or alias, or None."""
    found = _tasks.get(key)
    return _tasks.get(_aliases.get(key, "")) if found is None else found


def names() -> list[str]:
    """Return the names of all tasks, sorted."""
    return sorted(_tasks)


def known_names() -> list[str]:
    """Return every name under which rows can run here: names and aliases, sorted."""
    return sorted({*_tasks, *_aliases})


def clashes() -> dict[str, tuple[str, str]]:
    """Return keys that two tasks claim, each with the places of both."""
    return dict(_clashes)


def unknown(key: str) -> str:
    """Say that a name is unknown, with the nearest known one."""
    return (
        f'No task is registered as "{key}".{did_you_mean(key, _tasks)} A task is registered when '
        "its module is imported: is it in the tasks.py of an installed app?"
    )


def discover() -> list[ImportFailure]:
    """Import the tasks.py of every installed app, each on its own; return what failed."""
    global _discovered
    if not _discovered:
        _discovered = True
        for app in apps.get_app_configs():
            _import_tasks(app.label, f"{app.name}.tasks")
    return list(_failures)


def _import_tasks(app: str, module: str) -> None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return
    if spec is None:
        return
    try:
        imported = importlib.import_module(module)
    except Exception:
        _failures.append(
            ImportFailure(
                app=app,
                module=module,
                traceback=traceback.format_exc(),
                is_foreign=_is_installed(spec.origin),
            )
        )
        return
    for value in vars(imported).values():
        # Made by Django's decorator while another backend was the default: ours has not seen it,
        # but .using(backend=…) may send it here.
        if type(value) is DjangoTask:
            add_plain(value)


def _is_installed(origin: str | None) -> bool:
    """Say whether a module lies where packages are installed, whoever did that."""
    if origin is None:
        return False
    path = Path(origin).resolve()
    return any(path.is_relative_to(place) for place in _places_of_packages())


def _places_of_packages() -> set[Path]:
    """Return where this Python finds installed packages.

    The virtual environment's own; the system's, Debian's too, if that may be seen; and the user's.
    """
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    # On Windows the root of the installation is among these, and a project may lie below it.
    others = {*site.getsitepackages(), site.getusersitepackages()}
    places |= {place for place in others if Path(place).name in _NAMES_OF_PLACES}
    return {Path(place).resolve() for place in places}


_NAMES_OF_PLACES = ("site-packages", "dist-packages")


def _is_reloaded(old: Callable[..., Any], new: Callable[..., Any]) -> bool:
    """Say whether two functions are one definition, loaded twice (a reload, a notebook cell)."""
    return old is not new and _where(old) == _where(new)


def _where(func: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(func), "__code__", None)
    if code is None:
        return repr(func)
    return f"{code.co_filename}:{code.co_firstlineno}"
