"""SECURITY.md has every line of the list, and the tests that it names exist."""

from __future__ import annotations

import re

from tests.docs.markdown import ROOT

PAGE = (ROOT / "SECURITY.md").read_text()


def lines() -> dict[str, list[str]]:
    rows = [row.split("|") for row in PAGE.splitlines() if re.match(r"\| S\d+ ", row)]
    return {row[1].split()[0]: [cell.strip() for cell in row[2:4]] for row in rows}


def test_every_line_holds_with_a_test_or_is_a_limit() -> None:
    assert list(lines()) == [f"S{number}" for number in range(1, 21)]
    for name, (holds, limits) in lines().items():
        assert "::test_" in holds or limits, name


def test_the_tests_that_it_names_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)
    assert len(named) > 30
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"


def test_the_links_of_the_page_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert link.startswith("https://") or (ROOT / link).exists(), link
