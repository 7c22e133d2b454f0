"""When captchas under way will have ended: from their ages, their time-outs and what was seen of solve times."""

__all__ = ["Group", "by_share"]

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: The answer is exact to this, in seconds.
_EXACT_S = 0.1


@dataclass(frozen=True, slots=True)
class Group:
    """`count` captchas of about one age; seconds. `left_s`: until their time-out, after which nobody waits for them.

    `unsolved(age)` is the share that is not solved by that age; None when nothing is known: then they may all take
    until their time-out.
    """

    count: int
    age_s: float
    left_s: float
    unsolved: Callable[[float], float] | None


def by_share(groups: Sequence[Group], share: float) -> float:
    """In how many seconds all will have ended, with a probability of `share`."""
    low, high = 0.0, max((group.left_s for group in groups), default=0.0)
    while high - low > _EXACT_S:
        middle = (low + high) / 2.0
        low, high = (low, middle) if _all_by(groups, middle) >= share else (middle, high)
    return high


def _all_by(groups: Sequence[Group], seconds: float) -> float:
    """The probability that all have ended in `seconds`."""
    return math.prod(_one_by(group, seconds) ** group.count for group in groups)


def _one_by(group: Group, seconds: float) -> float:
    if seconds >= group.left_s:
        return 1.0
    if group.unsolved is None:
        return 0.0
    return 1.0 - min(1.0, group.unsolved(group.age_s + seconds) / max(1e-9, group.unsolved(group.age_s)))
