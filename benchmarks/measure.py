"""What all measurements share: sizes, figures with their bounds, alternation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


class BenchmarkError(Exception):
    """Something went wrong that leaves no figure worth printing."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured; a smaller scale shows that it works, not how fast it is."""

    scale: float = 1.0
    # How often ours and raw alternate; each measurement has its own number otherwise.
    rounds: int | None = None
    # Claims at a backlog of 10 million too.
    huge: bool = False

    def count(self, full: int, *, least: int = 1) -> int:
        """Return a number of tasks or samples at this scale."""
        return max(least, round(full * self.scale))

    def times(self, usual: int) -> int:
        """Return how often to alternate."""
        return self.rounds or (usual if self.scale >= 1 else max(1, usual // 2))

    def seconds(self, full: float) -> float:
        """Return how long to watch."""
        return max(2.0, full * min(1.0, self.scale * 4))


@dataclass(frozen=True)
class Bound:
    """What must be reached and what is aimed at: by the ratio, or by our figure alone."""

    of: str  # "ratio" or "ours"
    sign: str  # "≥" or "≤"
    must: float
    aim: float | None = None

    def shown(self, limit: float | None, unit: str) -> str:
        if limit is None:
            return ""
        if self.of == "ratio":
            return f"{self.sign} {limit:g} ×" if self.sign == "≤" else f"{self.sign} {limit:.0%}"
        return f"{self.sign} {limit:g}{unit}"

    def is_met(self, value: float, limit: float) -> bool:
        return value >= limit if self.sign == "≥" else value <= limit


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table: samples of ours, and of what they are compared with."""

    name: str
    unit: str  # "/s", " ms", …
    ours: Sequence[float]
    other: Sequence[float] = ()
    # What the other is.
    against: str = ""
    bound: Bound | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return median(self.ours)

    @property
    def other_value(self) -> float | None:
        return median(self.other) if self.other else None

    @property
    def ratio(self) -> float | None:
        other = self.other_value
        return self.value / other if other else None

    @property
    def verdict(self) -> str:
        """Say which of its bounds it meets; nothing where there is none."""
        bound = self.bound
        judged = self.ratio if bound is not None and bound.of == "ratio" else self.value
        if bound is None or judged is None:
            return ""
        if not bound.is_met(judged, bound.must):
            return "MISSED"
        if bound.aim is not None and not bound.is_met(judged, bound.aim):
            return "must"
        return "aim" if bound.aim is not None else "met"

    def as_json(self) -> dict[str, Any]:
        """Return everything there is to know, samples included."""
        bound = self.bound
        return {
            "name": self.name,
            "unit": self.unit.strip(),
            "ours": self.value,
            "other": self.other_value,
            "against": self.against,
            "ratio": self.ratio,
            "must": f"{bound.of} {bound.sign} {bound.must}" if bound else None,
            "aim": f"{bound.of} {bound.sign} {bound.aim}" if bound and bound.aim else None,
            "verdict": self.verdict,
            "samples": {"ours": list(self.ours), "other": list(self.other)},
            **self.notes,
        }


def alternate(
    rounds: int, contestants: Mapping[str, Callable[[], float]]
) -> dict[str, list[float]]:
    """Run each of them in turn, `rounds` times, and return what they measured.

    The order turns round each time: nobody always runs behind the same neighbour.
    """
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        order = list(contestants)
        for name in order if number % 2 == 0 else reversed(order):
            samples[name].append(contestants[name]())
    return samples


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the sample below which this share of them lies."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a table for people."""
    head = ("", "ours", "compared with", "ratio", "must", "aim", "reached")
    rows = [head, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(_cell(text, widths, at) for at, text in enumerate(row)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def _row(figure: Figure) -> tuple[str, ...]:
    bound, unit = figure.bound, figure.unit
    other = figure.other_value
    return (
        figure.name,
        _number(figure.value) + unit,
        f"{figure.against} {_number(other)}{unit}" if other is not None else figure.against,
        f"{figure.ratio:.2f}" if figure.ratio is not None else "",
        bound.shown(bound.must, unit) if bound else "",
        bound.shown(bound.aim, unit) if bound else "",
        figure.verdict,
    )


def _cell(text: str, widths: Sequence[int], at: int) -> str:
    return text.rjust(widths[at]) if at in (1, 3) else text.ljust(widths[at])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
