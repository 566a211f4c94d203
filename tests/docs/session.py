"""Run the Python and SQL of a page in one process, as if somebody typed it into a shell.

The tests pass this text to `manage.py shell -c`, so it imports nothing from beside it. Requests
arrive as lines of JSON, each is answered by one.
"""

from __future__ import annotations

import ast
import asyncio
import doctest
import importlib
import inspect
import io
import json
import linecache
import os
import sys
import traceback
import types
from contextlib import redirect_stdout
from typing import Any

from django.db import connection

# All names that the page's blocks have made so far.
NAMES: dict[str, Any] = {"__name__": "__main__"}


def run_python(code: str, name: str, line: int, raises: str = "") -> str:
    """Run a block as a module of its own that sees what the blocks before it have made.

    Its functions are tasks of that module's name, so two blocks may show two forms of one task.
    """
    module = types.ModuleType(name)
    module.__dict__.update(
        {key: value for key, value in NAMES.items() if not key.startswith("__")}, __file__=name
    )
    sys.modules[name] = module
    said = io.StringIO()
    with redirect_stdout(said):
        try:
            execute(code, name, line, module.__dict__)
        except BaseException as error:
            if type(error).__name__ != raises:
                raise
        else:
            if raises:
                raise AssertionError(f"the page says that this raises {raises}; it did not")
    NAMES.update({key: value for key, value in vars(module).items() if not key.startswith("__")})
    return said.getvalue()


def execute(code: str, name: str, line: int, names: dict[str, Any]) -> None:
    """Run code with the page's line numbers; `await` may stand at its top."""
    shifted = "\n" * (line - 1) + code
    linecache.cache[name] = (len(shifted), None, shifted.splitlines(keepends=True), name)
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compiled = compile(shifted, name, "exec", flags=flags, dont_inherit=True)
    if compiled.co_flags & inspect.CO_COROUTINE:
        function = types.FunctionType(compiled, names)
        asyncio.run(function())
    else:
        exec(compiled, names)


def run_session(code: str, name: str, line: int) -> str:
    """Type an interactive session in; raise AssertionError with what differs from the page."""
    said: list[str] = []
    runner = doctest.DocTestRunner(
        verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    test = doctest.DocTestParser().get_doctest(code, NAMES, name, name, line)
    runner.run(test, out=said.append, clear_globs=False)
    NAMES.update(test.globs)
    if said:
        raise AssertionError("".join(said))
    return ""


def run_sql(code: str) -> str:
    """Send the text of a block as it stands: psql would."""
    with connection.cursor() as cursor:
        cursor.execute(code)
    if connection.connection.info.transaction_status.name != "IDLE":
        raise AssertionError("the block leaves a transaction open")
    return ""


def answer(request: dict[str, Any]) -> str:
    """Do what one request says; return what the code printed."""
    importlib.invalidate_caches()
    code, name, line = request["code"], request["name"], request["line"]
    match request["kind"]:
        case "python":
            return run_python(code, name, line, request["raises"])
        case "test":
            execute(code, name, line, NAMES)
            return ""
        case "shell":
            return run_session(code, name, line)
        case "sql":
            return run_sql(code)
    raise AssertionError(f"unknown request {request['kind']!r}")


def serve() -> None:
    """Answer requests until there are no more."""
    # What code prints on its own must not get between the answers.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for text in sys.stdin:
        try:
            reply = {"said": answer(json.loads(text)), "error": ""}
        except AssertionError as error:
            reply = {"said": "", "error": f"{error}\n{traceback.format_exc(limit=-1)}"}
        except BaseException:
            reply = {"said": "", "error": traceback.format_exc()}
        channel.write(json.dumps(reply) + "\n")
        channel.flush()


serve()
