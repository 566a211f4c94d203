"""Check blocks that the tests cannot run: Dockerfiles, units, manifests, other machines' commands.

Programs that are not installed leave their part out, and `left_out` says so. `make lint` installs
them all and makes their absence an error.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.core.management import CommandError, get_commands, load_command_class
from django.template import Engine
from packaging.requirements import InvalidRequirement, Requirement

from tests.docs.markdown import ROOT, Step, commands

# What could not be checked for want of a program, in this process.
left_out: set[str] = set()


def lint(step: Step) -> None:
    """Check a block as far as that goes without running it; raise AssertionError if it is wrong."""
    match step.language:
        case "console" | "sh" | "bash":
            lint_commands(step)
        case "json":
            json.loads(step.code)
        case "toml":
            tomllib.loads(step.code)
        case "ini" | "cfg":
            lint_ini(step.code)
        case "service":
            lint_unit(step.code)
        case "html":
            Engine().from_string(step.code)
        case "yaml" | "yml":
            lint_yaml(step.code)
        case "dockerfile" | "Dockerfile":
            lint_dockerfile(step.code)
        case "py":
            compile(step.code, str(step), "exec", dont_inherit=True)
        case _:
            raise AssertionError(f"{step}: nobody can lint {step.language!r}")


def lint_ini(code: str) -> None:
    """Read an ini file; one with a [Service] is a unit of systemd."""
    if "[Service]" in code or "[Timer]" in code or "[Socket]" in code:
        lint_unit(code)
        return
    # PgBouncer and others: a section may stand alone, and % is no reference.
    configparser.ConfigParser(interpolation=None, allow_no_value=True).read_string(
        code if code.lstrip().startswith("[") else f"[top]\n{code}"
    )


def lint_unit(code: str) -> None:
    """Let systemd judge a unit, with this machine's Python in the place of the page's programs."""
    if not _has("systemd-analyze"):
        return
    with tempfile.TemporaryDirectory() as directory:
        unit = Path(directory) / "taskworker.service"
        unit.write_text(
            re.sub(r"^(Exec\w+=[-+!@:]*)/\S+", rf"\1{sys.executable}", code, flags=re.M)
        )
        done = _run("systemd-analyze", "verify", str(unit))
    ours = [line for line in done.stderr.splitlines() if "taskworker" in line]
    assert not ours, "\n".join(ours)


def lint_dockerfile(code: str) -> None:
    """Let hadolint judge a Dockerfile."""
    if not _has("hadolint"):
        return
    # Versions of Debian's packages and of pip's change too often for a page.
    ignored = [f"--ignore={rule}" for rule in ("DL3006", "DL3008", "DL3013", "DL3042")]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "Dockerfile"
        file.write_text(code)
        done = _run("hadolint", "--no-color", *ignored, str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def lint_yaml(code: str) -> None:
    """Read YAML; manifests of Kubernetes, Compose and GitHub are held against their schemas."""
    if find_spec("yaml") is None:
        left_out.add("yaml")
        return
    import yaml

    for document in yaml.safe_load_all(code):
        match document:
            case {"apiVersion": str(), "kind": str()}:
                lint_manifest(document)
            case {"services": dict()}:
                lint_by_schema("vendor.compose-spec", document)
            case {"jobs": dict()}:
                lint_by_schema("vendor.github-workflows", document)
            case dict() | list():
                pass
            case _:
                raise AssertionError(f"this YAML is no mapping and no list: {document!r}")


def lint_manifest(document: dict[str, Any]) -> None:
    """Hold a manifest against the schema of Kubernetes; those of extensions have none here."""
    group = document["apiVersion"].partition("/")[0]
    if "." in group and not group.endswith(".k8s.io"):
        return
    if find_spec("kubernetes_validate") is None:
        left_out.add("kubernetes-validate")
        return
    import kubernetes_validate

    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(document, version, strict=True)


def lint_by_schema(name: str, document: object) -> None:
    """Hold a document against one of the schemas that check-jsonschema brings along."""
    if not _has("check-jsonschema"):
        return
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "document.json"
        file.write_text(json.dumps(document, default=str))
        done = _run("check-jsonschema", "--builtin-schema", name, str(file))
    assert done.returncode == 0, done.stdout + done.stderr


# --- commands -------------------------------------------------------------------------------------


def lint_commands(step: Step) -> None:
    """Check that commands could be typed: flags exist, targets and requirements can be read."""
    if step.language != "console":
        checked = _run("bash", "-n", "-c", step.code)
        assert checked.returncode == 0, checked.stderr
        lines = step.code.replace("\\\n", " ").splitlines()
    else:
        lines = [command.replace("\\\n", " ") for command, _ in commands(step.code)]
    for line in lines:
        for words in _parts(line):
            lint_command(words)


def _parts(line: str) -> list[list[str]]:
    """Split a line of a shell into its commands, each without variables before it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|&;") and word:
            parts.append([])
        elif parts[-1] or not re.fullmatch(r"\w+=.*", word):
            parts[-1].append(word)
    return [part for part in parts if part]


def lint_command(words: list[str]) -> None:
    """Check one command as far as its program is known."""
    words = _without_redirections(words)
    match words:
        case ["sudo" | "exec" | "time", *rest]:
            lint_command(rest)
        case ["python" | "python3" | "./manage.py", "manage.py", name, *flags]:
            lint_manage(name, flags)
        case ["make", *targets]:
            lint_make(targets)
        case ["pip", "install", *rest] | ["uv", "pip", "install", *rest] | ["uv", "add", *rest]:
            for word in rest:
                lint_requirement(word)
        case [program, *_] if Path(program).suffix == ".py" or program.startswith("."):
            pass
        case [program, *_]:
            assert re.fullmatch(r"[\w./~$+-]+", program), f"{program!r} is no command"


def _without_redirections(words: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or word in {"<", ">", ">>"}:
            skip = not skip
            continue
        kept.append(word)
    return kept


def lint_manage(name: str, flags: list[str]) -> None:
    """Let a management command's own parser read its flags."""
    app = get_commands().get(name)
    assert app is not None, f"manage.py has no command {name!r}"
    command: Any = load_command_class(app, name) if isinstance(app, str) else app
    # Otherwise the parser would end the tests.
    command._called_from_command_line = False
    try:
        command.create_parser("manage.py", name).parse_args(flags)
    except CommandError as error:
        raise AssertionError(f"manage.py {name} {shlex.join(flags)}: {error}") from error


def lint_make(words: list[str]) -> None:
    """Check that the targets exist."""
    known = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    targets = {word for word in words if "=" not in word}
    assert targets <= known, f"make knows {sorted(known)}, not {sorted(targets - known)}"


def lint_requirement(word: str) -> None:
    """Check that pip could read a requirement."""
    if word.startswith(("-", ".", "/")) or "://" in word or word.endswith(".txt"):
        return
    try:
        Requirement(word)
    except InvalidRequirement as error:
        raise AssertionError(f"pip cannot read {word!r}: {error}") from error


# --- programs -------------------------------------------------------------------------------------


def _path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def _has(program: str) -> bool:
    if shutil.which(program, path=_path()) is None:
        left_out.add(program)
        return False
    return True


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    found = shutil.which(program, path=_path())
    assert found is not None, program
    return subprocess.run([found, *arguments], capture_output=True, text=True, timeout=120)
