"""The checker accepts what may happen and rejects what must not: else a green run means nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.checker import check
from tests.chaos.evidence import (
    END,
    RAISED,
    START,
    Change,
    Death,
    Evidence,
    Finished,
    Note,
    Pause,
)


class Story:
    """Tell a run step by step; every step takes the next number of the sequence."""

    def __init__(self) -> None:
        self.evidence = Evidence()
        self.seq = 0
        # Status, claim, worker, attempts and crashes of each task.
        self._rows: dict[str, tuple[str | None, str | None, str | None]] = {}
        self._attempts: dict[str, int] = {}

    def enqueue(self, *tasks: str) -> None:
        for task in tasks:
            self.evidence.accepted.add(task)
            self._change(task, "READY", None, None, "")

    def claim(self, actor: str, claim: str, *tasks: str) -> None:
        xact = self.seq + 1000
        for task in tasks:
            self._attempts[task] = self._attempts.get(task, 0) + 1
            self._change(task, "RUNNING", claim, actor, f"child:{actor}", xact)

    def start(self, task: str) -> None:
        self._note(task, START)

    def end(self, task: str) -> None:
        self._note(task, END)

    def complete(self, task: str, status: str = "SUCCESSFUL", writer: str | None = None) -> None:
        _, claim, worker = self._rows[task]
        self._change(task, status, claim, worker, writer or f"child:{worker}")
        said = claim if status == "SUCCESSFUL" else None
        self.evidence.finished[task] = Finished(status, claim, self._attempts[task], 0, said)

    def run(self, task: str) -> None:
        self.start(task)
        self.end(task)
        self.complete(task)

    def retry(self, task: str) -> None:
        self._note(task, RAISED)
        worker = self._rows[task][2]
        self._change(task, "READY", None, None, f"child:{worker}")

    def rescue(self, task: str, status: str = "READY") -> None:
        """Put a task back, or end it, as a supervisor does."""
        self._attempts[task] -= 1
        if status == "READY":
            self._change(task, status, None, None, "supervisor:s")
        else:
            self.complete(task, status, "supervisor:s")

    def kill(self, actor: str) -> None:
        self.seq += 1
        self.evidence.deaths[actor] = Death(self.seq, float(self.seq))

    def suspend(self, actor: str) -> None:
        self.seq += 1
        self.evidence.pauses[actor] = [Pause(self.seq, None)]

    def resume(self, actor: str) -> None:
        self.seq += 1
        pauses = self.evidence.pauses[actor]
        pauses[-1] = Pause(pauses[-1].since, self.seq)

    def claim_of(self, task: str) -> str:
        return self._rows[task][1] or ""

    def _note(self, task: str, what: str) -> None:
        self.seq += 1
        _, claim, worker = self._rows[task]
        self.evidence.notes.append(Note(self.seq, task, claim or "", worker or "", what))

    def _change(
        self,
        task: str,
        new: str,
        claim: str | None,
        worker: str | None,
        writer: str,
        xact: int = 0,
    ) -> None:
        self.seq += 1
        old = self._rows.get(task, (None, None, None))
        self.evidence.changes.append(
            Change(
                self.seq,
                float(self.seq),
                xact or self.seq,
                task,
                old[0],
                new,
                old[1],
                claim,
                old[2],
                worker,
                writer,
            )
        )
        self._rows[task] = (new, claim, worker)


# --- what may happen ------------------------------------------------------------------------------


def quiet() -> Story:
    """Two tasks of one claim run to their end."""
    story = Story()
    story.enqueue("t1", "t2")
    story.claim("a", "c1", "t1", "t2")
    story.run("t1")
    story.run("t2")
    return story


def killed() -> Story:
    """A process dies in its first task; that one and the one behind it run elsewhere."""
    story = Story()
    story.enqueue("t1", "t2")
    story.claim("a", "c1", "t1", "t2")
    story.start("t1")
    story.kill("a")
    story.rescue("t1")
    story.rescue("t2")
    story.claim("b", "c2", "t1", "t2")
    story.run("t1")
    story.run("t2")
    return story


def killed_when_done() -> Story:
    """A process dies after the task has ended and before its outcome is stored."""
    story = Story()
    story.enqueue("t1")
    story.claim("a", "c1", "t1")
    story.start("t1")
    story.end("t1")
    story.kill("a")
    story.rescue("t1")
    story.claim("b", "c2", "t1")
    story.run("t1")
    return story


def failed_once() -> Story:
    """An attempt raises and the next one succeeds."""
    story = Story()
    story.enqueue("t1")
    story.claim("a", "c1", "t1")
    story.start("t1")
    story.retry("t1")
    story.claim("a", "c2", "t1")
    story.run("t1")
    return story


def relieved() -> Story:
    """What waits behind a long task of a living process is given back by its supervisor."""
    story = Story()
    story.enqueue("t1", "t2")
    story.claim("a", "c1", "t1", "t2")
    story.start("t1")
    story.rescue("t2")
    story.claim("b", "c2", "t2")
    story.run("t2")
    story.end("t1")
    story.complete("t1")
    return story


def zombie() -> Story:
    """A process is suspended, rescued, and wakes up in the middle of its task."""
    story = Story()
    story.enqueue("t1")
    story.claim("a", "c1", "t1")
    story.start("t1")
    story.suspend("a")
    story.rescue("t1")
    story.claim("b", "c2", "t1")
    story.start("t1")
    story.resume("a")
    story.evidence.notes.append(Note(story.seq, "t1", "c1", "a", END))
    story.end("t1")
    story.complete("t1")
    return story


def slept_before_the_start() -> Story:
    """A process is suspended with a task that it had not started, and starts it when it wakes."""
    story = Story()
    story.enqueue("t1")
    story.claim("a", "c1", "t1")
    story.suspend("a")
    story.rescue("t1")
    story.claim("b", "c2", "t1")
    story.run("t1")
    story.resume("a")
    story.evidence.notes.append(Note(story.seq + 1, "t1", "c1", "a", START))
    return story


def poisoned() -> Story:
    """A task kills three processes and fails."""
    story = Story()
    story.enqueue("t1")
    for actor in ("a", "b", "c"):
        story.claim(actor, f"claim-{actor}", "t1")
        story.start("t1")
        story.kill(actor)
        story.rescue("t1", "FAILED" if actor == "c" else "READY")
    story.evidence.starts["t1"] = 3
    return story


def once() -> Story:
    """A task that is started at most once ends with its process."""
    story = Story()
    story.enqueue("t1")
    story.claim("a", "c1", "t1")
    story.start("t1")
    story.kill("a")
    story.rescue("t1", "FAILED")
    story.evidence.at_most_once.add("t1")
    return story


def unanswered() -> Story:
    """Of two enqueues without an answer one has committed; a third was rolled back."""
    story = quiet()
    story.evidence.accepted.remove("t2")
    story.evidence.doubtful.update({"t2", "t3"})
    story.evidence.refused.add("t4")
    return story


def put_back() -> Story:
    """The COMMIT of an atomic task gets no answer, and its process finds that it has not run."""
    story = Story()
    story.enqueue("t1")
    story.claim("a", "c1", "t1")
    story.start("t1")
    story.end("t1")
    story.rescue("t1")
    story.evidence.changes[-1] = story.evidence.changes[-1]._replace(writer="child:a")
    story.claim("a", "c2", "t1")
    story.run("t1")
    story.evidence.atomic.add("t1")
    return story


GOOD = [
    put_back,
    quiet,
    killed,
    killed_when_done,
    failed_once,
    relieved,
    zombie,
    slept_before_the_start,
    poisoned,
    once,
    unanswered,
]


@pytest.mark.parametrize("story", GOOD, ids=lambda story: story.__name__)
def test_what_may_happen_is_accepted(story: Callable[[], Story]) -> None:
    assert check(story().evidence) == []


# --- what must not happen -------------------------------------------------------------------------


def without_a_row(evidence: Evidence) -> None:
    del evidence.finished["t1"]


def never_run(evidence: Evidence) -> None:
    evidence.accepted.add("t9")
    evidence.live["t9"] = "READY"


def still_running(evidence: Evidence) -> None:
    del evidence.finished["t1"]
    evidence.live["t1"] = "RUNNING"


def from_a_rollback(evidence: Evidence) -> None:
    evidence.accepted.remove("t1")
    evidence.refused.add("t1")


def started_unclaimed(evidence: Evidence) -> None:
    note = evidence.notes[0]
    evidence.notes[0] = note._replace(actor="somebody else")


def started_twice_for_no_reason(evidence: Evidence) -> None:
    evidence.deaths.clear()


def put_back_though_not_atomic(evidence: Evidence) -> None:
    evidence.atomic.clear()


def started_twice_under_one_claim(evidence: Evidence) -> None:
    evidence.notes.insert(1, evidence.notes[0])


def written_by_the_dead(evidence: Evidence) -> None:
    last = evidence.changes[-2]
    evidence.changes[-2] = last._replace(writer="child:a")


def holds_a_value_of_the_dead(evidence: Evidence) -> None:
    evidence.finished["t1"] = evidence.finished["t1"]._replace(said="c1")


def holds_an_old_claim(evidence: Evidence) -> None:
    evidence.finished["t1"] = evidence.finished["t1"]._replace(claim="c1", said="c1")


def ended_under_another_claim(evidence: Evidence) -> None:
    evidence.changes[-1] = evidence.changes[-1]._replace(claim="c9")


def ended_from_ready(evidence: Evidence) -> None:
    evidence.changes[-1] = evidence.changes[-1]._replace(old="READY")


def ended_twice(evidence: Evidence) -> None:
    last = evidence.changes[-1]
    evidence.changes.append(last._replace(seq=last.seq + 1, old=last.new))


def moved_unseen(evidence: Evidence) -> None:
    del evidence.changes[1]


def deleted(evidence: Evidence) -> None:
    last = evidence.changes[-1]
    evidence.changes[-1] = last._replace(new=None, claim=None, worker=None)


def claimed_twice_with_one_token(evidence: Evidence) -> None:
    evidence.changes = [
        change._replace(claim="c1") if change.claim == "c2" else change
        for change in evidence.changes
    ]
    evidence.changes = [
        change._replace(old_claim="c1") if change.old_claim == "c2" else change
        for change in evidence.changes
    ]


def running_in_two_processes(evidence: Evidence) -> None:
    """The first execution ends after the second has begun, and nobody was suspended."""
    evidence.deaths.clear()
    evidence.pauses.clear()


def taken_from_the_living(evidence: Evidence) -> None:
    evidence.pauses["a"] = [Pause(0, 1)]


def failed_without_a_reason(evidence: Evidence) -> None:
    evidence.finished["t1"] = evidence.finished["t1"]._replace(status="FAILED", said=None)


def condemned_for_two_deaths(evidence: Evidence) -> None:
    del evidence.deaths["b"]
    evidence.pauses.clear()


def an_attempt_burnt(evidence: Evidence) -> None:
    evidence.finished["t1"] = evidence.finished["t1"]._replace(attempts=2)


def poison_started_too_often(evidence: Evidence) -> None:
    evidence.starts["t1"] = 2


def once_started_again(evidence: Evidence) -> None:
    evidence.at_most_once.add("t1")


BAD: list[tuple[str, Callable[[], Story], Callable[[Evidence], None]]] = [
    ("lost", quiet, without_a_row),
    ("lost", quiet, never_run),
    ("left", quiet, still_running),
    ("unexpected", quiet, from_a_rollback),
    ("unexpected", quiet, started_unclaimed),
    ("duplicated", killed, started_twice_for_no_reason),
    ("duplicated", quiet, started_twice_under_one_claim),
    ("duplicated", put_back, put_back_though_not_atomic),
    ("duplicated", killed, once_started_again),
    ("stale", killed, written_by_the_dead),
    ("stale", killed, holds_a_value_of_the_dead),
    ("stale", killed, holds_an_old_claim),
    ("stale", quiet, ended_under_another_claim),
    ("forbidden", quiet, ended_from_ready),
    ("forbidden", quiet, ended_twice),
    ("forbidden", quiet, moved_unseen),
    ("forbidden", quiet, deleted),
    ("token", killed, claimed_twice_with_one_token),
    ("overlap", zombie, running_in_two_processes),
    ("stolen", zombie, taken_from_the_living),
    ("overlap", slept_before_the_start, running_in_two_processes),
    ("condemned", quiet, failed_without_a_reason),
    ("condemned", poisoned, condemned_for_two_deaths),
    ("miscounted", killed, an_attempt_burnt),
    ("miscounted", poisoned, poison_started_too_often),
]


@pytest.mark.parametrize(
    ("kind", "story", "spoil"), BAD, ids=[f"{kind}-{spoil.__name__}" for kind, _, spoil in BAD]
)
def test_what_must_not_happen_is_rejected(
    kind: str, story: Callable[[], Story], spoil: Callable[[Evidence], None]
) -> None:
    evidence = story().evidence
    spoil(evidence)
    assert kind in {violation.kind for violation in check(evidence)}


def test_a_start_after_the_task_was_given_back_is_rejected() -> None:
    story = relieved()
    begun = next(n for n in story.evidence.notes if n.task == "t1")
    story.evidence.notes.append(begun._replace(seq=story.seq + 1, task="t2"))
    kinds = {violation.kind for violation in check(story.evidence)}
    assert "overlap" in kinds
