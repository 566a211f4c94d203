"""The figures of a run: what its table shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from tests.chaos.checker import Violation
from tests.chaos.evidence import START, Evidence


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one lane came to."""

    lane: str
    seconds: float
    tasks: int
    starts: int
    # Processes that died, and how many of them with their whole worker.
    kills: int
    trees: int
    # Starts beyond the first that no error of a task accounts for, and the most that there may be:
    # what the dead processes held.
    duplicates: int
    bound: int
    lost: int
    stale: int
    left: int
    # Every other broken promise.
    other: int
    # The longest time from a death until all that the process held was free, in seconds: that of
    # a child, and that of a whole worker, which counts from when another is there to see it.
    recovery: float
    tree_recovery: float
    # What the lane itself has measured, for people.
    remarks: str = ""


def measure(
    lane: str,
    seconds: float,
    evidence: Evidence,
    violations: Sequence[Violation],
    remarks: str = "",
) -> Figures:
    """Sum a run up."""
    kinds = Counter(violation.kind for violation in violations)
    starts = [note for note in evidence.notes if note.what == START]
    counts = Counter(note.task for note in starts)
    raised = Counter(note.task for note in evidence.notes if note.what == "raised")
    taken: Counter[str] = Counter()
    recovery = tree_recovery = 0.0
    for spells in evidence.spells().values():
        for spell in spells:
            raised[spell.task] += evidence.was_put_back(spell)
            gone = spell.actor in evidence.deaths or spell.actor in evidence.pauses
            if not (gone and spell.was_taken):
                continue
            taken[spell.actor] += 1
            death = evidence.deaths.get(spell.actor)
            if death is not None and spell.end is not None:
                freed_at = spell.end.at
                if not death.of_a_tree:
                    recovery = max(recovery, freed_at - death.at)
                elif (seen_at := evidence.seen_at(death, freed_at)) is not None:
                    tree_recovery = max(tree_recovery, freed_at - seen_at)
    trees = {death.at for death in evidence.deaths.values() if death.of_a_tree}
    return Figures(
        lane=lane,
        seconds=seconds,
        tasks=len(evidence.accepted),
        starts=len(starts),
        kills=len(evidence.deaths),
        trees=len(trees),
        duplicates=sum(max(0, n - 1 - raised[task]) for task, n in counts.items()),
        bound=sum(taken.values()),
        lost=kinds["lost"],
        stale=kinds["stale"],
        left=kinds["left"],
        other=len(violations) - kinds["lost"] - kinds["stale"] - kinds["left"],
        recovery=recovery,
        tree_recovery=tree_recovery,
        remarks=remarks,
    )


def total(lane: str, rows: Sequence[Figures], remarks: str = "") -> Figures:
    """Sum several runs up."""
    longest = {"recovery", "tree_recovery"}
    sums: dict[str, Any] = {
        name: (max if name in longest else sum)(getattr(row, name) for row in rows)
        for name in (field.name for field in fields(Figures))
        if name not in ("lane", "remarks")
    }
    return Figures(lane=lane, remarks=remarks, **sums)


_HEADS = [
    *("lane", "s", "tasks", "starts", "kills", "trees", "twice", "bound", "lost", "stale", "left"),
    *("other", "free p100", "host p100", "remarks"),
]


def table(rows: Sequence[Figures]) -> str:
    """Write figures as a table."""
    lines = [_HEADS]
    for row in rows:
        counts = (row.tasks, row.starts, row.kills, row.trees, row.duplicates, row.bound)
        bad = (row.lost, row.stale, row.left, row.other)
        times = (f"{row.recovery:.2f} s", f"{row.tree_recovery:.2f} s", row.remarks)
        lines.append([row.lane, f"{row.seconds:.0f}", *map(str, (*counts, *bad)), *times])
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADS))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
