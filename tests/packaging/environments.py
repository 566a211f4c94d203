"""Make empty virtual environments, and run programs in them far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def uv(*arguments: str) -> str:
    """Run uv, which is much quicker than pip at making environments; return what it prints."""
    return subprocess.run(
        [sys.executable, "-m", "uv", *arguments],
        env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def make(directory: Path, python: str, *requirements: str) -> Path:
    """Make an environment with these requirements; return its directory of programs."""
    uv("venv", "--quiet", "--python", python, str(directory))
    programs = directory / "bin"
    uv("pip", "install", "--quiet", "--python", str(programs / "python"), *requirements)
    return programs


def run(programs: Path, cwd: Path, *command: str, **variables: str) -> str:
    """Run a program of an environment; return what it says, or raise AssertionError with that."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "DJANGO", "PYTEST", "VIRTUAL_ENV", "TASKWORKER"))
    }
    kept["PATH"] = f"{programs}{os.pathsep}{kept['PATH']}"
    done = subprocess.run(
        [str(programs / command[0]), *command[1:]],
        cwd=cwd,
        env=kept | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"$ {' '.join(command)}\n{done.stdout}(exit {done.returncode})"
    return done.stdout
