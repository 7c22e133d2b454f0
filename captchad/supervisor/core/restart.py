"""When a dead worker is replaced: at once, unless it died at once; then after growing, capped delays."""

__all__ = ["FAILING_LIVES", "FIRST_DELAY_S", "FREE_DEATHS", "SHORT_LIFE_S", "History", "after_death", "growing"]

from dataclasses import dataclass

#: A worker that lived less than this died at once. Chosen above the time that a bad import or config takes to kill.
SHORT_LIFE_S = 5.0

#: The first delay; doubled for each further short life.
FIRST_DELAY_S = 0.1

#: So many short lives in a row are forgiven without delay: a single kill must be made good at once.
FREE_DEATHS = 3

#: So many short lives in a row are a fault that lasts: status and health say so.
FAILING_LIVES = 5


@dataclass(frozen=True, slots=True)
class History:
    """Short lives in a row in one seat."""

    short_lives: int = 0

    @property
    def failing(self) -> bool:
        """Whether who sits here dies again and again."""
        return self.short_lives >= FAILING_LIVES


def after_death(
    history: History, *, lived_s: float, booted: bool, max_delay_s: float, jitter: float
) -> tuple[History, float]:
    """The new history, and the seconds to wait before the seat is filled again; `jitter` is drawn from 0 to 1.

    A worker that never sent a heartbeat gets no forgiveness: it will not boot the next time either.
    """
    if booted and lived_s >= SHORT_LIFE_S:
        return History(), 0.0
    short_lives = history.short_lives + 1
    counted = short_lives - (FREE_DEATHS if booted else 0)
    return History(short_lives), growing(counted, max_delay_s, jitter)


def growing(times: int, max_delay_s: float, jitter: float) -> float:
    """The delay after so many failures in a row: doubled each time, up to a cap, and between half and all of it."""
    if times <= 0:
        return 0.0
    ceiling = min(max_delay_s, FIRST_DELAY_S * 2.0 ** min(times - 1, 60))
    return ceiling * (1.0 + jitter) / 2.0
