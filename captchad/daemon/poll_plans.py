"""When captchas are polled: what was learned of each provider's solve times, and the plans made of it.

Memory only: after a restart the plans are the usual ones, and are learned anew within some twenty answers.
"""

__all__ = ["PollPlans"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from captchad.daemon.providers import ProviderSettings
from captchad.ipc.channel import Message
from captchad.policy import poll_timing
from captchad.policy.poll_timing import Pace, SolveTimes

#: Pairs of provider and method that are kept; methods are named by users. The one that was added first goes first.
KEPT = 500

#: A plan is made anew after so many more answers: it takes half a millisecond.
RENEW_AFTER = 10


@dataclass(slots=True)
class _Known:
    times: SolveTimes = field(default_factory=SolveTimes)
    pace: Pace | None = None  # what the plan was made for
    planned_at: int = 0  # answers seen by then
    plan: Sequence[float] = ()


class PollPlans:
    """The plan for each captcha, by its provider and method."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Known] = {}

    def learn(self, provider: str, method: str, low_s: float, high_s: float) -> None:
        """One was not ready `low_s` after its submit, and was at `high_s`."""
        self._of(provider, method).times.learn(low_s, high_s)

    def timing(
        self,
        method: str,
        settings: ProviderSettings,
        age_s: float,
        *,
        late_life_s: float = 0.0,
        polled: int | None = None,
    ) -> Message:
        """The timing of a `poll` message for a captcha of this age: `first_in_s`, `gaps_s`, `every_s`.

        `late_life_s`: it has outlived its time-out, and is polled until it is so old. `polled`: it was polled so often
        by other settings, and its poller goes on by these.
        """
        pace = Pace(settings.first_poll_s, settings.poll_s, settings.timeout_of(method))
        ages = poll_timing.late_plan(pace, late_life_s) if late_life_s else self._plan(settings.name, method, pace)
        may = poll_timing.MAX_POLLS if late_life_s else poll_timing.POLLS_IN_TIME
        first_in_s, gaps_s = poll_timing.rest(ages, age_s, None if polled is None else may - polled)
        every_s = max([pace.poll_s, *(after - before for before, after in zip(ages[-2:], ages[-1:], strict=False))])
        return {"first_in_s": round(first_in_s, 3), "gaps_s": [round(gap, 3) for gap in gaps_s], "every_s": every_s}

    def first_poll_s(self, method: str, settings: ProviderSettings) -> float:
        """The age at which a captcha is polled for the first time."""
        pace = Pace(settings.first_poll_s, settings.poll_s, settings.timeout_of(method))
        return self._plan(settings.name, method, pace)[0]

    def unsolved(self, provider: str, method: str) -> Callable[[float], float] | None:
        """The share that is not solved by an age, in seconds; None when too little was seen to say."""
        known = self._known.get((provider, method))
        if known is None or not known.times.known:
            return None
        return partial(poll_timing.unsolved, known.times.survival())

    def _plan(self, provider: str, method: str, pace: Pace) -> Sequence[float]:
        known = self._of(provider, method)
        if known.pace != pace or known.times.seen - known.planned_at >= RENEW_AFTER:
            known.plan = poll_timing.plan(method, pace, known.times)
            known.pace, known.planned_at = pace, known.times.seen
        return known.plan

    def _of(self, provider: str, method: str) -> _Known:
        known = self._known.get((provider, method))
        if known is None:
            if len(self._known) >= KEPT:
                del self._known[next(iter(self._known))]
            known = self._known[provider, method] = _Known()
        return known
