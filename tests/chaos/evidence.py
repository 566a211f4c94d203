"""What a run under faults leaves behind: plain values that the checker judges.

An *actor* is one process of a worker, by the id of its row: process ids come back, these never do.
A *spell* is one stay of a task in RUNNING, from its claim to whatever ended it. All moments are
numbers of one PostgreSQL sequence (`seq`), so there is one order and nobody's clock.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

START, END, RAISED = "start", "end", "raised"


class Note(NamedTuple):
    """A line of the ledger: a task writes that it begins, ends, or is about to raise."""

    seq: int
    task: str
    claim: str
    actor: str
    what: str


class Change(NamedTuple):
    """A change of status of one task, as the trigger saw it; None: there was, or is, no row."""

    seq: int
    # Seconds since 1970, by the clock of the database.
    at: float
    xact: int
    task: str
    old: str | None
    new: str | None
    # Claim and worker of the row before and after. A finished row keeps those of its last claim.
    old_claim: str | None
    claim: str | None
    old_worker: str | None
    worker: str | None
    # Who wrote: "child:…" or "supervisor:…" with its id, "" for anybody else.
    writer: str = ""


class Finished(NamedTuple):
    """A row of FinishedTask at the end."""

    status: str
    claim: str | None
    attempts: int
    crashes: int
    # The claim that the task itself returned as its value; None where it returned none.
    said: str | None


class Death(NamedTuple):
    """An actor that the rig has killed, or that was told to kill itself."""

    seq: int
    at: float
    # It went together with its supervisor.
    of_a_tree: bool = False


class Pause(NamedTuple):
    """An actor that was suspended; `until` is None while it still is."""

    since: int
    until: int | None


class Watch(NamedTuple):
    """A time during which a supervisor was there and could see others die, in seconds as above."""

    since: float
    until: float = float("inf")


class Spell(NamedTuple):
    """One stay of a task in RUNNING."""

    task: str
    claim: str
    actor: str
    begin: Change
    end: Change | None

    @property
    def was_taken(self) -> bool:
        """Say whether somebody else than its own process has ended it."""
        return self.end is not None and self.end.writer != f"child:{self.actor}"


@dataclass
class Evidence:
    """Everything that is known of one run, once it is over."""

    # Ids of enqueued tasks whose transaction has committed, was rolled back, or is unknown.
    accepted: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)
    # In the order of their numbers.
    notes: list[Note] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    deaths: dict[str, Death] = field(default_factory=dict)
    pauses: dict[str, list[Pause]] = field(default_factory=dict)
    watches: list[Watch] = field(default_factory=list)
    # Tables at the end.
    live: dict[str, str] = field(default_factory=dict)
    finished: dict[str, Finished] = field(default_factory=dict)
    # What tasks are to come to; SUCCESSFUL unless said.
    expected: dict[str, str] = field(default_factory=dict)
    # How often some are to start, exactly; and which are never to start twice.
    starts: dict[str, int] = field(default_factory=dict)
    at_most_once: set[str] = field(default_factory=set)
    # Those whose own process puts them back when their COMMIT got no answer: all was rolled back.
    atomic: set[str] = field(default_factory=set)

    def spells(self) -> dict[str, list[Spell]]:
        """Return the spells of each task, in order."""
        spells: dict[str, list[Spell]] = defaultdict(list)
        open_ones: dict[str, Change] = {}
        for change in self.changes:
            begun = open_ones.pop(change.task, None)
            if begun is not None:
                spells[change.task].append(_spell(begun, change))
            if change.new == "RUNNING":
                open_ones[change.task] = change
        for task, begun in open_ones.items():
            spells[task].append(_spell(begun, None))
        return spells

    def notes_by_task(self) -> dict[str, list[Note]]:
        """Return the ledger of each task, in order."""
        notes: dict[str, list[Note]] = defaultdict(list)
        for note in self.notes:
            notes[note.task].append(note)
        return notes

    def was_put_back(self, spell: Spell) -> bool:
        """Say whether an atomic task's own process has put it back: nothing of it is there."""
        is_ready = spell.end is not None and spell.end.new == "READY"
        return spell.task in self.atomic and is_ready and not spell.was_taken

    def seen_at(self, death: Death, freed_at: float) -> float | None:
        """Return when a whole worker's death, or its silence, was first there for others to see.

        That is when the first of those came who watched until its tasks were free: whoever comes
        later begins to count then, and whoever goes takes along what it has counted. None: nobody.
        """
        since = [w.since for w in self.watches if w.until >= freed_at >= w.since]
        return max(death.at, min(since)) if since else None

    def was_paused(self, actor: str, since: int, until: int) -> bool:
        """Say whether an actor was suspended at some time between two moments."""
        return any(
            pause.since <= until and (pause.until is None or since <= pause.until)
            for pause in self.pauses.get(actor, [])
        )


def _spell(begin: Change, end: Change | None) -> Spell:
    return Spell(begin.task, begin.claim or "", begin.worker or "", begin, end)
