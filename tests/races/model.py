"""What the rows of tasks should say: the protocol once more, in a few words of Python."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

# After so many crashes a task runs alone, after one more it ends.
SUSPECT, CRASHES = 2, 3
# As many errors are kept.
ERRORS = 20


@dataclass(frozen=True)
class Task:
    """One task as the model sees it."""

    status: str = "READY"
    attempts: int = 0
    crashes: int = 0
    errors: int = 0
    # Token of the present claim; of the last one, for a task that has ended by it.
    claim: str | None = None
    worker: str | None = None
    asked_to_end: bool = False
    # It is due later than now, and its time to start ends later: until time passes.
    is_later: bool = False
    expires: str = "never"  # or "later", or "over"

    @property
    def is_claimable(self) -> bool:
        return self.status == "READY" and not self.is_later

    def claimed(self, worker: str, claim: str) -> Task:
        return replace(
            self, status="RUNNING", attempts=self.attempts + 1, claim=claim, worker=worker
        )

    def waits(self, *, attempts: int = 0, later: bool = False, **changes: Any) -> Task:
        """Return it back in its queue, with this many attempts given back."""
        return replace(
            self,
            **{
                "status": "READY",
                "claim": None,
                "worker": None,
                "attempts": self.attempts - attempts,
                "is_later": later,
                **changes,
            },
        )

    def failed_once(self) -> Task:
        return replace(self, errors=min(self.errors + 1, ERRORS))

    def ended(self, status: str, *, attempts: int = 0) -> Task:
        return replace(self, status=status, attempts=self.attempts - attempts)

    def crashed(self) -> Task:
        """Its process died while it ran."""
        blamed = replace(self.failed_once(), crashes=self.crashes + 1)
        if blamed.crashes >= CRASHES:
            return blamed.ended("FAILED", attempts=1)
        return blamed.waits(attempts=1, later=self.is_later)

    def after(self, outcome: str) -> Task:
        """Return it after an outcome of its own worker, by the name of its statement."""
        match outcome:
            case "complete" | "complete_anyway":
                return self.ended("SUCCESSFUL")
            case "fail" | "fail_anyway":
                return self.failed_once().ended("FAILED")
            case "cancel":
                return self.failed_once().ended("CANCELLED")
            case "cancel_unstarted":
                return self.failed_once().ended("CANCELLED", attempts=1)
            case "expire":
                return self.failed_once().ended("EXPIRED", attempts=1)
            case "retry":
                return self.failed_once().waits()
            case "retry_later":
                # Who was asked to end is not kept waiting for it; a time of its own stays, though.
                return self.failed_once().waits(later=not self.asked_to_end)
            case "snooze":
                return self.waits(attempts=1)
            case "run_again":
                return self.waits(attempts=1, later=self.is_later)
            case "park":
                return self.waits(attempts=1, later=self.is_later, status="HELD")
        raise ValueError(outcome)
