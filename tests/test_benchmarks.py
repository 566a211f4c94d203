"""The benchmarks run, at sizes that say nothing about speed, and vouch for what they print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from benchmarks import server, tree
from benchmarks.measure import BenchmarkError, Bound, Figure, alternate, table

ROOT = Path(__file__).resolve().parent.parent


class Done(NamedTuple):
    """What a run of `python -m benchmarks` came to."""

    pid: int
    code: int
    out: str
    errors: str


def run(url: str, *arguments: str) -> Done:
    """Run it as somebody at a terminal does."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("DJANGO_")}
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env={**kept, "DATABASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        out, errors = process.communicate(timeout=880)
    return Done(process.pid, process.returncode, out, errors)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_measurement_prints_a_table_and_writes_json(server_url: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    names = ["enqueue", "drain", "atomic", "pools", "latency", "claim", "snapshot"]
    if sys.platform == "linux":
        names += ["idle", "memory"]

    done = run(server_url, *names, "--scale", "0.004", "--rounds", "1", "--json", str(file))

    assert done.code == 0, done.errors
    figures = json.loads(file.read_text())["figures"]
    told = {figure["name"] for figure in figures}
    assert {
        "enqueue one, own transaction",
        "enqueue 200 at once",
        "drain 200 no-ops, 1 process",
        "drain 200 no-ops, 2 processes",
        "idle latency, enqueue to start, p50",
        "idle latency, enqueue to start, p99",
        "claim 100, 10 k",
        "claim 100, 1 M",
        "claim 100, 10 k in 50 queues",
        "claim 100, 10 k below 100 k later",
    } <= told
    for word in ("atomic", "threads", "under a snapshot"):
        assert any(word in name for name in told), word
    assert all(figure["ours"] >= 0 for figure in figures)
    assert all(f["ratio"] > 0 for f in figures if f["name"].startswith(("drain", "enqueue")))
    assert "compared with" in done.out
    with psycopg.connect(server_url) as connection:
        left = connection.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE %s", [f"taskq_bench_{done.pid}_%"]
        ).fetchall()
    assert left == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_drain_that_lost_a_task_gives_no_figure(server_url: str) -> None:
    with server.new_database(server_url) as url:
        bench = tree.Tree(url)
        bench.migrate()
        bench.fill(50)
        assert bench.drain(1, 50) > 0

        with server.connect(url) as connection:
            connection.execute(
                "DELETE FROM django_taskq_finishedtask WHERE id IN "
                "(SELECT id FROM django_taskq_finishedtask LIMIT 1)"
            )
        with pytest.raises(BenchmarkError, match="49 of 50 tasks have succeeded"):
            tree.rate(url, 50)


def test_an_unknown_name_is_refused_with_the_known_ones(server_url: str) -> None:
    done = run(server_url, "drian")

    assert done.code == 1
    assert "drian is none of enqueue, drain" in done.errors


def test_against_another_commit_what_is_not_measured_is_refused(server_url: str) -> None:
    done = run(server_url, "drain", "latency", "claim", "--against", "HEAD")

    assert done.code == 1
    assert "--against measures drains alone: leave out latency, claim." in done.errors


def has_history() -> bool:
    """Say whether this is a repository with all its commits."""
    if not (ROOT / ".git").exists():
        return False
    asked = ["git", "rev-parse", "--is-shallow-repository"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True).stdout == "false\n"


@pytest.mark.skipif(not has_history(), reason="an archive, or a shallow clone")
def test_the_commit_that_later_drains_are_compared_with_exists() -> None:
    baseline = (ROOT / "benchmarks" / "BASELINE").read_text().strip()

    kind = subprocess.run(
        ["git", "cat-file", "-t", baseline], cwd=ROOT, capture_output=True, text=True
    )

    assert kind.stdout == "commit\n", kind.stderr


def test_without_a_server_it_says_what_to_do() -> None:
    done = run("")

    assert done.code == 2
    assert "make bench" in done.errors


def test_contestants_take_turns_and_the_order_turns_round() -> None:
    order = []

    def note(name: str) -> float:
        order.append(name)
        return 1.0

    samples = alternate(2, {"ours": lambda: note("ours"), "raw": lambda: note("raw")})

    assert order == ["ours", "raw", "raw", "ours"]
    assert samples == {"ours": [1.0, 1.0], "raw": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("ours", "reached"), [([30.0], "MISSED"), ([60.0], "must"), ([50.0, 90.0, 95.0], "aim")]
)
def test_a_figure_is_judged_by_the_ratio_of_medians(ours: list[float], reached: str) -> None:
    figure = Figure(
        name="drain",
        unit="/s",
        ours=ours,
        other=[100.0],
        against="raw",
        bound=Bound("ratio", "≥", 0.5, 0.8),
    )

    assert figure.verdict == reached
    assert reached in table([figure])
