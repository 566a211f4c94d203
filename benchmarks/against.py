"""Drains of another commit and of the present tree, in alternation."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import drain, server
from benchmarks.measure import BenchmarkError, Figure, Sizes, alternate
from benchmarks.tree import ROOT, Tree


def measure(url: str, ref: str, sizes: Sizes) -> Iterator[Figure]:
    """Drain 50,000 with one process and with two, of both; each has a database of its own."""
    count = sizes.count(50_000)
    with (
        _worktree(ref) as root,
        server.new_database(url) as theirs,
        server.new_database(url) as ours,
    ):
        other, present = Tree(theirs, root=root), Tree(ours)
        for tree in (other, present):
            tree.migrate()
        for processes in (1, 2):
            samples = alternate(
                sizes.times(5),
                {
                    "present": partial(drain.ours, present, processes, count),
                    "other": partial(drain.ours, other, processes, count),
                },
            )
            yield Figure(
                name=f"drain {count:,} no-ops, {processes} process{'es' * (processes > 1)}",
                unit="/s",
                ours=samples["present"],
                other=samples["other"],
                against=ref,
            )


@contextmanager
def _worktree(ref: str) -> Iterator[Path]:
    """Check a commit out into a temporary worktree."""
    with tempfile.TemporaryDirectory(prefix="taskq-bench-") as directory:
        root = Path(directory) / "tree"
        _git("worktree", "add", "--detach", "--quiet", str(root), ref)
        try:
            yield root
        finally:
            _git("worktree", "remove", "--force", str(root))


def _git(*arguments: str) -> None:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"git {' '.join(arguments)}:\n{done.stderr.strip()}")
