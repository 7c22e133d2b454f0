"""Caps on charges, in any hour and in any day: what was charged lately, and when there is room for one more.

A charge counts from the record that says it, so that a restart forgets none. It is counted by the minute for the hour
and by the hour for the day, and a bucket counts as a whole as long as any of it may: a cap is never exceeded in any
stretch of that length, and up to a minute, or an hour, passes until all of the room is there again. Times are UTC
seconds.
"""

__all__ = ["ALL", "TAGS_MOST", "Caps", "Held", "Spent", "tag_of"]

import hashlib
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

#: So many values of a tag are counted apart; with long ones they still fit into one record.
TAGS_MOST: Final = 2000

#: Names of values of a tag begin so. No provider's does.
_TAG: Final = "tag:"

#: A longer value is named by its digest.
_TAG_CHARS: Final = 64


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
    """How much was charged lately: by each provider, by all, and for each value of a tag."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, dict[int, int]]] = {length: {} for length in _LENGTHS}

    def add(self, at: float, provider: str, tag: str = "") -> None:
        """One charge; `tag` as `tag_of` names it."""
        for length, (_, width) in _LENGTHS.items():
            bucket = int(at // width)
            if bucket not in self._counts[length].get(ALL, {}):
                self._forget(length, at)
            for who in (ALL, provider, tag) if tag else (ALL, provider):
                counts = self._counts[length].setdefault(self._known(length, who), {})
                counts[bucket] = counts.get(bucket, 0) + 1

    def _forget(self, length: str, at: float) -> None:
        """What is over, and what a clock that was wrong has put into a far future."""
        span, width = _LENGTHS[length]
        kept = {
            who: {bucket: count for bucket, count in counts.items() if _counts(bucket, at, span, width)}
            for who, counts in self._counts[length].items()
        }
        self._counts[length] = {who: counts for who, counts in kept.items() if counts}

    def _known(self, length: str, who: str) -> str:
        """Under which name `who` is counted: beyond TAGS_MOST values of a tag the others share one."""
        known = self._counts[length]
        return who if who in known or not who.startswith(_TAG) or len(known) < TAGS_MOST else _TAG

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
        counts = self._counts[length].get(self._known(length, who), {})
        return sum(count for bucket, count in counts.items() if _counts(bucket, now, span, width))

    def _free_at(self, who: str, length: str, room: int, now: float) -> float:
        span, width = _LENGTHS[length]
        counts = self._counts[length].get(self._known(length, who), {})
        left = self.count(who, length, now)
        for bucket in sorted(counts):
            if _counts(bucket, now, span, width):
                left -= counts[bucket]
                if left < room:
                    return float((bucket + 1) * width + span)
        return math.inf

    def tags(self) -> list[str]:
        """The values of the tag for which something was charged in the last day, as `tag_of` names them."""
        return [who for who in self._counts["day"] if who.startswith(_TAG)]

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


def tag_of(value: str) -> str:
    """The name under which the charges for a value of a tag are counted."""
    long = len(value) > _TAG_CHARS
    return _TAG + (hashlib.blake2s(value.encode(), digest_size=16).hexdigest() if long else value)


def _counts(bucket: int, now: float, span: int, width: int) -> bool:
    """Whether any of a bucket may lie in the last `span` seconds. The clock may have been put back by as much."""
    return now - span < (bucket + 1) * width and bucket * width <= now + span
