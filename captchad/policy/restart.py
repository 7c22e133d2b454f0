"""When a dead worker is replaced: at once, unless it died at once; then after growing, capped delays."""

__all__ = ["RestartHistory", "after_death"]

import random
from dataclasses import dataclass

#: A worker that lived less than this died at once. Chosen above the time that a bad import or config takes to kill.
SHORT_LIFE_S = 5.0

#: The first delay; doubled for each further short life.
FIRST_DELAY_S = 0.1

#: So many short lives in a row are forgiven without delay: a single kill must be made good at once.
FREE_DEATHS = 3


@dataclass(frozen=True, slots=True)
class RestartHistory:
    """Short lives in a row of one slot."""

    short_lives: int = 0


def after_death(
    history: RestartHistory, *, lived_s: float, booted: bool, max_delay_s: float, rng: random.Random
) -> tuple[RestartHistory, float]:
    """The new history and the seconds to wait before the replacement is forked.

    A worker that never sent a heartbeat gets no forgiveness: it will not boot the next time either.
    """
    if booted and lived_s >= SHORT_LIFE_S:
        return RestartHistory(), 0.0
    short_lives = history.short_lives + 1
    counted = short_lives - (FREE_DEATHS if booted else 0)
    if counted <= 0:
        return RestartHistory(short_lives), 0.0
    ceiling = min(max_delay_s, FIRST_DELAY_S * 2.0 ** min(counted - 1, 60))
    return RestartHistory(short_lives), rng.uniform(ceiling / 2, ceiling)
