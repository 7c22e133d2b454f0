"""When a captcha is polled: learned from the solve times of its provider and method.

What is observed of a solve time is an interval: not ready at one poll, ready at the next. A histogram on a log scale
keeps the observations, the older the fainter, in constant memory. From it comes a plan: the ages at which a captcha is
polled.

Few polls find the answer soon when they are dense where the hazard is high (answers that come a second, of those that
have not come yet): the mean delay at a given number of polls is least for polls as dense as the square root of the
hazard (J. B. Keller, "Optimum checking schedules for systems subject to random failure", 1974). A plan spends as many
polls as the common client would (a first poll by method, then one every `poll_s`), on what is known of the solve times.

Ages and times in seconds, an age counts from the submit.
"""

__all__ = [
    "LATE_POLL_FACTOR",
    "MAX_POLLS",
    "POLLS_IN_TIME",
    "Pace",
    "SolveTimes",
    "late_plan",
    "plan",
    "rest",
    "unsolved",
]

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

#: A provider bans who polls more often than this for each captcha (protocol notes 1.5). In time, and after that.
MAX_POLLS = 20
_POLLS_LATE = 4
POLLS_IN_TIME = MAX_POLLS - _POLLS_LATE

#: A captcha that outlived its time-out is polled so much more slowly.
LATE_POLL_FACTOR = 4.0

#: Seconds until the first poll is worth its while, by method (SDK `initial_wait`, protocol notes 1.5).
_FIRST_POLL_S = {"post": 5.0, "base64": 5.0, "bls": 5.0, "turnstile": 10.0, "captchafox": 10.0, "lemin": 10.0}
_FIRST_POLL_DEFAULT_S = 15.0

#: Edges of the histogram: from 0, then 0.1 s to over an hour in steps of a twelfth.
_EDGES = (0.0, *(0.1 * 1.0833**step for step in range(134)))
_BINS = len(_EDGES) - 1
_WIDTHS = tuple(high - low for low, high in pairwise(_EDGES))

#: About so many of the latest observations count, and while there are few about the latter half: the very first ones
#: come from polls at any time, and say little.
_MEMORY = 250.0
_LATTER_PART = 0.5

#: Part of each observation that is spread evenly over its interval: a change inside of one interval is found so.
_EVEN = 0.1

#: Fewer observations are no knowledge.
_LEAST_SEEN = 20

#: The polls that a plan may need for a captcha, whatever the common client needs.
_FEWEST_POLLS = 3.0
_MOST_POLLS = 8.0

#: The part of them that is planned; the rest is for what comes otherwise than expected.
_SPENT = 0.93

#: A plan follows the hazard until this share is not solved, and keeps some polls for those.
_TAIL = 0.1
_TAIL_POLLS = 4

#: Polls go where `reach` (see `_spread`) passes these steps: a poll before anything is likely to be solved is in vain.
_FIRST_STEP = 1.5


@dataclass(frozen=True, slots=True)
class Pace:
    """What the configuration says of a provider's polls."""

    first_poll_s: float  # 0: by method, then learned
    poll_s: float
    timeout_s: float


class SolveTimes:
    """The solve times of one provider and method: a fading histogram of constant size."""

    def __init__(self) -> None:
        self.seen = 0
        self._weights = [0.0] * _BINS

    @property
    def known(self) -> bool:
        """Whether enough was seen to plan by it."""
        return self.seen >= _LEAST_SEEN

    def learn(self, low_s: float, high_s: float) -> None:
        """One more was solved after `low_s` and by `high_s`, its age when it was not ready and when it was."""
        low_s = min(max(low_s, 0.0), _EDGES[-2])
        high_s = min(max(high_s, low_s + 0.001), _EDGES[-1])
        self.seen += 1
        first, last = bisect_right(_EDGES, low_s) - 1, min(bisect_right(_EDGES, high_s) - 1, _BINS - 1)
        # Seconds of each bin that lie in the interval.
        inside = [min(high_s, _EDGES[at + 1]) - max(low_s, _EDGES[at]) for at in range(first, last + 1)]
        likely = [self._weights[first + i] * part / _WIDTHS[first + i] for i, part in enumerate(inside)]
        total = sum(likely)
        even = _EVEN if total > 0.0 else 1.0
        fade = 1.0 - 1.0 / min(max(self.seen * _LATTER_PART, _LEAST_SEEN), _MEMORY)
        self._weights = [weight * fade for weight in self._weights]
        for i, part in enumerate(inside):
            self._weights[first + i] += even * part / (high_s - low_s)
            if total > 0.0:
                self._weights[first + i] += (1.0 - even) * likely[i] / total

    def survival(self) -> list[float]:
        """At each edge, the share that is not solved by then; never quite none."""
        left = list(accumulate(reversed(self._weights), initial=0.001))
        return [each / left[-1] for each in reversed(left)]


def unsolved(survival: Sequence[float], age_s: float) -> float:
    """The share that is not solved by that age."""
    return _at(survival, min(age_s, _EDGES[-1]))


def plan(method: str, pace: Pace, times: SolveTimes) -> list[float]:
    """The ages at which a captcha is polled until its time-out, in order; at most 16.

    Nothing is known: a first poll by method, then `poll_s` apart, and sparser where that would be too many.
    A configured first poll stays the first in any case.
    """
    first_s = pace.first_poll_s or min(_FIRST_POLL_S.get(method, _FIRST_POLL_DEFAULT_S), pace.timeout_s / 2.0)
    if not times.known:
        return _go_on([first_s], pace)
    survival = times.survival()
    common = _expected_polls(_every(first_s, pace), survival)
    budget = _SPENT * min(max(common, _FEWEST_POLLS), _MOST_POLLS)
    ages = [age for age in _spread(survival, budget) if pace.first_poll_s < age < pace.timeout_s]
    if pace.first_poll_s or not ages:
        ages.insert(0, first_s)
    return _go_on(ages, pace)


def late_plan(pace: Pace, life_s: float) -> list[float]:
    """The ages at which a captcha is polled that outlived its time-out, until `life_s`; at most 4."""
    gaps = _stretch(pace.poll_s * LATE_POLL_FACTOR, _POLLS_LATE - 1, life_s - pace.timeout_s)
    return list(accumulate(gaps, initial=pace.timeout_s))


def rest(ages: Sequence[float], age_s: float, most: int | None = None) -> tuple[float, list[float]]:
    """What is left of a plan at `age_s`: the wait until the next poll, and the waits after it.

    When part of it has passed the next poll is now: whoever polled until now may have missed one. Not so with `most`:
    another plan was followed until now, and of this one at most so many polls are left, evenly, and the last of all.
    """
    left = [age for age in ages if age > age_s]
    if most is not None and left:
        most = min(max(most, 1), len(left))
        times = [left[len(left) * i // most - 1] for i in range(1, most + 1)]
    else:
        times = [age_s, *left] if len(left) < len(ages) else left
    return times[0] - age_s, [after - before for before, after in pairwise(times)]


def _expected_polls(ages: Iterable[float], survival: Sequence[float]) -> float:
    """How many polls of a plan a captcha takes until it is solved, on average."""
    polls, unsolved = 0.0, 1.0
    for age in ages:
        polls += unsolved
        unsolved = _at(survival, age)
    return polls


def _at(survival: Sequence[float], age: float) -> float:
    bin_ = min(bisect_right(_EDGES, age) - 1, _BINS - 1)
    part = min(1.0, (age - _EDGES[bin_]) / _WIDTHS[bin_])
    return survival[bin_] + (survival[bin_ + 1] - survival[bin_]) * part


def _every(first_s: float, pace: Pace) -> list[float]:
    """The polls of the common client."""
    count = max(0, math.ceil((pace.timeout_s - first_s) / pace.poll_s))
    return [first_s + pace.poll_s * i for i in range(min(count, 100) + 1)]


def _spread(survival: Sequence[float], budget: float) -> list[float]:
    """Ages as dense as the root of the hazard, so many that a captcha takes `budget` polls."""
    density = [
        math.sqrt(max(0.0, before - after) * width / ((before + after) / 2.0))
        for before, after, width in zip(survival, survival[1:], _WIDTHS, strict=False)
    ]
    reach = list(accumulate(density, initial=0.0))
    most = POLLS_IN_TIME - _TAIL_POLLS
    few, many = 0.1, 20.0  # polls for a unit of `reach`
    for _ in range(20):
        scale = (few + many) / 2.0
        ages = _placed(reach, scale, survival)
        if len(ages) > most or _expected_polls(ages, survival) > budget:
            many = scale
        else:
            few = scale
    return _placed(reach, few, survival)


def _placed(reach: Sequence[float], scale: float, survival: Sequence[float]) -> list[float]:
    """Ages until nearly all are solved, `scale` of them while `reach` grows by one."""
    ages: list[float] = []
    step = _FIRST_STEP / scale
    while step < reach[-1]:
        bin_ = bisect_right(reach, step) - 1
        ages.append(_EDGES[bin_] + (step - reach[bin_]) / (reach[bin_ + 1] - reach[bin_]) * _WIDTHS[bin_])
        if _at(survival, ages[-1]) < _TAIL:
            break
        step += 1.0 / scale
    return ages


def _go_on(ages: list[float], pace: Pace) -> list[float]:
    """`ages`, and polls `poll_s` apart or sparser up to the time-out."""
    last_s = ages[-1] - ages[-2] if len(ages) > 1 else 0.0
    gaps = _stretch(max(pace.poll_s, last_s), POLLS_IN_TIME - len(ages), pace.timeout_s - ages[-1])
    return ages[:-1] + list(accumulate(gaps, initial=ages[-1]))


def _stretch(gap_s: float, count: int, span_s: float) -> list[float]:
    """At most `count` gaps that reach over `span_s`: of `gap_s` if that is enough, else each longer than the last."""
    if gap_s * count >= span_s:
        return [gap_s] * max(0, math.ceil(span_s / gap_s))
    low, high = 1.0, 1.0 + span_s / gap_s
    for _ in range(60):
        ratio = (low + high) / 2.0
        low, high = (ratio, high) if gap_s * sum(ratio**i for i in range(count)) < span_s else (low, ratio)
    return [gap_s * high**i for i in range(count)]
