"""How many captchas a provider takes at a time, learned from its refusals, and how fast it may be given them.

The learned limit follows the rule of TCP's congestion control (RFC 5681): additive increase, multiplicative decrease.
A refusal for want of a slot lowers it to a part of what the provider did accept; then it grows with time. Refusals that
come while the provider is left alone are answers to submits from before and teach nothing new.

After an outage the number in flight starts from what the provider has taken and doubles (slow start): what has waited
must not come down on it all at once.
"""

__all__ = [
    "DECREASE",
    "WINDOW_S",
    "Capacity",
    "free_at",
    "grown_at",
    "limit",
    "on_recovered",
    "on_saturated",
    "on_threads",
]

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

#: What is left of the accepted captchas as the limit after a refusal. Near 1, since plans have a fixed number of
#: threads, and what lies between the limit and that number is paid for and idle.
DECREASE = 0.8

#: The limit grows by one a second, or by all of `max_in_flight` in this time if that is faster. So each try for more is
#: a few submits, far from the 120 refusals in a minute for which providers block an account (ERROR: 1001).
WHOLE_GROWTH_S = 600.0

#: After an outage the captchas in flight may double in so many seconds: from a few to a thousand in 20 s.
DOUBLE_S = 2.0
_DOUBLINGS = 30.0  # more is no limit

#: Providers count submits over 3 s (MAX_USER_TURN). The tenth more is for what lies between our order and their count.
WINDOW_S = 3.3


@dataclass(frozen=True, slots=True)
class Capacity:
    """What is known of one provider's capacity. Times are monotonic seconds."""

    threads: int | None = None  # what the account has free for us, as the provider says
    learned: float | None = None  # at `grows_from`; None: it has refused nothing yet
    grows_from: float = 0.0
    wait_until: float = 0.0  # no submit before
    recovered: int = 0  # so many it had taken when an outage was over
    recovered_at: float | None = None  # when that was


def limit(capacity: Capacity, max_in_flight: int, now: float) -> int:
    """Captchas that may be in flight now: at least 1, at most `max_in_flight`."""
    most = _most(capacity, max_in_flight)
    if capacity.recovered_at is not None:
        doublings = min((now - capacity.recovered_at) / DOUBLE_S, _DOUBLINGS)
        most = min(most, int(capacity.recovered * 2.0**doublings))
    if capacity.learned is not None:
        grown = capacity.learned + _growth(max_in_flight) * max(0.0, now - capacity.grows_from)
        most = min(most, int(grown))
    return max(1, most)


def on_saturated(capacity: Capacity, accepted: int, max_in_flight: int, now: float, wait_s: float) -> Capacity:
    """It had no slot for one more beside `accepted` captchas: leave it alone for `wait_s`, then give it less."""
    if now < capacity.wait_until:
        return capacity
    base = min(limit(capacity, max_in_flight, now), accepted)
    until = now + wait_s
    return replace(capacity, learned=max(1.0, base * DECREASE), grows_from=until, wait_until=until)


def on_recovered(capacity: Capacity, accepted: int, now: float) -> Capacity:
    """An outage is over, and it has `accepted` captchas: more of them step by step."""
    return replace(capacity, recovered=max(1, accepted), recovered_at=now)


def on_threads(capacity: Capacity, threads: int, working: int, accepted: int) -> Capacity:
    """The account has `threads`, of which `working` are busy; `accepted` of those may be ours, the others are not."""
    return replace(capacity, threads=max(1, threads - max(0, working - accepted)))


def grown_at(capacity: Capacity, in_flight: int, max_in_flight: int, now: float) -> float | None:
    """When there will be room for one more by time alone. None: there is some now, or only a captcha's end makes it."""
    if now < capacity.wait_until:
        return capacity.wait_until
    if not limit(capacity, max_in_flight, now) <= in_flight < _most(capacity, max_in_flight):
        return None
    at = now
    if capacity.learned is not None:
        at = max(at, capacity.grows_from + (in_flight + 1 - capacity.learned) / _growth(max_in_flight))
    if capacity.recovered_at is not None:
        at = max(at, capacity.recovered_at + DOUBLE_S * math.log2((in_flight + 1) / capacity.recovered))
    # A hair later: the sum must not fall short of the whole number by a rounding.
    return at + 0.001


def free_at(submits: Sequence[float], most: int) -> float:
    """From when on one more submit may go: at most `most` go in any WINDOW_S. `submits` are the latest, in order."""
    return submits[-most] + WINDOW_S if len(submits) >= most else 0.0


def _most(capacity: Capacity, max_in_flight: int) -> int:
    return max_in_flight if capacity.threads is None else min(max_in_flight, capacity.threads)


def _growth(max_in_flight: int) -> float:
    return max(1.0, max_in_flight / WHOLE_GROWTH_S)
