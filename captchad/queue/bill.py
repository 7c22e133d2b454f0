"""The bill: what was charged, answered and paid on each day, by method, host, provider and tags.

It is made from the records as they come, so that it says the same after a restart; a `bill` record holds one day of it
when the segments go whose records made it. Days are those of UTC. Money is in millionths.
"""

__all__ = ["DAYS", "OTHER", "Bill", "Columns", "Row", "day_of"]

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import UTC, date, datetime
from typing import Any, Final, NamedTuple

from captchad.journal.records import Entry

#: So many days are known, the latest ones.
DAYS: Final = 100

#: In place of tags, then of hosts, once a day has too many combinations to keep them all.
OTHER: Final = "(other)"

#: A day's rows take so many bytes before tags, and twice as many before hosts, are counted as OTHER.
_DETAIL_BYTES: Final = 64 << 10

_DAY_S: Final = 86400


class Row(NamedTuple):
    """What is counted apart from others."""

    method: str
    host: str
    provider: str
    tags: str  # a JSON object, "" without any, or OTHER


@dataclass(slots=True)
class Columns:
    """What is counted of them."""

    charges: int = 0
    solved: int = 0
    failed: int = 0  # ended without an answer
    unknown_submits: int = 0
    cost: int = 0  # of the answers whose price is known, in millionths
    unpriced: int = 0  # answers whose price is not known

    def add(self, other: "Columns") -> None:
        """Add what another one has counted."""
        for each in fields(Columns):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


_NAMES: Final = tuple(each.name for each in fields(Columns))


@dataclass(slots=True)
class _Day:
    rows: dict[Row, Columns]
    size: int = 0  # about the bytes of its rows
    entry: Entry | None = None  # its latest record
    changed: bool = False  # since that record

    def row(self, row: Row) -> Columns:
        found = self.rows.get(row)
        if found is not None:
            return found
        if self.size >= 2 * _DETAIL_BYTES:
            row = row._replace(host=OTHER, tags=OTHER)
        elif self.size >= _DETAIL_BYTES and row.tags:
            row = row._replace(tags=OTHER)
        return self.rows.get(row) or self.put(row, Columns())

    def put(self, row: Row, columns: Columns) -> Columns:
        self.rows[row] = columns
        self.size += len(json.dumps(row)) + 20
        return columns


def day_of(at: float) -> int:
    """The number of the UTC day of a time in UTC seconds."""
    return int(at // _DAY_S)


def _word(day: int) -> str:
    return datetime.fromtimestamp(day * _DAY_S, UTC).date().isoformat()


def _number(word: str) -> int:
    return date.fromisoformat(word).toordinal() - date(1970, 1, 1).toordinal()


class Bill:
    """All days. Changed by records alone."""

    def __init__(self) -> None:
        self._days: dict[int, _Day] = {}

    def row(self, at: float, row: Row) -> Columns:
        """The columns to count in, for something that happened at `at`."""
        number = day_of(at)
        day = self._days.get(number)
        if day is None:
            day = self._add(number, _Day({}))
        day.changed = True
        return day.row(row)

    def days(self) -> Iterator[tuple[str, Mapping[Row, Columns]]]:
        """Each day that is known (`2026-11-22`) with its rows, in order."""
        for number in sorted(self._days):
            yield _word(number), self._days[number].rows

    # ---------------------------------------------------------------- records

    def take(self, data: Mapping[str, Any], entry: Entry) -> None:
        """A `bill` record says all of its day."""
        day = _Day({}, entry=entry)
        for row, columns in data["rows"]:
            day.put(Row(*row), Columns(*columns))
        self._days.pop(_number(data["day"]), None)
        self._add(_number(data["day"]), day)

    def records_for(self, segment: float) -> list[dict[str, Any]]:
        """The fields of the `bill` records that must be written before `segment`, the oldest, goes.

        Of all days with an infinite one.
        """
        return [
            {"day": _word(number), "rows": _rows(day)}
            for number, day in sorted(self._days.items())
            if day.changed or day.entry is None or day.entry.segment <= segment
        ]

    def lives_in(self, segment: int) -> bool:
        """Whether the record of a day is there."""
        return any(day.entry is not None and day.entry.segment == segment for day in self._days.values())

    @property
    def live_bytes(self) -> int:
        """Bytes of the records of all days."""
        return sum(day.entry.length for day in self._days.values() if day.entry is not None)

    def plain(self) -> dict[str, Any]:
        """All of it as plain values: two bills of the same records are equal here."""
        return {_word(number): _rows(day) for number, day in sorted(self._days.items())}

    def index(self) -> list[list[Any]]:
        """All of it for an index, with the places of the records."""
        return [
            [number, day.entry and astuple(day.entry), int(day.changed), _rows(day)]
            for number, day in self._days.items()
        ]

    @classmethod
    def of_index(cls, found: Sequence[Sequence[Any]]) -> "Bill":
        """What `index` has said. Raises anything for what it has not."""
        made = cls()
        for number, place, changed, rows in found:
            entry = Entry(*map(int, place)) if place else None
            day = made._add(int(number), _Day({}, entry=entry, changed=bool(changed)))
            for row, columns in rows:
                day.put(Row(*map(str, row)), Columns(*map(int, columns)))
        return made

    def _add(self, number: int, day: _Day) -> _Day:
        self._days[number] = day
        while len(self._days) > DAYS:
            del self._days[min(self._days)]
        return day


def _rows(day: _Day) -> list[list[Any]]:
    return [[[*row], [getattr(columns, name) for name in _NAMES]] for row, columns in sorted(day.rows.items())]
