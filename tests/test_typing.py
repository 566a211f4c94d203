"""What mypy says of right and of wrong code that uses the package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A line that ends with `# E: words` must be an error with these words; `# R: type` stands behind
# reveal_type. Every other line must be clean.
CODE = """
from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django_taskq import Task, TaskContext, TaskResult, aenqueue, enqueue, exponential, task


@task
def bare(x: int, y: str = "") -> str:
    return y


@task()
def empty(x: int) -> list[int]:
    return [x]


@task(
    name="a.b",
    queue_name="mail",
    priority=5,
    max_attempts=3,
    retry_on=(ConnectionError, OSError),
    give_up_on=PermissionError,
    backoff=[1, 2.5],
    timeout=timedelta(minutes=1),
    soft_timeout=5,
    expires_after=3600,
    store_result=False,
)
def configured(x: int, *, flag: bool) -> bytes:
    return b""


@task(backoff=lambda attempt, error: attempt * 2.0 if attempt < 3 else None)
def chosen(x: int) -> int:
    return x


@task(backoff=exponential(base=2))
async def later(x: int) -> float:
    return 1.0


@task(takes_context=True, max_attempts=2)
def told(context: TaskContext, x: int) -> int:
    context.progress(1, 2, "half")
    return context.attempt


@task(takes_context=True)
async def told_later(context: TaskContext, x: int) -> int:
    return context.max_attempts


reveal_type(bare)  # R: Task[[x: int, y: str =], str]
reveal_type(empty)  # R: Task[[x: int], list[int]]
reveal_type(configured)  # R: Task[[x: int, *, flag: bool], bytes]
reveal_type(later)  # R: Task[[x: int], float]
reveal_type(told)  # R: Task[[x: int], int]
reveal_type(told_later)  # R: Task[[x: int], int]

reveal_type(bare.enqueue(1))  # R: TaskResult[str]
reveal_type(bare.enqueue(1).wait(timeout=3))  # R: str
reveal_type(bare(1, "a"))  # R: str
reveal_type(later.enqueue(1).wait())  # R: float
reveal_type(bare.using(priority=3))  # R: Task[[x: int, y: str =], str]
reveal_type(bare.using(run_after=timedelta(1)).enqueue(1))  # R: TaskResult[str]
reveal_type(bare.enqueue_many([(1,), {"x": 2}]))  # R: Sequence[TaskResult[str]]
reveal_type(bare.get_result("id"))  # R: TaskResult[str]
reveal_type(enqueue("a.b", 1))  # R: TaskResult[Any]
told.enqueue(3)
configured.enqueue(1, flag=True)
bare.using(run_after=5.5, max_attempts=3, backoff=[1], timeout=timedelta(1), store_result=False)
bare.using(run_after=datetime(2100, 1, 1), backoff=exponential(), queue_name="x", backend="y")
bare.using(timeout=None, soft_timeout=None, expires_after=None, run_after=None, priority=None)
bare.enqueue(1).cancel().bit_length()

bare.enqueue()  # E: Missing positional argument "x"
bare.enqueue("1")  # E: has incompatible type "str"; expected "int"
bare.enqueue(1, z=2)  # E: Unexpected keyword argument "z"
bare.enqueue(1, "a", "b")  # E: Too many arguments
configured.enqueue(1, True)  # E: Too many positional arguments
told.enqueue(1, 3)  # E: Too many arguments
later.enqueue("1")  # E: has incompatible type "str"; expected "int"
bare("1")  # E: has incompatible type "str"; expected "int"
bare.using(retries=3)  # E: "retries"
bare.using(priority="high")  # E: "priority"
bare.using(max_attempts=None)  # E: "max_attempts"
bare.using(run_after="tomorrow")  # E: "run_after"
bare.enqueue(1).wait() + 1  # E: Unsupported operand
bare.queue_name = "mail"  # E: read-only


@task(retries=3)  # E: Unexpected keyword argument "retries"
def wrong(x: int) -> int:
    return x


@task(max_attempts="3")  # E: No overload variant
def wrong_too(x: int) -> int:
    return x


@task(retry_on="ValueError")  # E: Argument "retry_on" to "task" has incompatible type "str"
def wrong_as_well(x: int) -> int:
    return x


async def on_a_loop() -> None:
    reveal_type(await bare.aenqueue(1))  # R: TaskResult[str]
    reveal_type(await (await bare.aenqueue(1)).async_wait())  # R: str
    reveal_type(await later.acall(1))  # R: float
    reveal_type(await aenqueue("a.b", 1))  # R: TaskResult[Any]
    await bare.aenqueue("1")  # E: has incompatible type "str"; expected "int"


def takes_any(any_task: Task[..., Any], results: Sequence[TaskResult[str]]) -> None:
    any_task.enqueue(1, 2, three=3)


takes_any(bare, [bare.enqueue(1)])
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed: typing is NOT tested")
def test_mypy_accepts_right_code_and_refuses_wrong_code(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    source = tmp_path / "uses_tasks.py"
    source.write_text(CODE)
    cache = tmp_path / "cache"
    if pytestconfig.pluginmanager.hasplugin("cacheprovider") and pytestconfig.cache is not None:
        cache = Path(pytestconfig.cache.mkdir("mypy"))
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--no-pretty"),
            *("--config-file=", "--follow-imports=silent"),
            *("--cache-dir", str(cache), str(source)),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        timeout=380,
        check=False,
    )
    assert not ran.stderr, ran.stderr
    assert ran.returncode == 1, ran.stdout
    said = messages(ran.stdout, source.name)
    surprises = [
        problem
        for number, line in enumerate(CODE.splitlines(), start=1)
        if (problem := compare(number, line, said.pop(number, [])))
    ]
    assert not surprises, "\n".join(surprises)
    assert not said, said


def messages(output: str, name: str) -> dict[int, list[str]]:
    """Return what mypy said, by line; without the path to names, for they are long."""
    found: dict[int, list[str]] = {}
    for line in output.splitlines():
        match = re.search(rf"{re.escape(name)}:(\d+): (error|note): (.*)", line)
        assert match, line
        number, kind, text = match.groups()
        if kind == "error" or text.startswith("Revealed type"):
            short = re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Za-z])", "", text)
            found.setdefault(int(number), []).append(short)
    return found


def compare(number: int, line: str, said: list[str]) -> str | None:
    """Return what differs between a line's expectation and what mypy said of it."""
    code, _, expected = line.partition("  # E: ")
    if expected:
        # A refused decorator leaves its function untyped, which mypy says too.
        if [expected in text for text in said if "Untyped decorator" not in text] == [True]:
            return None
        return f"{number}: {code}: expected an error with {expected!r}, mypy said {said}"
    code, _, revealed = line.partition("  # R: ")
    if revealed:
        if said == [f'Revealed type is "{revealed}"']:
            return None
        return f"{number}: {code}: expected {revealed!r}, mypy said {said}"
    return f"{number}: {code}: expected nothing, mypy said {said}" if said else None
