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

    waiting = options.only.split(",") if options.only else list(LANES)
    unknown = set(waiting) - set(LANES)
    if unknown:
        raise SystemExit(f"no lanes {sorted(unknown)}; there are {', '.join(LANES)}")
    began = time.monotonic()
    running: dict[str, subprocess.Popen[bytes]] = {}
    failed: list[str] = []
    rows: dict[str, Figures] = {}
    names = list(waiting)
    while waiting or running:
        while waiting and len(running) < options.side_by_side:
            name = waiting.pop(0)
            running[name] = _spawn(name, options)
        for name, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            figures = options.out / f"{name}.json"
            if process.returncode or not figures.exists():
                failed.append(name)
                sys.stdout.write(f"FAILED {name}: see {options.out / f'{name}.log'}\n")
            else:
                rows[name] = Figures(**json.loads(figures.read_text()))
                sys.stdout.write(f"passed {name} in {rows[name].seconds:.0f} s\n")
            sys.stdout.flush()
        time.sleep(0.2)
    sys.stdout.write(table([rows[name] for name in names if name in rows]) + "\n")
    if not options.only and options.what == "full" and not run_tests(options):
        failed.append("tests")
    minutes = (time.monotonic() - began) / 60
    sys.stdout.write(f"{len(rows)} lanes passed, {len(failed)} failed, in {minutes:.1f} min\n")
    return 1 if failed else 0


def run_tests(options: argparse.Namespace) -> bool:
    """Run the tests that are too long for `make test`; say whether all have passed."""
    os.environ.pop("DATABASE_URL", None)  # pytest starts a server of its own
    os.environ.pop("DJANGO_SETTINGS_MODULE", None)
    log = options.out / "tests.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "pytest", "-m", "chaos", "-q", "--timeout", "900"]
        ended = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    lines = log.read_text().splitlines()
    sys.stdout.write(f"tests marked chaos: {lines[-1] if lines else ''}\n")
    if ended.returncode:
        sys.stdout.write(f"FAILED tests: see {log}\n")
    return ended.returncode == 0


def _set_up_django(url: str) -> None:
    """Load the project; the lanes' tasks are declared in it. Nothing connects yet."""
    os.environ["DATABASE_URL"] = url
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.chaos.settings"
    import django

    django.setup()


def _spawn(name: str, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    (options.out / f"{name}.json").unlink(missing_ok=True)
    words = ["--scale", str(options.scale), "--seed", str(options.seed), "--out", str(options.out)]
    with (options.out / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.chaos", "lane", name, *words],
            cwd=ROOT,
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
        options.out.mkdir()
        failures += run_lanes(options)
        sys.stdout.write(f"round {rounds} (seed {options.seed}) is over, {failures} failed\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
