"""The mode: normal, degraded, emergency. What it is now, why, and which priorities may be submitted in it.

A measured share (of failed captchas, of the queue in use) brings a mode at its threshold at once and ends it only after
it was clearly below for a while, so that a value near the threshold does not switch submits on and off. What is
known exactly (workers alive, a journal that takes no write) needs no such wait.

Out of it by itself: while tasks are held back no captcha may end, so that a rate of the latest ends alone would
stand still for ever. Therefore ends grow old (`RATE_WINDOW_S`): so long after the last failure, and `hold_s`, at the
latest, the next tasks are submitted and show how the provider is. Trial tasks would show it sooner, but they cost money
in an emergency; a provider that refuses calls is tried by the breaker.

A full queue holds nothing back: only submits empty it. There the higher priorities go first, whatever has waited.
"""

__all__ = [
    "FEWEST_FAILURES",
    "RATE_WINDOW_S",
    "Degradation",
    "DegradationSettings",
    "Mode",
    "Signs",
    "error_rate",
    "judge",
]

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from captchad.model.states import Priority

#: Fewer failures than this are chance: two of ten captchas fail at a provider that is well.
FEWEST_FAILURES = 10

#: Ends older than this do not count.
RATE_WINDOW_S = 60.0

#: A share is clearly below its threshold when it is below this part of it.
LEAVE_PART = 0.8


class Mode(StrEnum):
    """How much of its work captchad does."""

    NORMAL = "normal"
    DEGRADED = "degraded"
    EMERGENCY = "emergency"


@dataclass(frozen=True, slots=True)
class DegradationSettings:
    """`[degradation]` of the configuration: shares, and seconds."""

    degraded_error_rate: float
    emergency_error_rate: float
    degraded_queue_ratio: float
    hold_s: float


@dataclass(frozen=True, slots=True)
class Signs:
    """What the mode is judged by."""

    error_rate: float
    queue_ratio: float  # unfinished tasks to capacity
    workers_alive: int | None  # None: they boot, or leave as they were told to
    min_workers: int
    journal_down: bool
    stopped: bool = False  # intake or results wait, or there is no room


@dataclass(frozen=True, slots=True)
class Latch:
    """Whether a share has reached its threshold, and since when it is clearly below again (monotonic)."""

    on: bool = False
    below_since: float | None = None


@dataclass(frozen=True, slots=True)
class Degradation:
    """The mode, and what it was judged from. `bar`: the lowest priority that is submitted."""

    mode: Mode = Mode.NORMAL
    reasons: tuple[str, ...] = ()
    bar: Priority = Priority.LOW
    failing: Latch = field(default=Latch())
    ailing: Latch = field(default=Latch())
    backlog: Latch = field(default=Latch())

    @property
    def effect(self) -> str:
        """What waits because of it, in words; "" when nothing does."""
        match self.bar:
            case Priority.CRITICAL:
                return "only critical tasks are submitted"
            case Priority.HIGH:
                return "only high and critical tasks are submitted"
        return "higher priorities go first, however long others have waited" if self.backlog.on else ""


def error_rate(ends: Iterable[tuple[float, bool]], now: float, window_s: float = RATE_WINDOW_S) -> float:
    """Share of the captchas of the last `window_s` that ended without an answer; 0 with too few of them to judge.

    `ends`: when each ended (monotonic), and whether it was solved.
    """
    recent = [solved for at, solved in ends if now - at < window_s]
    failures = recent.count(False)
    return failures / len(recent) if failures >= FEWEST_FAILURES else 0.0


def judge(before: Degradation, signs: Signs, settings: DegradationSettings, now: float) -> Degradation:
    """The mode at `now` (monotonic). To be asked about once a second."""
    hold_s = settings.hold_s
    failing = _follow(before.failing, signs.error_rate, settings.emergency_error_rate, now, hold_s)
    ailing = _follow(before.ailing, signs.error_rate, settings.degraded_error_rate, now, hold_s)
    backlog = _follow(before.backlog, signs.queue_ratio, settings.degraded_queue_ratio, now, hold_s)
    alive = signs.workers_alive
    unsolved = f"{signs.error_rate:.0%} of the captchas end without an answer"
    # In the order of weight: of two about the same thing the first one counts.
    found = [
        (signs.journal_down, Mode.EMERGENCY, Priority.LOW, "the journal takes no write"),
        (alive == 0, Mode.EMERGENCY, Priority.CRITICAL, "no worker is alive"),
        (failing.on, Mode.EMERGENCY, Priority.CRITICAL, unsolved),
        (ailing.on and not failing.on, Mode.DEGRADED, Priority.HIGH, unsolved),
        (
            alive is not None and 0 < alive < signs.min_workers,
            Mode.DEGRADED,
            Priority.HIGH,
            f"{alive} workers are alive, {signs.min_workers} are needed",
        ),
        (backlog.on, Mode.DEGRADED, Priority.LOW, f"the queue is {signs.queue_ratio:.0%} full"),
        (signs.stopped, Mode.DEGRADED, Priority.LOW, "intake or results are stopped"),
    ]
    true = [(mode, bar, reason) for holds, mode, bar, reason in found if holds]
    return Degradation(
        mode=true[0][0] if true else Mode.NORMAL,
        reasons=tuple(reason for _, _, reason in true),
        bar=min((bar for _, bar, _ in true), default=Priority.LOW),
        failing=failing,
        ailing=ailing,
        backlog=backlog,
    )


def _follow(latch: Latch, value: float, threshold: float, now: float, hold_s: float) -> Latch:
    if value >= threshold:
        return Latch(on=True)
    if not latch.on or value >= LEAVE_PART * threshold:
        return Latch(on=latch.on)
    since = now if latch.below_since is None else latch.below_since
    return Latch() if now - since >= hold_s else Latch(on=True, below_since=since)
