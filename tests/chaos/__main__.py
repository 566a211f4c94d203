"""Run lanes at any size, each with a PostgreSQL of its own, and print their figures.

    python -m tests.chaos                           all lanes at full size, three side by side
    python -m tests.chaos --scale 0.05              a twentieth of it
    python -m tests.chaos --only kills --seed 7     one lane, by another chance
    python -m tests.chaos soak --hours 8            everything by turns, for hours

Ends with 1 if a promise was broken. What each lane says goes to a file, named when it has failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.chaos.figures import Figures, table
from tests.support.databases import ROOT

# Not a lane: the tests that are too long for `make test`.
_TESTS = "tests"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=(__doc__ or "").partition("\n")[0],
        epilog="Full sizes take about an hour on two cores.",
    )
    parser.add_argument("what", nargs="?", choices=["full", "soak", "lane"], default="full")
    parser.add_argument("name", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is the full size")
    parser.add_argument("--only", help="names of lanes, separated by commas")
    parser.add_argument("--side-by-side", type=int, default=3, help="how many lanes at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hours", type=float, default=8.0, help="of soak")
    parser.add_argument("--out", type=Path, help="where figures and logs go")
    options = parser.parse_args(arguments)
    if options.what == "lane":
        return run_lane(options.name, options)
    options.out = options.out or Path(tempfile.mkdtemp(prefix="taskq-chaos-"))
    options.out.mkdir(parents=True, exist_ok=True)
    if options.what == "soak":
        return soak(options)
    return run_lanes(options)


def run_lanes(options: argparse.Namespace) -> int:
    """Run lanes side by side, each in a process of its own; print a table when all are over."""
    _set_up_django("postgresql:///postgres")

    from tests.chaos.all_lanes import LANES

    names = options.only.split(",") if options.only else [_TESTS, *LANES]
    unknown = set(names) - {_TESTS, *LANES}
    if unknown:
        raise SystemExit(f"no lanes {sorted(unknown)}; there are {_TESTS}, {', '.join(LANES)}")
    began = time.monotonic()
    waiting, failed = list(names), []
    running: dict[str, subprocess.Popen[bytes]] = {}
    while waiting or running:
        while waiting and len(running) < options.side_by_side:
            name = waiting.pop(0)
            running[name] = _spawn(name, options)
        for name in [name for name, process in running.items() if process.poll() is not None]:
            if not _has_passed(name, running.pop(name).returncode, options.out):
                failed.append(name)
        time.sleep(0.2)
    rows = [_figures(options.out, name) for name in names if name not in (_TESTS, *failed)]
    minutes = (time.monotonic() - began) / 60
    sys.stdout.write(table(rows) + "\n")
    sys.stdout.write(
        f"{len(names) - len(failed)} of {len(names)} passed, in {minutes:.1f} min; "
        f"figures and logs: {options.out}\n"
    )
    return 1 if failed else 0


def _has_passed(name: str, code: int, out: Path) -> bool:
    """Say what became of a lane."""
    lines = (out / f"{name}.log").read_text().splitlines()
    if code:
        sys.stdout.write(f"FAILED {name}: see {out / f'{name}.log'}\n")
    elif name == _TESTS:
        sys.stdout.write(f"passed {name}: {lines[-1]}\n")
    else:
        sys.stdout.write(f"passed {name} in {_figures(out, name).seconds:.0f} s\n")
    sys.stdout.flush()
    return code == 0


def _figures(out: Path, name: str) -> Figures:
    return Figures(**json.loads((out / f"{name}.json").read_text()))


def _set_up_django(url: str) -> None:
    """Load the project; the lanes' tasks are declared in it. Nothing connects yet."""
    os.environ["DATABASE_URL"] = url
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.chaos.settings"
    import django

    django.setup()


def _spawn(name: str, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    words = ["--scale", str(options.scale), "--seed", str(options.seed), "--out", str(options.out)]
    command = ["tests.chaos", "lane", name, *words]
    environment = dict(os.environ)
    if name == _TESTS:
        command = ["pytest", "-m", "chaos", "-q"]
        # It starts a server of its own, as the lanes do.
        for variable in ("DATABASE_URL", "DJANGO_SETTINGS_MODULE"):
            environment.pop(variable, None)
    with (options.out / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def run_lane(name: str, options: argparse.Namespace) -> int:
    """Run one lane here, on a server that only it uses."""
    from example_project import embedded_postgres

    with embedded_postgres.serve(fast=True) as url:
        _set_up_django(url)

        import psycopg

        from tests.chaos import recording
        from tests.chaos.all_lanes import LANES
        from tests.chaos.rig import Broken, rig_on
        from tests.processes.servers import PrivateServer
        from tests.support.databases import migrate

        migrate(url)
        with psycopg.connect(url) as connection:
            recording.set_up(connection)
        with (
            tempfile.TemporaryDirectory(prefix="taskq-chaos-") as directory,
            rig_on(url, Path(directory), seed=options.seed) as rig,
        ):
            rig.server = PrivateServer(url)
            try:
                figures = LANES[name](rig, options.scale)
            except Broken as broken:
                sys.stdout.write(f"{broken}\n")
                return 1
    (options.out / f"{name}.json").write_text(json.dumps(asdict(figures)))
    return 0


def soak(options: argparse.Namespace) -> int:
    """Run all lanes by turns, each time by another chance, until the time is over."""
    until = time.monotonic() + options.hours * 3600
    out, failures, rounds = options.out, 0, 0
    while time.monotonic() < until:
        rounds += 1
        options.seed += 1
        options.out = out / f"round-{rounds}"
        options.out.mkdir(exist_ok=True)
        failures += run_lanes(options)
        sys.stdout.write(f"round {rounds} (seed {options.seed}) is over, {failures} failed\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
