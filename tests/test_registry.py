"""Knowing tasks by name: clashes, reloads, and tasks.py files that cannot be imported."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test.utils import modify_settings

from django_taskq import registry, task
from tests import tasks


def twice(x: int) -> int:
    return x


def another(x: int) -> int:
    return x


def pickles(x: int) -> int:
    return x


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget afterwards what a test registered or failed to import."""
    monkeypatch.setattr(registry, "_tasks", dict(registry._tasks))
    monkeypatch.setattr(registry, "_aliases", dict(registry._aliases))
    monkeypatch.setattr(registry, "_clashes", {})
    monkeypatch.setattr(registry, "_failures", [])
    monkeypatch.setattr(registry, "_discovered", False)


MakeApp = Callable[[str, str], types.ModuleType]


@pytest.fixture
def make_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeApp]:
    """Write an app with a tasks.py and import the app."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[str] = []

    def make(name: str, text: str) -> types.ModuleType:
        package = tmp_path / name
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        (package / "tasks.py").write_text(text)
        importlib.invalidate_caches()
        made.append(name)
        return importlib.import_module(name)

    yield make
    for name in [module for module in sys.modules if module.split(".")[0] in made]:
        del sys.modules[name]


def test_a_task_is_known_by_its_key() -> None:
    assert registry.get("tests.tasks.add") is tasks.add
    assert registry.get("samples.named") is tasks.named
    assert registry.get("tests.tasks.nowhere") is None


def test_two_tasks_of_one_name_clash_and_the_first_stays() -> None:
    first = task(name="shop.send")(twice)
    task(name="shop.send")(another)
    assert registry.get("shop.send") is first
    ((key, (one, two)),) = registry.clashes().items()
    assert key == "shop.send"
    assert one != two
    for place in (one, two):
        assert Path(place.rpartition(":")[0]).name == "test_registry.py"
        assert place.rpartition(":")[2].isdigit()


def test_one_function_decorated_twice_clashes_unless_one_has_a_name() -> None:
    fast = task(twice)
    task(queue_name="slow", name="slow.twice")(twice)
    assert not registry.clashes()
    task(queue_name="slower")(twice)
    assert set(registry.clashes()) == {"tests.test_registry.twice"}
    assert registry.get("tests.test_registry.twice") is fast


def test_a_former_name_leads_to_the_task_that_had_it() -> None:
    moved = task(name="shop.send", aliases=["shop.mail", "shop.post"])(twice)

    assert registry.get("shop.mail") is registry.get("shop.post") is moved
    assert {"shop.send", "shop.mail", "shop.post"} <= set(registry.known_names())
    assert "shop.mail" not in registry.names()
    assert not registry.clashes()


def test_a_name_that_is_anothers_alias_clashes_in_either_order_and_the_name_wins() -> None:
    task(name="shop.send", aliases=["shop.mail"])(twice)
    mail = task(name="shop.mail")(another)
    assert registry.get("shop.mail") is mail
    assert set(registry.clashes()) == {"shop.mail"}

    late = task(name="shop.late", aliases=["shop.mail"])(pickles)
    assert registry.get("shop.mail") is mail
    assert registry.get("shop.late") is late
    assert set(registry.clashes()) == {"shop.mail"}


def test_an_alias_of_two_tasks_clashes_and_stays_with_the_first() -> None:
    first = task(name="shop.send", aliases=["shop.mail"])(twice)
    task(name="shop.post", aliases=["shop.mail"])(another)

    assert registry.get("shop.mail") is first
    assert set(registry.clashes()) == {"shop.mail"}


def test_an_alias_survives_a_reload(make_app: MakeApp) -> None:
    make_app(
        "alias_app", "from django_taskq import task\n@task(aliases=['old.f'])\ndef f():\n  pass\n"
    )
    module = importlib.import_module("alias_app.tasks")
    importlib.reload(module)

    assert not registry.clashes()
    assert registry.get("old.f") is module.f


def test_a_reloaded_module_replaces_its_tasks_without_a_clash(make_app: MakeApp) -> None:
    text = "from django_taskq import task\n@task\ndef f():\n    return {}\n"
    make_app("reloaded_app", text.format(1))
    module = importlib.import_module("reloaded_app.tasks")
    before = module.f
    importlib.reload(module)
    assert not registry.clashes()
    assert registry.get("reloaded_app.tasks.f") is module.f
    assert module.f is not before


def test_an_unknown_name_is_answered_with_the_nearest_one_and_a_hint() -> None:
    text = registry.unknown("tests.tasks.echoo")
    assert '"tests.tasks.echoo"' in text
    assert 'Did you mean "tests.tasks.echo"?' in text
    assert "tasks.py of an installed app" in text
    assert "Did you mean" not in registry.unknown("zzzzzzzz")


def test_the_tasks_of_every_installed_app_are_imported(make_app: MakeApp) -> None:
    make_app("good_app", "from django_taskq import task\n@task\ndef f():\n    return 1\n")
    with modify_settings(INSTALLED_APPS={"append": "good_app"}):
        assert registry.discover() == []
    assert registry.get("good_app.tasks.f") is not None


def test_a_tasks_file_that_cannot_be_imported_does_not_stop_the_others(make_app: MakeApp) -> None:
    make_app("bad_app", "import no_such_library_for_tasks\n")
    make_app("worse_app", "raise RuntimeError('boom')\n")
    make_app("fine_app", "from django_taskq import task\n@task\ndef f():\n    return 1\n")
    with modify_settings(INSTALLED_APPS={"append": ["bad_app", "worse_app", "fine_app"]}):
        bad, worse = registry.discover()
    assert (bad.app, bad.module, bad.is_foreign) == ("bad_app", "bad_app.tasks", False)
    assert "no_such_library_for_tasks" in bad.traceback
    assert "RuntimeError: boom" in worse.traceback
    assert registry.get("fine_app.tasks.f") is not None


@pytest.mark.parametrize(
    ("name", "place", "answer"),
    [
        ("sysconfig.get_path", "lib/python3/site-packages", lambda place: lambda kind: place),
        ("site.getsitepackages", "python3/dist-packages", lambda place: lambda: [place]),
        ("site.getusersitepackages", ".local/site-packages", lambda place: lambda: place),
    ],
    ids=["the environment's", "the system's", "the user's"],
)
def test_an_app_among_installed_packages_is_foreign(
    name: str,
    place: str,
    answer: Callable[[str], Any],
    make_app: MakeApp,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = tmp_path / "linked" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path, target_is_directory=True)
    monkeypatch.setattr(name, answer(str(link)))
    make_app("foreign_app", "import celery_that_is_not_there\n")
    with modify_settings(INSTALLED_APPS={"append": "foreign_app"}):
        (failure,) = registry.discover()
    assert failure.is_foreign
    assert failure.app == "foreign_app"


def test_an_app_below_the_root_of_an_installation_is_the_projects_own(
    make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on Windows, where getsitepackages() begins with the root of the environment.
    monkeypatch.setattr("site.getsitepackages", lambda: [str(tmp_path)])
    make_app("own_app", "import no_such_library\n")
    with modify_settings(INSTALLED_APPS={"append": "own_app"}):
        (failure,) = registry.discover()
    assert not failure.is_foreign


def test_discovery_happens_once(make_app: MakeApp) -> None:
    make_app("bad_app", "raise RuntimeError('boom')\n")
    with modify_settings(INSTALLED_APPS={"append": "bad_app"}):
        first: Any = registry.discover()
        assert registry.discover() == first
    assert len(first) == 1
