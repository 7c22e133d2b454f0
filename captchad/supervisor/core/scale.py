"""How many workers, and how much of their threads: by what waits, and by what the system can bear.

Workers are added when the oldest task has waited for too long although the workers are busy: if they are not, the
providers are what is slow. Shortness of descriptors, processes or memory halves the share of the threads that workers
may use; it comes back an eighth at a time.
"""

__all__ = [
    "BUSY",
    "CUT_EVERY_S",
    "LEAST_SHARE",
    "RAISE_EVERY_S",
    "RAISE_STEP",
    "is_calm",
    "limit_due",
    "share",
    "target",
    "times",
]

import math

from captchad.supervisor.core.states import Reason
from captchad.supervisor.core.view import Autoscale, View

#: With this part of the threads in use, more workers would get more done; with less of them, fewer would do.
BUSY = 0.5

#: A task that has waited for less than this part of `autoscale_age_s` has not waited.
CALM = 0.25

#: The share is lowered no more often than this: what the last cut has done must show first.
CUT_EVERY_S = 5.0

#: So long without a sign, and the share is raised again.
RAISE_EVERY_S = 10.0

RAISE_STEP = 0.125
LEAST_SHARE = 0.125


def target(view: View, now: float) -> tuple[int, Reason] | None:
    """The new number of workers, and why; None to leave it."""
    auto = view.settings.autoscale
    if auto is None or now < view.scaled_at + auto.cooldown_s:
        return None
    if _short(view, auto):
        return view.target + 1, Reason.QUEUE_AGE
    if view.calm_since is not None and now >= view.calm_since + auto.cooldown_s and view.target > _least(view, auto):
        return view.target - 1, Reason.IDLE
    return None


def _short(view: View, auto: Autoscale) -> bool:
    waits = view.load.age_s >= auto.age_s and view.load.busy >= BUSY
    # The one that came last has to have its effect first.
    return waits and view.target < auto.most and view.alive == view.target


def _least(view: View, auto: Autoscale) -> int:
    return max(auto.least, view.settings.min_workers)


def is_calm(view: View) -> bool:
    """Whether one worker fewer would do."""
    auto = view.settings.autoscale
    if auto is None or view.target < 2:
        return False
    return view.load.age_s < CALM * auto.age_s and view.load.busy * view.target / (view.target - 1) < BUSY


def times(view: View) -> list[float]:
    """When `target` may say something else although nothing happens."""
    auto = view.settings.autoscale
    if auto is None:
        return []
    calm_at = math.inf if view.calm_since is None else view.calm_since + auto.cooldown_s
    return [view.scaled_at + auto.cooldown_s, calm_at]


def share(view: View, now: float) -> tuple[float, Reason] | None:
    """The new share of the threads that workers may use, and why; None to leave it."""
    guard = view.guard
    if guard.sign is not None:
        return max(LEAST_SHARE, guard.share / 2.0), guard.sign
    if now >= limit_due(view):
        return min(1.0, guard.share + RAISE_STEP), Reason.RECOVERED
    return None


def limit_due(view: View) -> float:
    """When `share` may say something else although nothing happens."""
    guard = view.guard
    return max(guard.sign_at, guard.changed_at) + RAISE_EVERY_S if guard.share < 1.0 else math.inf
