"""Which provider takes the next task.

A provider is left when its breaker opens. It is preferred again only after `return_successes` submits in a row that it
has taken and `return_after_s` since it was left, so that the load does not swing between two providers. Until then it
takes no more than these submits as probes, few at a time; beyond them it is used only when no other has room.
"""

__all__ = ["Absence", "Lane", "ReturnSettings", "choose", "is_back", "probes", "share", "why_away"]

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class ReturnSettings:
    """`return_successes` and `return_after_s` of `[breaker]`."""

    successes: int = 5
    after_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Absence:
    """A provider was left at `since`, monotonic seconds, and has taken `successes` submits in a row since."""

    since: float
    successes: int = 0

    def after_success(self) -> "Absence":
        return replace(self, successes=self.successes + 1)

    def after_fault(self) -> "Absence":
        return replace(self, successes=0)


def is_back(absence: Absence, now: float, settings: ReturnSettings) -> bool:
    """Whether the provider is preferred again."""
    return absence.successes >= settings.successes and now >= absence.since + settings.after_s


def probes(absence: Absence, submitting: int, settings: ReturnSettings) -> int:
    """How many more submits a provider on its way back may take as probes: first one at a time, then two, four, …

    `submitting` are under way. None once it has had its successes: then it only waits for its time.
    """
    wanted = settings.successes - absence.successes
    return max(0, min(1 << absence.successes, wanted) - submitting)


def why_away(absence: Absence, now: float, settings: ReturnSettings) -> str:
    """What a provider on its way back still lacks, in words."""
    left_s = max(0.0, absence.since + settings.after_s - now)
    good = min(absence.successes, settings.successes)
    return f"on its way back: {good} of {settings.successes} submits taken, {left_s:.0f} s left"


@dataclass(frozen=True, slots=True)
class Lane:
    """One provider as routing sees it; `room` is how many more submits it may take now.

    `last_resort`: it is on its way back and has its probes; others come first, whatever their priority.
    """

    name: str
    priority: int
    in_flight: int
    max_in_flight: int
    room: int
    last_resort: bool = False


def choose(lanes: Iterable[Lane]) -> str | None:
    """The provider with the lowest priority number that has room; equals share by relative load."""
    open_lanes = [lane for lane in lanes if lane.room > 0 and lane.in_flight < lane.max_in_flight]
    if not open_lanes:
        return None
    return min(open_lanes, key=_rank).name


def share(threads: int, providers: int) -> int:
    """How many of a worker's `threads` one of so many providers may have: those that hang leave some to the others."""
    return max(1, threads // max(1, providers))


def _rank(lane: Lane) -> tuple[bool, int, float, str]:
    return lane.last_resort, lane.priority, lane.in_flight / lane.max_in_flight, lane.name
