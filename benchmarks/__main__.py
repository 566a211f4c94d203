"""`python -m benchmarks`: measure, and print a table."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import django
import psycopg

from benchmarks import server
from benchmarks.measure import BenchmarkError, Figure, Sizes, table
from benchmarks.tree import PROJECT, Tree

# Each is a module with a `measure(tree, sizes)` that yields figures.
MEASUREMENTS = (
    "enqueue",
    "drain",
    "atomic",
    "pools",
    "latency",
    "claim",
    "snapshot",
    "idle",
    "memory",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    options = _parser().parse_args(arguments)
    url = os.environ.get("DATABASE_URL")
    if not url:
        print(
            "Set DATABASE_URL to a server on which databases may be created, or let `make bench` "
            "start one.",
            file=sys.stderr,
        )
        return 2
    sizes = Sizes(
        scale=0.1 if options.quick and options.scale is None else options.scale or 1.0,
        rounds=options.rounds,
        huge=options.huge,
    )
    try:
        figures = _run(url, options, sizes)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    print()
    print(table(figures))
    if sizes.scale < 1:
        print("\nSmall sizes: these figures show that everything works, not how fast it is.")
    if options.json:
        facts = {"environment": _environment(url), "scale": sizes.scale}
        content = {**facts, "figures": [figure.as_json() for figure in figures]}
        options.json.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"what to measure: {', '.join(MEASUREMENTS)} (default: all of them)",
    )
    parser.add_argument(
        "--against",
        metavar="REF",
        help="run drains of this commit and of the present tree in alternation, and nothing else",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="how often to alternate")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size")
    parser.add_argument("--scale", type=float, metavar="X", help="X times the size")
    parser.add_argument("--huge", action="store_true", help="claims at 10 million rows too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there too")
    return parser


def _run(url: str, options: argparse.Namespace, sizes: Sizes) -> list[Figure]:
    unknown = [name for name in options.names if name not in MEASUREMENTS]
    if unknown:
        raise BenchmarkError(f"{unknown[0]} is none of {', '.join(MEASUREMENTS)}.")
    if options.against and (unused := [name for name in options.names if name != "drain"]):
        raise BenchmarkError(f"--against measures drains alone: leave out {', '.join(unused)}.")
    print(_environment(url), flush=True)
    if options.against:
        against = importlib.import_module("benchmarks.against")
        return [_told(figure) for figure in against.measure(url, options.against, sizes)]
    with server.new_database(url) as own:
        tree = Tree(own)
        tree.migrate()
        _set_up_django(own)
        return [
            _told(figure)
            for name in options.names or MEASUREMENTS
            for figure in importlib.import_module(f"benchmarks.{name}").measure(tree, sizes)
        ]


def _set_up_django(url: str) -> None:
    """Make this process one of the benchmark's project: it enqueues as a web process does."""
    sys.path.insert(0, str(PROJECT))
    os.environ["DATABASE_URL"] = url
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchsite.settings"
    django.setup()


def _told(figure: Figure) -> Figure:
    """Show that something has been measured; the table comes at the end."""
    ratio = f" ({figure.ratio:.2f} × {figure.against})" if figure.ratio is not None else ""
    print(f"  {figure.name}: {figure.value:,.2f}{figure.unit}{ratio}", flush=True)
    return figure


def _environment(url: str) -> str:
    with server.connect(url) as connection:
        database = server.versions(connection)
    return (
        f"{database} · Python {platform.python_version()} · Django {django.get_version()} · "
        f"psycopg {psycopg.__version__} ({psycopg.pq.__impl__}) · {os.cpu_count()} processors"
    )


if __name__ == "__main__":
    # Databases are dropped and workers stopped on the way out, whoever ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
