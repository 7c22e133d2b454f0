"""Which provider takes the next task, and when its captcha is polled."""

__all__ = ["Lane", "choose", "first_poll_s"]

from collections.abc import Iterable
from dataclasses import dataclass

#: Seconds until the first poll is worth its while, by method (SDK `initial_wait`, protocol notes 1.5).
_FIRST_POLL_S = {"post": 5.0, "base64": 5.0, "bls": 5.0, "turnstile": 10.0, "captchafox": 10.0, "lemin": 10.0}
_FIRST_POLL_DEFAULT_S = 15.0


@dataclass(frozen=True, slots=True)
class Lane:
    """One provider as routing sees it; `room` is how many more submits it may take now."""

    name: str
    priority: int
    in_flight: int
    max_in_flight: int
    room: int


def choose(lanes: Iterable[Lane]) -> str | None:
    """The provider with the lowest priority number that has room; equals share by relative load."""
    open_lanes = [lane for lane in lanes if lane.room > 0 and lane.in_flight < lane.max_in_flight]
    if not open_lanes:
        return None
    return min(open_lanes, key=lambda lane: (lane.priority, lane.in_flight / lane.max_in_flight, lane.name)).name


def first_poll_s(method: str, configured_s: float) -> float:
    """Seconds from submit to first poll: the configured ones, else by method."""
    return configured_s or _FIRST_POLL_S.get(method, _FIRST_POLL_DEFAULT_S)
