"""What is said in several places about versions is the same everywhere."""

from __future__ import annotations

import re
import tomllib
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def supported(what: str) -> set[str]:
    """Return the versions that the page on versions promises."""
    page = (ROOT / "docs" / "reference" / "versions.md").read_text()
    [row] = re.findall(rf"^\| {what} \| ([^|]+) \|", page, re.MULTILINE)
    return set(re.findall(r"[\d.]+", row))


def classified(prefix: str) -> set[str]:
    found = {line.removeprefix(prefix) for line in PROJECT["classifiers"] if prefix in line}
    return {version for version in found if version[0].isdigit() and "." in version}


def environments() -> set[str]:
    config = ConfigParser()
    config.read(ROOT / "tox.ini")
    return set(config["tox"]["env_list"].split(", "))


def test_the_classifiers_name_the_supported_versions() -> None:
    assert classified("Programming Language :: Python :: ") == supported("Python")
    assert classified("Framework :: Django :: ") == supported("Django")


def test_tox_and_the_public_ci_run_every_supported_version() -> None:
    pairs = [re.fullmatch(r"py(\d)(\d+)-django(\d)(\d)", name) for name in environments()]
    assert {f"{pair[1]}.{pair[2]}" for pair in pairs if pair} == supported("Python")
    assert {f"{pair[3]}.{pair[4]}" for pair in pairs if pair} == supported("Django")
    assert set(re.findall(r"environment: ([\w-]+)", WORKFLOW)) == environments()
    assert set(re.findall(r'postgresql: "(\d+)"', WORKFLOW)) == supported("PostgreSQL")


def test_the_readme_names_the_supported_versions() -> None:
    [line] = re.findall(r"^Python 3\.\d+–.*$", (ROOT / "README.md").read_text(), re.M)
    assert f"Django {', '.join(sorted(supported('Django')))}" in line
    for what in ("Python", "PostgreSQL"):
        versions = sorted(supported(what))
        assert f"{what} {versions[0]}–{versions[-1]}" in line


def test_each_environment_of_tox_looks_for_missing_migrations() -> None:
    assert "makemigrations --check" in (ROOT / "tox.ini").read_text().partition("[testenv]")[2]


def test_the_release_workflow_checks_the_version_where_it_stands() -> None:
    release = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    [command] = re.findall(r"sed -n '(.*)' pyproject\.toml", release)
    assert command == r's/^version = "\(.*\)"$/\1/p'
    found = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert found == [PROJECT["version"]]
