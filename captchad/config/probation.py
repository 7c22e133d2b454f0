"""The trial of one new configuration: when it is good, and when it is rolled back.

Pure: it is told what happened and when (monotonic seconds).
"""

__all__ = ["Confirmation", "Decision", "Probation", "Verdict"]

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What becomes of a configuration on probation."""

    RUNNING = "running"
    PROMOTE = "promote"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict; a rollback has a reason."""

    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """An operator's word, waited for until `by` (monotonic seconds); without it, `reason` is why it is rolled back."""

    by: float
    reason: str


class Probation:
    """One trial. The first verdict other than "running" stands.

    A configuration becomes good when it has run for `probation_s` without an outage of its providers and without a
    fault of its own; one that is to be confirmed, by `confirm` alone, whatever time has passed. An outage stops the
    clock and is never held against it; a fault of its own counts at any time, also before the service is ready and
    during an outage.
    """

    def __init__(self, probation_s: float, confirmation: Confirmation | None = None) -> None:
        self.confirmation = confirmation
        self._left_s = probation_s
        self._since: float | None = None  # when the clock was last read while it ran; None: it stands still
        self._started = False
        self._outage = False
        self._fault: str | None = None
        self._final: Decision | None = None

    @property
    def remaining_s(self) -> float:
        """Time without outages that it still has to run, as of the last event."""
        return self._left_s

    def started(self, now: float) -> None:
        """The configuration is applied and the service is ready."""
        self._started = True
        self._turn(now)

    def own_fault(self, reason: str) -> None:
        """A fault that only the configuration can explain. The first one is the reason of the rollback."""
        if self._fault is None:
            self._fault = reason

    def confirmed(self) -> None:
        """An operator has given the word: it is good from now on, unless a fault of its own is known already."""
        self.confirmation = None
        self._started, self._left_s = True, 0.0

    def outage(self, now: float) -> None:
        """No provider can be reached, or none answers properly. Said again it changes nothing."""
        self._outage = True
        self._turn(now)

    def outage_over(self, now: float) -> None:
        """The outage has ended."""
        self._outage = False
        self._turn(now)

    def tick(self, now: float) -> Decision:
        """The verdict as of now."""
        self._turn(now)
        if self._final is None:
            self._final = self._judge(now)
        return self._final or Decision(Verdict.RUNNING)

    def _judge(self, now: float) -> Decision | None:
        if self._fault is not None:
            return Decision(Verdict.ROLLBACK, self._fault)
        if self.confirmation is not None:
            late = now >= self.confirmation.by
            return Decision(Verdict.ROLLBACK, self.confirmation.reason) if late else None
        return Decision(Verdict.PROMOTE) if self._started and self._left_s <= 0 else None

    def _turn(self, now: float) -> None:
        """Account for the time since the last event, then let the clock run or stand."""
        if self._since is not None:
            self._left_s = max(0.0, self._left_s - (now - self._since))
        self._since = now if self._started and not self._outage else None
