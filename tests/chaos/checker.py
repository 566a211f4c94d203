"""Judge a run under faults from its evidence alone: pure Python, nothing is asked anew.

What it looks for:

lost         a task whose transaction committed has no outcome, or its row is gone
unexpected   a task has run or ended whose transaction did not commit, or that nobody had claimed
duplicated   a task has started more often than kills, suspensions and its own errors account for
stale        an outcome, or another end of a spell, that was not written under the latest claim
stolen       a task was taken from a process that lived and ran it
forbidden    a change of status that no arrow of the design has
token        a claim token that was used twice
overlap      two executions of one task at once, outside a declared suspension
left         a task that is still RUNNING when everything is over
condemned    a task failed that should not have, and no three deaths account for it
miscounted   a poison task did not start as often as promised, or an attempt was used up by a fault
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from tests.chaos.evidence import END, RAISED, START, Change, Evidence, Note, Spell

# Written down anew, not imported: the checker must not believe what it checks.
ARROWS = {
    (None, "READY"),
    ("READY", "RUNNING"),
    ("RUNNING", "READY"),
    ("RUNNING", "HELD"),
    ("RUNNING", "SUCCESSFUL"),
    ("RUNNING", "FAILED"),
    ("RUNNING", "CANCELLED"),
    ("RUNNING", "EXPIRED"),
    ("HELD", "READY"),
}
# Deaths of its processes that end a task.
MOST_CRASHES = 3


class Violation(NamedTuple):
    """A broken promise."""

    kind: str
    task: str
    detail: str


def check(evidence: Evidence) -> list[Violation]:
    """Return every broken promise; none is a run as it should be."""
    return list(_all(evidence))


def _all(evidence: Evidence) -> Iterator[Violation]:
    notes, spells = evidence.notes_by_task(), evidence.spells()
    yield from _outcomes(evidence, spells)
    yield from _strangers(evidence, notes)
    yield from _arrows(evidence.changes)
    yield from _tokens(evidence.changes)
    for task, ledger in notes.items():
        by_claim = {spell.claim: spell for spell in spells.get(task, [])}
        yield from _starts(evidence, task, ledger, by_claim)
        yield from _overlaps(evidence, task, ledger, by_claim)
    for task, of_task in spells.items():
        yield from _writers(evidence, of_task, notes.get(task, []))
    yield from _counts(evidence, notes)


# --- outcomes -------------------------------------------------------------------------------------


def _outcomes(evidence: Evidence, spells: dict[str, list[Spell]]) -> Iterator[Violation]:
    """Each accepted task has one outcome, the expected one; nothing is left behind."""
    for task, status in evidence.live.items():
        if status == "RUNNING":
            yield Violation("left", task, "still RUNNING at the end")
        elif task in evidence.accepted:
            yield Violation("lost", task, f"still {status} at the end")
    for task in evidence.accepted - evidence.live.keys() - evidence.finished.keys():
        yield Violation("lost", task, "neither live nor finished")
    for task, row in evidence.finished.items():
        if task in evidence.live:
            yield Violation("forbidden", task, "live and finished at once")
        wanted = evidence.expected.get(task, "SUCCESSFUL")
        if row.status != wanted and not _is_accounted_for(evidence, task, spells.get(task, [])):
            yield Violation("condemned", task, f"{row.status} instead of {wanted}")


def _is_accounted_for(evidence: Evidence, task: str, spells: list[Spell]) -> bool:
    """Say whether so many processes died under a task that it may have failed."""
    deaths = sum(spell.was_taken and _is_gone(evidence, spell) for spell in spells)
    return deaths >= (1 if task in evidence.at_most_once else MOST_CRASHES)


def _strangers(evidence: Evidence, notes: dict[str, list[Note]]) -> Iterator[Violation]:
    """Nothing runs or ends whose transaction was rolled back, or that was never enqueued."""
    known = evidence.accepted | evidence.doubtful
    for task in sorted((evidence.finished.keys() | evidence.live.keys() | notes.keys()) - known):
        yield Violation("unexpected", task, "no committed transaction has enqueued it")


def _counts(evidence: Evidence, notes: dict[str, list[Note]]) -> Iterator[Violation]:
    for task, wanted in evidence.starts.items():
        count = sum(note.what == START for note in notes.get(task, []))
        if count != wanted:
            yield Violation("miscounted", task, f"started {count} times instead of {wanted}")
    for task, row in evidence.finished.items():
        raised = any(note.what == RAISED for note in notes.get(task, []))
        if row.status == "SUCCESSFUL" and row.attempts != 1 and not raised:
            yield Violation("miscounted", task, f"{row.attempts} attempts without an error")


# --- the rows -------------------------------------------------------------------------------------


def _arrows(changes: list[Change]) -> Iterator[Violation]:
    """Each change is an arrow, and begins where the one before has ended."""
    status: dict[str, str | None] = defaultdict(lambda: None)
    for change in changes:
        if change.old != status[change.task]:
            yield Violation(
                "forbidden", change.task, f"{status[change.task]} became {change.old} unseen"
            )
        if (change.old, change.new) not in ARROWS:
            yield Violation("forbidden", change.task, f"{change.old} -> {change.new}")
        if (change.new == "RUNNING") != (change.claim is not None and not _ends(change)):
            yield Violation("forbidden", change.task, f"{change.new} with claim {change.claim}")
        status[change.task] = change.new


def _ends(change: Change) -> bool:
    return change.new in {"SUCCESSFUL", "FAILED", "CANCELLED", "EXPIRED"}


def _tokens(changes: list[Change]) -> Iterator[Violation]:
    """A token belongs to one claim of one process, and takes a task once."""
    owners: dict[str, tuple[int, str | None]] = {}
    used: set[tuple[str, str]] = set()
    for change in changes:
        if change.new != "RUNNING" or change.claim is None:
            continue
        owner = owners.setdefault(change.claim, (change.xact, change.worker))
        if owner != (change.xact, change.worker):
            yield Violation("token", change.task, f"{change.claim} was used by two claims")
        if (change.task, change.claim) in used:
            yield Violation("token", change.task, f"{change.claim} has claimed it twice")
        used.add((change.task, change.claim))


def _writers(evidence: Evidence, spells: list[Spell], notes: list[Note]) -> Iterator[Violation]:
    """What ends a spell is written by its own process, or by a supervisor when that is dead."""
    for spell in spells:
        end = spell.end
        if end is None:
            continue
        if end.writer.startswith("child:") and spell.was_taken:
            yield Violation(
                "stale", spell.task, f"{end.writer} ended a spell of {spell.actor} ({end.new})"
            )
        if _ends(end) and end.claim != spell.claim:
            yield Violation("stale", spell.task, f"ended under {end.claim}, not {spell.claim}")
        has_begun = any(
            n.what == START and n.claim == spell.claim and n.seq < end.seq for n in notes
        )
        if end.writer.startswith("supervisor:") and has_begun and not _is_gone(evidence, spell):
            yield Violation("stolen", spell.task, f"taken from {spell.actor}, which lives")
    if spells:
        row = evidence.finished.get(spells[0].task)
        if row is not None and row.claim != spells[-1].claim:
            yield Violation("stale", spells[0].task, f"{row.claim} is not the latest claim")
        if row is not None and row.said is not None and row.said != row.claim:
            yield Violation("stale", spells[0].task, f"holds what {row.said} came to")


def _is_gone(evidence: Evidence, spell: Spell) -> bool:
    """Say whether a spell's process was dead or suspended when the spell was ended."""
    assert spell.end is not None
    death = evidence.deaths.get(spell.actor)
    if death is not None and death.seq < spell.end.seq:
        return True
    return evidence.was_paused(spell.actor, spell.begin.seq, spell.end.seq)


# --- the ledger -----------------------------------------------------------------------------------


def _starts(
    evidence: Evidence, task: str, ledger: list[Note], spells: dict[str, Spell]
) -> Iterator[Violation]:
    """Each start has a claim that holds, and each but the first has a reason."""
    starts = [note for note in ledger if note.what == START]
    in_time = _in_time(starts, spells)
    raised = {note.claim for note in ledger if note.what == RAISED}
    if task in evidence.at_most_once and len(starts) > 1:
        yield Violation("duplicated", task, f"at most once, and it started {len(starts)} times")
    for claim, count in Counter(note.claim for note in starts).items():
        if count > 1:
            yield Violation("duplicated", task, f"started {count} times under {claim}")
    for note in starts:
        spell = spells.get(note.claim)
        if spell is None or spell.actor != note.actor:
            yield Violation("unexpected", task, f"started by {note.actor} without a claim")
        elif note not in in_time and not _is_gone(evidence, spell):
            yield Violation("overlap", task, "started after it had been taken away")
    for before, after in pairwise(in_time):
        if before.claim in raised:
            continue
        spell = spells.get(before.claim)
        if spell is not None and evidence.was_put_back(spell):
            continue
        if spell is None or not spell.was_taken or not _is_gone(evidence, spell):
            yield Violation("duplicated", task, f"started again at {after.seq} for no reason")


def _in_time(starts: list[Note], spells: dict[str, Spell]) -> list[Note]:
    """Leave out starts under claims that had ended: of processes that slept through their end."""
    return [
        note
        for note in starts
        if (spell := spells.get(note.claim)) is None
        or spell.end is None
        or spell.end.seq > note.seq
    ]


def _overlaps(
    evidence: Evidence, task: str, ledger: list[Note], spells: dict[str, Spell]
) -> Iterator[Violation]:
    """One execution ends before the next begins, unless its process was suspended or dead."""
    starts = _in_time([note for note in ledger if note.what == START], spells)
    ends = {note.claim: note.seq for note in ledger if note.what in (END, RAISED)}
    for before, after in pairwise(starts):
        end = ends.get(before.claim)
        if end is None:
            spell = spells.get(before.claim)
            if before.actor in evidence.deaths or spell is None or spell.end is None:
                continue
            end = spell.end.seq
        if end > after.seq and not evidence.was_paused(before.actor, before.seq, end):
            yield Violation("overlap", task, f"{before.claim} ran on when {after.claim} began")
