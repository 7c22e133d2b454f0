"""Caps on charges, in any hour and in any day: what was charged lately, and when there is room for one more.

A charge counts from the record that says it, so that a restart forgets none. It is counted by the minute for the hour
and by the hour for the day, and a bucket counts as a whole as long as any of it may: a cap is never exceeded in any
stretch of that length, and up to a minute, or an hour, passes until all of the room is there again. Times are UTC
seconds.
"""

__all__ = ["ALL", "Caps", "Held", "Spent"]

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400

#: By these names both stand in records.
_LENGTHS: Final = {"hour": (_HOUR, _MINUTE), "day": (_DAY, _HOUR)}

#: Under this name all charges are counted together. No provider has it.
ALL: Final = ""


@dataclass(frozen=True, slots=True)
class Caps:
    """Charges at most in any hour and in any day; 0: no cap."""

    hour: int = 0
    day: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """A cap leaves no room: `cap` charges at most in any `length`. There may be some from `until` on, UTC seconds.

    `until` is infinite when submits under way have taken the last of it: they may turn out not to be charged.
    """

    cap: int
    length: str
    until: float


class Spent:
    """How much was charged lately: by each provider, and by all."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, dict[int, int]]] = {length: {} for length in _LENGTHS}

    def add(self, at: float, provider: str) -> None:
        """One charge."""
        for length, (span, width) in _LENGTHS.items():
            bucket = int(at // width)
            for who in (ALL, provider):
                counts = self._counts[length].setdefault(who, {})
                if bucket not in counts:
                    # What is over, and what a clock that was wrong has put into a far future.
                    for old in [each for each in counts if not _counts(each, at, span, width)]:
                        del counts[old]
                counts[bucket] = counts.get(bucket, 0) + 1

    def held(self, who: str, caps: Caps, under_way: int, now: float) -> Held | None:
        """The cap that leaves `who` (a provider, or ALL) no room for one more beside `under_way` submits, if one does.

        Of two the one that holds for longer.
        """
        found = [
            Held(cap, length, self._free_at(who, length, cap - under_way, now))
            for length, cap in (("hour", caps.hour), ("day", caps.day))
            if cap and self.count(who, length, now) + under_way >= cap
        ]
        return max(found, key=lambda held: held.until, default=None)

    def count(self, who: str, length: str, now: float) -> int:
        """Charges in the last "hour" or "day"."""
        span, width = _LENGTHS[length]
        counts = self._counts[length].get(who, {})
        return sum(count for bucket, count in counts.items() if _counts(bucket, now, span, width))

    def _free_at(self, who: str, length: str, room: int, now: float) -> float:
        span, width = _LENGTHS[length]
        counts = self._counts[length].get(who, {})
        left = self.count(who, length, now)
        for bucket in sorted(counts):
            if _counts(bucket, now, span, width):
                left -= counts[bucket]
                if left < room:
                    return float((bucket + 1) * width + span)
        return math.inf

    def record(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            length: {who: sorted(map(list, counts.items())) for who, counts in each.items()}
            for length, each in self._counts.items()
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Spent":
        """What `record` has said. Raises ValueError, TypeError, AttributeError for what it has not."""
        made = cls()
        for length, each in record.items():
            made._counts[length] = {
                str(who): {int(bucket): int(count) for bucket, count in counts} for who, counts in each.items()
            }
        return made


def _counts(bucket: int, now: float, span: int, width: int) -> bool:
    """Whether any of a bucket may lie in the last `span` seconds. The clock may have been put back by as much."""
    return now - span < (bucket + 1) * width and bucket * width <= now + span
