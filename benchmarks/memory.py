"""The memory of a worker's processes, with the example project loaded if it is there."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from statistics import mean

from benchmarks import server
from benchmarks.measure import BenchmarkError, Bound, Figure, Sizes
from benchmarks.processes import Processes, proportional_megabytes
from benchmarks.tree import ROOT, Tree

PROCESSES = 2

# Tasks that load the project's models, find nothing to do, and end as CANCELLED.
WARM_UP = """
INSERT INTO django_taskq_livetask (task, args)
SELECT 'fieldnotes.tasks.send_welcome_mail', '[0]' FROM generate_series(1, 40)
"""


def measure(tree: Tree, sizes: Sizes) -> Iterator[Figure]:
    """Measure the PSS of supervisor, nursery and children when each child has run tasks."""
    with tempfile.TemporaryDirectory() as data, server.new_database(tree.url) as url:
        example = _example(tree, url, data)
        example.migrate()
        with example.worker("-c", str(PROCESSES)) as worker:
            example.wait_for_children(PROCESSES)
            if example.project != tree.project:
                _warm_up(url)
            processes = Processes.of(worker.pid)
            supervisor = proportional_megabytes(processes.supervisor)
            nursery = proportional_megabytes(processes.nursery)
            children = [proportional_megabytes(pid) for pid in processes.children]
    named = example.project.name.replace("_", " ")
    for what, megabytes, limit in (
        ("supervisor", [supervisor], 80),
        ("nursery", [nursery], 50),
        ("each child", [mean(children)], 40),
    ):
        yield Figure(
            name=f"PSS with the {named}, {what}",
            unit=" MB",
            ours=megabytes,
            bound=Bound("ours", "≤", limit),
        )


def _example(tree: Tree, url: str, data: str) -> Tree:
    """Return the example project, whose files go to a temporary directory; or the benchmark's."""
    project = ROOT / "example_project"
    if not (project / "manage.py").exists():
        return replace(tree, url=url)
    return Tree(
        url,
        project=project,
        settings=(("DATA_DIR", data), ("DEBUG", "0"), ("SECRET_KEY", "measures only")),
    )


def _warm_up(url: str) -> None:
    with server.connect(url) as connection:
        connection.execute(WARM_UP)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            row = connection.execute("SELECT count(*) FROM django_taskq_livetask").fetchone()
            if row == (0,):
                return
            time.sleep(0.1)
    raise BenchmarkError("The example project's tasks did not run.")
