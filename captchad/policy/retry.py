"""What a failed attempt means for its task: again when, or the dead-letter queue.

Exponential back-off with full jitter (the delay is uniform between 0 and the cap of the step), as in the AWS
architecture notes on back-off: of the usual forms it spreads a crowd best.

Back-off spreads retries but does not make them fewer: a provider that fails half of the time, and so does not open its
breaker, would get each task up to `max_attempts` times. So while a provider fails it gets a budget of retries, a share
of its first attempts (as in Finagle, and in "Site Reliability Engineering", chapter 21). Those beyond it wait; first
attempts go on.
"""

__all__ = [
    "JUDGED_ATTEMPTS",
    "RETRY_WINDOW_S",
    "Again",
    "Bury",
    "RetrySettings",
    "after_failure",
    "after_not_sent",
    "after_unknown",
    "backoff_s",
    "is_failing",
    "within_budget",
]

import random
from collections.abc import Collection
from dataclasses import dataclass

from captchad.model.states import Category

#: A task-specific error is tried once more, because workers at the service do fail at captchas that others solve.
TASK_ERRORS_ALLOWED = 1

#: While a provider fails, retries to first attempts within this time at most.
RETRY_WINDOW_S = 60.0
RETRY_SHARE = 0.2

#: It fails when more than that share of so many latest attempts did.
JUDGED_ATTEMPTS = 10

#: So many retries are allowed in that time in any case, one a second: they burden nobody, and where there are no first
#: attempts only they can show that the provider is well again.
FEWEST_RETRIES = 60


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """`[retry]` of the configuration; seconds."""

    max_attempts: int
    base_delay_s: float
    max_delay_s: float


@dataclass(frozen=True, slots=True)
class Again:
    """Run the task again after `delay_s`. `free`: the attempt is taken back, it does not count."""

    delay_s: float
    free: bool = False


@dataclass(frozen=True, slots=True)
class Bury:
    """Into the dead-letter queue."""


def backoff_s(step: int, settings: RetrySettings, rng: random.Random) -> float:
    """Full jitter: uniform in [0, min(max_delay_s, base_delay_s * 2**(step - 1))]; step counts from 1."""
    ceiling = min(settings.max_delay_s, settings.base_delay_s * 2.0 ** min(max(step, 1) - 1, 60))
    return rng.uniform(0.0, ceiling)


def after_failure(
    category: Category,
    *,
    attempts: int,
    task_errors: int,
    settings: RetrySettings,
    rng: random.Random,
    outage: bool,
    hopeless: bool = False,
) -> Again | Bury:
    """Decide after a code from the provider or a time-out.

    `attempts` and `task_errors` include the one that failed. `outage`: the provider's breaker is not closed; its
    transient faults are then not the task's, and its attempts are not used up by waiting the outage out. `hopeless`: a
    second try would be paid for in vain.
    """
    match category:
        case Category.PERMANENT | Category.BUDGET:
            # The provider is paused, not the task: it is ready as soon as any provider is.
            return Again(0.0, free=True)
        case Category.TASK:
            if hopeless or task_errors > TASK_ERRORS_ALLOWED or attempts >= settings.max_attempts:
                return Bury()
            return Again(backoff_s(attempts, settings, rng))
        case Category.TRANSIENT:
            if outage:
                return Again(backoff_s(attempts, settings, rng), free=True)
            if attempts >= settings.max_attempts:
                return Bury()
            return Again(backoff_s(attempts, settings, rng))


def after_not_sent(*, faults: int, settings: RetrySettings, rng: random.Random) -> Again:
    """Nothing reached the provider: no attempt was used. `faults` counts such failures in a row."""
    return Again(backoff_s(faults, settings, rng), free=True)


def after_unknown(
    *, attempts: int, by_crash: bool, settings: RetrySettings, rng: random.Random, outage: bool = False
) -> Again | Bury:
    """A submit that began and has no answer, where the configuration says `resubmit`.

    When our own worker died (`by_crash`) the attempt is taken back: the task did nothing wrong. So it is in an outage:
    the breaker lets one submit at a time try, and that must not use up the tasks one after the other.
    """
    if by_crash:
        return Again(0.0, free=True)
    if outage:
        return Again(backoff_s(attempts, settings, rng), free=True)
    if attempts >= settings.max_attempts:
        return Bury()
    return Again(backoff_s(attempts, settings, rng))


def is_failing(solved: Collection[bool]) -> bool:
    """Whether a provider fails, by whether its latest attempts were solved."""
    return len(solved) >= JUDGED_ATTEMPTS and len(solved) - sum(solved) > RETRY_SHARE * len(solved)


def within_budget(firsts: int, retries: int) -> bool:
    """Whether a provider that fails may get one more retry, after so many of both in the last `RETRY_WINDOW_S`."""
    return retries + 1 <= max(FEWEST_RETRIES, RETRY_SHARE * firsts)
