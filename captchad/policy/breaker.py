"""Circuit breaker of one provider: stops calls in an outage, lets a few try after a while.

    closed ──failure_threshold faults in a row──> open ──reset_timeout_s──> half-open
    half-open ──half_open_successes successes──> closed;  half-open ──one fault──> open

Only provider faults count: not unsolvable captchas, not bad parameters. An answered poll makes up for faults of polls
alone: where submits fail and polls do not, the many good polls must not hide the submits. A pause (permanent or budget
error) is an open breaker with a time of its own.
"""

__all__ = ["Breaker", "BreakerSettings", "allowance", "on_fault", "on_pause", "on_poll", "on_success", "state_word"]

from dataclasses import dataclass, field, replace

from captchad.policy.routing import ReturnSettings


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """`[breaker]` of the configuration."""

    failure_threshold: int
    reset_timeout_s: float
    half_open_successes: int
    return_settings: ReturnSettings = field(default_factory=ReturnSettings)


@dataclass(frozen=True, slots=True)
class Breaker:
    """`open_until` is monotonic; while `tripped`, a time before `now` means half-open."""

    faults: int = 0
    submit_faults: int = 0  # so many of them were submits
    tripped: bool = False
    open_until: float = 0.0
    successes: int = 0
    reason: str = ""


def state_word(breaker: Breaker, now: float) -> str:
    """`closed`, `open` or `half-open`."""
    if not breaker.tripped:
        return "closed"
    return "open" if now < breaker.open_until else "half-open"


def allowance(breaker: Breaker, now: float, probing: int) -> int | None:
    """How many submits may start now: None is no limit. Half-open lets one submit at a time try (`probing` runs)."""
    match state_word(breaker, now):
        case "closed":
            return None
        case "half-open":
            # Slow start: one, then two, then four at a time, until the breaker closes.
            return max(0, (1 << breaker.successes) - probing)
        case _:
            return 0


def on_fault(breaker: Breaker, now: float, reason: str, settings: BreakerSettings, *, submit: bool = False) -> Breaker:
    """A provider fault: a refused call, a 5xx, nothing that can be parsed. `submit`: the call was one."""
    if breaker.tripped:
        if now < breaker.open_until:
            return breaker  # an answer to a call from before: already known
        return replace(breaker, open_until=now + settings.reset_timeout_s, successes=0, reason=reason)
    faults = breaker.faults + 1
    if faults < settings.failure_threshold:
        return replace(breaker, faults=faults, submit_faults=breaker.submit_faults + submit)
    return Breaker(tripped=True, open_until=now + settings.reset_timeout_s, reason=reason)


def on_pause(breaker: Breaker, now: float, pause_s: float, reason: str) -> Breaker:
    """The provider said that our key, money or rate is at fault: wait `pause_s`, then try one. A longer wait stays."""
    if breaker.open_until > now + pause_s:
        return breaker
    return Breaker(tripped=True, open_until=now + pause_s, reason=reason)


def on_success(breaker: Breaker, now: float, settings: BreakerSettings) -> Breaker:
    """The provider took a submit."""
    if not breaker.tripped:
        return Breaker() if breaker.faults else breaker
    if now < breaker.open_until:
        return breaker
    successes = breaker.successes + 1
    return Breaker() if successes >= settings.half_open_successes else replace(breaker, successes=successes)


def on_poll(breaker: Breaker) -> Breaker:
    """The provider answered a poll properly."""
    if breaker.tripped or breaker.faults == breaker.submit_faults:
        return breaker
    return replace(breaker, faults=breaker.submit_faults)
