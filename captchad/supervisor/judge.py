"""What to do about one worker, from what is known of its heartbeats. Pure."""

__all__ = ["Limits", "Sentence", "Vital", "judge", "retire_after"]

import random
from dataclasses import dataclass
from enum import Enum

#: A condemned worker gets so long to write its stack before it is killed.
STACK_S = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """`[supervision]` as the judge needs it; seconds."""

    boot_s: float
    stall_s: float


@dataclass(frozen=True, slots=True)
class Vital:
    """Monotonic times of one worker; None for what has not happened."""

    forked_at: float
    last_beat_at: float | None = None
    condemned_at: float | None = None
    drain_until: float | None = None


class Sentence(Enum):
    LIVE = "live"
    CONDEMN = "condemn"  # hung: let it write its stack, then kill
    KILL = "kill"


def judge(vital: Vital, now: float, limits: Limits) -> Sentence:
    """The boot has a grace of its own; after the first heartbeat, `stall_s` without another is a stall."""
    if vital.condemned_at is not None:
        return Sentence.KILL if now - vital.condemned_at >= STACK_S else Sentence.LIVE
    if vital.drain_until is not None and now >= vital.drain_until:
        return Sentence.KILL
    if vital.last_beat_at is None:
        return Sentence.CONDEMN if now - vital.forked_at >= limits.boot_s else Sentence.LIVE
    return Sentence.CONDEMN if now - vital.last_beat_at >= limits.stall_s else Sentence.LIVE


def retire_after(max_tasks: int, rng: random.Random) -> int:
    """After how many tasks a worker is recycled: up to a tenth fewer, so that they do not all go at once. 0: never."""
    return max_tasks - rng.randint(0, max_tasks // 10) if max_tasks else 0
