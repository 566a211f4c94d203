"""No block of code is left untried by mistake, and the tools that try them find what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs import linting
from tests.docs.following import follow
from tests.docs.markdown import ROOT, PageError, Step, commands, name_of, pages, steps
from tests.docs.reader import says


def page(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "page.md"
    path.write_text(text)
    return path


def kinds(tmp_path: Path, text: str) -> list[str]:
    return [step.kind for step in steps(page(tmp_path, text))]


# --- the pages of this repository -----------------------------------------------------------------


@pytest.mark.parametrize("path", pages(), ids=name_of)
def test_each_block_of_a_page_has_a_treatment(path: Path) -> None:
    for step in steps(path):
        if step.kind == "tested by":
            file, _, test = step.argument.partition("::")
            assert f"def {test}(" in (ROOT / file).read_text(), step
        if step.kind == "not run":
            assert len(step.argument.split()) >= 4, f"{step}: that is no reason"


def test_few_blocks_are_left_to_readers() -> None:
    blocks = [step for path in pages() for step in steps(path) if step.language]
    blocks = [step for step in blocks if step.kind not in {"shown", "test", "hidden file"}]
    assert len(blocks) > 40
    left = [step for step in blocks if step.kind == "not run"]
    assert len(left) <= len(blocks) * 0.1, "\n".join(f"{step}: {step.argument}" for step in left)


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```\nx\n```\n", "a block of 'no language'"),
        ("```rust\nx\n```\n", "a block of 'rust'"),
        ("<!-- rum -->\n```console\n$ x\n```\n", "no such comment: 'rum'"),
        ("<!-- shell -->\n```python\nx\n```\n", "'shell' is nothing for a block of python"),
        ("<!-- not run -->\n```python\nx\n```\n", "needs words after a colon"),
        ("<!-- run -->\n\nText\n", "no block of code follows the comment 'run'"),
        ("```python\nx\n", "has no end"),
        ("<!-- test\nx\n", "a comment without an end"),
        ("```{literalinclude} nowhere.py\n```\n", "no file nowhere.py"),
    ],
)
def test_what_is_unclear_is_reported_with_its_place(
    tmp_path: Path, text: str, problem: str
) -> None:
    with pytest.raises(PageError, match=r"page\.md:\d+: .*" + re.escape(problem)):
        steps(page(tmp_path, text))


def test_blocks_are_found_in_lists_and_inside_directives(tmp_path: Path) -> None:
    text = (
        "- a list\n\n  ```sql\n  SELECT 1;\n  ```\n\n"
        ":::{note}\n```python\nx = 1\n```\n:::\n\n"
        "````{tip}\n```console\n$ ls\n```\n````\n\n"
        "```{toctree}\npage\n```\n\n"
        "```{code-block} python\n:caption: x\n\nTASKS = {}\n```\n"
    )
    found = steps(page(tmp_path, text))
    assert [step.kind for step in found] == ["sql", "python", "run", "settings"]
    assert [step.code for step in found] == ["SELECT 1;\n", "x = 1\n", "$ ls\n", "TASKS = {}\n"]
    assert found[0].line == 3


def test_fragments_of_settings_are_told_from_other_python(tmp_path: Path) -> None:
    for code in ("TASKS = {}", 'TASKS["default"]["X"] = 1', "INSTALLED_APPS += ['x']", "A = B = 1"):
        expected = ["python"] if code == "A = B = 1" else ["settings"]
        assert kinds(tmp_path, f"```python\n{code}\n```\n") == expected
    for code in ("x = 1", "X = 1\nprint(X)", "import x", "class A: ..."):
        assert kinds(tmp_path, f"```python\n{code}\n```\n") == ["python"]


def test_commands_are_told_from_what_they_print() -> None:
    assert commands("$ a \\\n  b\none\n$ c <<X\n> d\n> X\n") == [
        ("a \\\n  b", "one"),
        ("c <<X\nd\nX", ""),
    ]
    with pytest.raises(ValueError, match="begins with a command"):
        commands("one\n")


def test_output_may_differ_in_numbers_and_where_the_page_leaves_something_out() -> None:
    said = "12:01:02 ✓ shop.tasks.x  default  0.31 s  (waited 12 ms)\n"
    assert says("09:59:59 ✓ shop.tasks.x default 2.00 s (waited 1 ms)", said)
    assert says("✓ ... s", said)
    assert says("one\n  two\n", "zero\none\nand a half\n two\n")
    assert not says("one\ntwo\n", "two\none\n")
    assert not says("✗ shop.tasks.x", said)
    assert not says("shop.tasks.y", said)


# --- linting --------------------------------------------------------------------------------------


COMPOSE = "services:\n  worker:\n    image: shop\n    stop_grace_period: 30s\n"
MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: worker}
spec:
  selector: {matchLabels: {app: worker}}
  template:
    metadata: {labels: {app: worker}}
    spec: {containers: [{name: worker, image: shop}]}
"""
UNIT = "[Service]\nExecStart=/srv/shop/.venv/bin/python manage.py taskworker\nKillMode=mixed\n"


@pytest.mark.parametrize(
    ("language", "right", "wrong"),
    [
        ("console", "$ python manage.py taskworker -c 4", "$ python manage.py taskworker --quick"),
        ("console", "$ A=1 python manage.py migrate > x", "$ python manage.py migrateall"),
        ("console", "$ make bench BENCH_ARGS=--help", "$ make coffee"),
        ("sh", "pip install -U 'django-taskq-pg[c]' && ls", "pip install 'a[b'"),
        ("sh", "for x in 1 2; do echo $x; done", "for x in 1 2; echo"),
        ("json", "{}", "{"),
        ("toml", "a = 1", "a = "),
        ("ini", "[a]\nb = %d\n", "[a\n"),
        ("ini", UNIT, UNIT.replace("mixed", "some")),
        ("html", "{% if x %}{% endif %}", "{% if x %}"),
        ("yaml", "a: [1]", "a: ["),
        ("yaml", COMPOSE, COMPOSE.replace("image", "picture")),
        ("yaml", MANIFEST, MANIFEST.replace("containers", "boxes")),
        ("dockerfile", 'FROM python:3.13\nCMD ["ls"]\n', "FROM python:3.13\nCMB ls\n"),
    ],
)
def test_what_is_wrong_is_found_without_running_it(
    language: str, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(code: str) -> Step:
        return Step(page=Path("page.md"), line=1, kind="lint", language=language, code=code)

    monkeypatch.setattr(linting, "left_out", set())
    linting.lint(step(right))
    if linting.left_out:
        pytest.skip(f"{language} is NOT linted: without {linting.left_out} (extra lint)")
    with pytest.raises(Exception, match=r"(?s)."):
        linting.lint(step(wrong))


# --- following ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
        ("```python\nx = 1\n```\n<!-- test\nassert x == 2\n-->\n", "assert x == 2"),
        ("<!-- raises: KeyError -->\n```python\nx = 1\n```\n", "it did not"),
        ("```pycon\n>>> 1 + 1\n3\n```\n", "Expected:\n    3"),
        ("```sql\nSELECT 1 FROM nowhere;\n```\n", 'relation "nowhere" does not exist'),
        ("```sql\nBEGIN; SELECT 1;\n```\n", "leaves a transaction open"),
        ("```python\nDJANGO_TASKQ = {'WRONG': 1}\n```\n", "WRONG"),
        ("```python\nprint(1, 'a')\n```\n<!-- output -->\n```text\n1 b\n```\n", "1 a"),
        ("```console\n$ false\n```\n", "exit code 1"),
        ("```console\n$ echo one\ntwo\n```\n", "$ echo one"),
        ("```console\n$ exit 3\n```\n", "no end"),
    ],
)
def test_a_page_that_says_something_wrong_fails(
    tmp_path: Path, server_url: str, project_database: str, text: str, problem: str
) -> None:
    with pytest.raises(pytest.fail.Exception) as failure:
        follow(page(tmp_path, text), tmp_path, server_url, project_database)
    assert problem in str(failure.value)


def test_blocks_see_what_the_blocks_before_them_have_made(
    tmp_path: Path, server_url: str, project_database: str
) -> None:
    text = """
```python
from django_taskq import task


@task
def add(x: int, y: int) -> int:
    return x + y
```

The same task with another option, then a call of it:

```python
@task(priority=5)
def add(x: int, y: int) -> int:
    return x + y


print(add(1, 2))
```

<!-- output -->
```text
3
```

```pycon
>>> add.enqueue(1, 2).args
[1, 2]
```

```python
result = await add.aenqueue(3, 4)
```

<!-- test
from django_taskq.models import LiveTask
assert LiveTask.objects.count() == 2
-->

```sql
BEGIN;
DELETE FROM django_taskq_livetask WHERE priority = 5;
COMMIT;
```

<!-- test
assert LiveTask.objects.count() == 0
-->
"""
    follow(page(tmp_path, text), tmp_path, server_url, project_database)
