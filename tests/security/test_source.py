"""What the package's source never does: unpickle, evaluate, start a shell, or put SQL together."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.docs.markdown import ROOT

PACKAGE = ROOT / "django_taskq"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Modules that turn data into code or objects, and those that start programs.
NEVER_IMPORTED = {
    *("pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml", "runpy"),
    *("code", "codeop", "pty", "commands"),
}
NEVER_CALLED = {"eval", "exec", "compile", "__import__", "mark_safe", "system", "popen", "spawnl"}

# Where a module is imported by a name that is no literal: whose name it is.
IMPORTS_BY_NAME = {
    "registry.py": "the tasks.py of an installed app",
    "carried.py": 'a path in DJANGO_TASKQ["CONTEXT"]',
    "mail.py": 'a path in DJANGO_TASKQ["EMAIL_BACKEND"]',
    "task_class.py": "the constant path of our backend",
    "control/migrations.py": "our migrations, or those in MIGRATION_MODULES of the project",
    "testing/__init__.py": "a constant: its own modules, when they are asked for",
    "testing/worker_settings.py": "the settings module of the tests",
}
BY_NAME = {"import_module", "import_string", "get_connection", "find_spec"}

# Where a program is started, and which.
PROGRAMS = {
    "management/commands/rundev.py": "this very Python, twice",
    "testing/processes.py": "this very Python, as a worker",
    "worker/fork.py": "this very Python, as a nursery",
    "worker/reload.py": "this very Python, anew",
}

# Where SQL is put together while the package runs, and of what.
COMPOSED = {
    ("db.py", "SET ROLE {}"): "an identifier of psycopg.sql, from OPTIONS['assume_role']",
    ("db.py", 'f"SELECT {asked}"'): "a constant number of set_config(%s, %s, true)",
    ("transitions/enqueue.py", "COPY.format(more=columns)"): "two constant names of columns",
    ("pooled.py", "self._settings"): "set_config() of literals that psycopg.sql has made",
    ("worker/pruner.py", "SET LOCAL statement_timeout"): "a constant",
    ("worker/listener.py", 'f"LISTEN {CHANNEL}"'): "the constant channel: LISTEN takes no value",
}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def nodes(path: Path) -> Iterator[ast.AST]:
    yield from ast.walk(ast.parse(path.read_text()))


def called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def imported(node: ast.AST) -> set[str]:
    match node:
        case ast.Import(names=names):
            return {alias.name.partition(".")[0] for alias in names}
        case ast.ImportFrom(module=str(module), level=0):
            return {module.partition(".")[0]}
        case _:
            return set()


def test_nothing_makes_code_or_objects_of_data() -> None:
    for path in SOURCES:
        for node in nodes(path):
            assert not imported(node) & NEVER_IMPORTED, f"{path}: {ast.unparse(node)}"
            if isinstance(node, ast.Call):
                is_pattern = ast.unparse(node.func) == "re.compile"
                assert is_pattern or called(node) not in NEVER_CALLED, ast.unparse(node)
                keywords = {keyword.arg for keyword in node.keywords}
                assert not keywords & {"object_hook", "object_pairs_hook", "shell"}, ast.unparse(
                    node
                )


def test_nothing_is_imported_by_a_name_but_what_the_project_has_named() -> None:
    for path in SOURCES:
        names = {
            called(node)
            for node in nodes(path)
            if isinstance(node, ast.Call)
            and called(node) in BY_NAME
            and not (node.args and isinstance(node.args[0], ast.Constant))
        }
        assert not names or name_of(path) in IMPORTS_BY_NAME, f"{path}: {names}"


def test_no_program_is_started_but_python_itself() -> None:
    for path in SOURCES:
        starts = any("subprocess" in imported(node) for node in nodes(path)) or re.search(
            r"os\.(exec|spawn|posix_spawn)", path.read_text()
        )
        assert not starts or name_of(path) in PROGRAMS, path


def composed(path: Path) -> Iterator[str]:
    """Yield the first arguments of execute() and its like that are no names of constants."""
    constants = {
        target.id
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in nodes(path):
        is_sent = isinstance(node, ast.Call) and called(node) in {"execute", "executemany", "copy"}
        if not is_sent or not node.args:
            continue
        statement = node.args[0]
        if isinstance(statement, ast.Constant):
            continue
        text = ast.unparse(statement)
        if text in {"row", "taken.row", "*args"}:
            continue  # the execute() of an executor or a home; what PooledConnection passes on
        last = text.rpartition(".")[2]
        if last.isupper() and (last in constants or "." in text):
            continue
        yield text


def test_every_statement_is_a_constant() -> None:
    for path in SOURCES:
        for text in composed(path):
            # A function that is handed one of the constants, as `findings.ask` is.
            is_passed_on = text in {"statement", "query"} or text.startswith("_STATEMENTS.get(")
            known = any(
                file == name_of(path) and part.strip("f\"'") in text.replace("'", '"')
                for file, part in COMPOSED
            )
            assert is_passed_on or known, f"{name_of(path)}: {text}"


def test_constants_of_sql_are_put_together_of_constants_only() -> None:
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            is_sql = isinstance(node, ast.Assign) and "/* django_taskq:" in ast.unparse(node.value)
            if not is_sql:
                continue
            for part in ast.walk(node.value):
                if isinstance(part, ast.FormattedValue):
                    text = ast.unparse(part.value)
                    # A constant, a function of this package that is given a literal, a part of one.
                    assert re.fullmatch(
                        r"_?[A-Z][A-Z_]*( \+ 1)?|utc\('[\w.]+'\)|_?[A-Z_]+\.replace\(.*\)", text
                    ), f"{path}: {text}"


def test_the_package_depends_on_little() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.match(r"[\w-]+", line)[0] for line in project["dependencies"]]  # type: ignore[index]
    # croniter works schedules out; django-tasks is Django's own framework for Django 5.2.
    assert sorted(names) == ["croniter", "django", "django-tasks", "psycopg"]


def test_what_is_imported_from_elsewhere_is_declared() -> None:
    import sys

    theirs = {
        name
        for path in SOURCES
        for node in nodes(path)
        for name in imported(node)
        if name not in sys.stdlib_module_names
    }
    # pytest by the plugin, which pytest itself loads.
    assert theirs <= {"django", "django_tasks", "django_taskq", "psycopg", "asgiref", "pytest"}
