"""Every promise on the page of promises names tests and lanes that exist."""

from __future__ import annotations

import re

import pytest

from tests.chaos.all_lanes import LANES
from tests.docs.markdown import DOCS, ROOT

TEXT = (DOCS / "explanation" / "promises.md").read_text()
PROMISES = re.findall(r"^\| (P\d+) \| (.+?) \| (.+?) \|$", TEXT, re.MULTILINE)
TESTS = sorted(set(re.findall(r"`(tests/[a-z_/]+\.py)::(\w+)`", TEXT)))


@pytest.mark.parametrize(("file", "name"), TESTS, ids=[name for _, name in TESTS])
def test_a_named_test_exists(file: str, name: str) -> None:
    assert f"def {name}(" in (ROOT / file).read_text()


@pytest.mark.parametrize(("number", "promise", "proof"), PROMISES)
def test_a_promise_has_a_test_and_its_lanes_exist(number: str, promise: str, proof: str) -> None:
    named, _, rest = proof.partition("; lane")
    assert "::test_" in named, number
    assert set(re.findall(r"`([a-z-]+)`", rest)) <= set(LANES), number


def test_no_promise_is_left_out() -> None:
    later = {18, 19, 20, 21}  # schedules, uniqueness and workflows, which do not exist yet
    numbers = {int(number[1:]) for number, _, _ in PROMISES}
    assert numbers == set(range(1, 32)) - later
