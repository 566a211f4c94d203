"""Build sdist and wheel, and look at what they hold."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

# What somebody who gets only the sdist needs to test, document and package it again.
IN_SDIST = {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "PKG-INFO",
    "README.md",
    "SECURITY.md",
    "pyproject.toml",
    "tox.ini",
    "benchmarks/__main__.py",
    "docs/conf.py",
    "docs/index.md",
    "example_project/embedded_postgres.py",
    "tests/docs/session.py",
    "tests/settings.py",
}


def build(root: Path, out: Path) -> Path:
    """Build the sdist of `root`, and a wheel from that; return the wheel."""
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(root)],
        stdout=subprocess.PIPE,
        check=True,
    )
    [sdist], [wheel] = out.glob("*.tar.gz"), out.glob("*.whl")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", sdist, wheel], check=True)
    package = {
        path.relative_to(root).as_posix()
        for path in (root / "django_taskq").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    check_sdist(sdist, package)
    check_wheel(wheel, package)
    return wheel


def check_sdist(sdist: Path, package: set[str]) -> None:
    """Raise AssertionError unless the sdist has the package, its tests, and nothing made."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert package <= names, f"not in the sdist: {sorted(package - names)}"
    assert names >= IN_SDIST, f"not in the sdist: {sorted(IN_SDIST - names)}"
    made = {
        name
        for name in names
        if name.endswith((".pyc", ".log")) or "_build/" in name or name.startswith((".venv", ".ci"))
    }
    assert not made, f"should not be in the sdist: {sorted(made)}"
    sys.stdout.write(f"{sdist.name}: {len(names)} files\n")


def check_wheel(wheel: Path, package: set[str]) -> None:
    """Raise AssertionError unless the wheel holds the package, all of it and nothing else."""
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == package, f"only in wheel or only in directory: {sorted(inside ^ package)}"
    assert "django_taskq/py.typed" in inside
    assert any(name.startswith("django_taskq/migrations/") for name in inside)
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    sys.stdout.write(f"{wheel.name}: {len(inside)} files, all of django_taskq and nothing else\n")
