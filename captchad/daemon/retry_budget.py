"""What one provider was given and how it went of late: whether it may be given one more retry."""

__all__ = ["RetryBudget"]

from collections import deque
from dataclasses import dataclass, field

from captchad.policy import retry
from captchad.policy.retry import JUDGED_ATTEMPTS, RETRY_WINDOW_S


@dataclass(slots=True)
class _Second:
    second: int
    firsts: int = 0
    retries: int = 0


@dataclass(slots=True)
class RetryBudget:
    """Counts submits by the second for a minute, and remembers how the latest attempts ended. Times are monotonic."""

    _seconds: deque[_Second] = field(default_factory=deque)
    _ends: deque[bool] = field(default_factory=lambda: deque(maxlen=JUDGED_ATTEMPTS))

    def ordered(self, now: float, *, again: bool) -> None:
        """A submit of a task goes to the provider, for the first time or again."""
        if not self._seconds or self._seconds[-1].second != int(now):
            self._seconds.append(_Second(int(now)))
            self._drop_old(now)
        if again:
            self._seconds[-1].retries += 1
        else:
            self._seconds[-1].firsts += 1

    def ended(self, *, solved: bool) -> None:
        """An attempt there has ended."""
        self._ends.append(solved)

    def begin_anew(self) -> None:
        """It has recovered: how attempts ended before says nothing any more."""
        self._ends.clear()

    def allows(self, now: float) -> bool:
        """Whether the provider may be given a retry."""
        if not retry.is_failing(self._ends):
            return True
        self._drop_old(now)
        firsts = sum(each.firsts for each in self._seconds)
        return retry.within_budget(firsts, sum(each.retries for each in self._seconds))

    def _drop_old(self, now: float) -> None:
        while self._seconds and self._seconds[0].second <= now - RETRY_WINDOW_S - 1.0:
            self._seconds.popleft()
