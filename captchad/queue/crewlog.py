"""What was done about workers, and how they died: the latest of each, from the journal.

It is made from the records as they come, so that it says the same after a restart. A `crew_log` record says all of it
anew when the segments go in which they stood.
"""

__all__ = ["ACTIONS", "DEATHS", "CrewLog"]

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

#: So many deaths are remembered, and apart from them so many actions: a worker that cannot boot fills either.
DEATHS: Final = 100
ACTIONS: Final = 200

_Row = tuple[int, dict[str, Any]]  # the segment that its record stands in, and its fields


class CrewLog:
    """Changed by records alone."""

    def __init__(self) -> None:
        self._deaths: deque[_Row] = deque(maxlen=DEATHS)
        self._actions: deque[_Row] = deque(maxlen=ACTIONS)

    def take(self, data: Mapping[str, Any], segment: int) -> None:
        """A `crew` record."""
        # Who went as it was told would push out the deaths that somebody looks for.
        dead = data["do"] == "death" and data["why"] != "exit"
        (self._deaths if dead else self._actions).append((segment, dict(data)))

    def take_all(self, data: Mapping[str, Any], segment: int) -> None:
        """A `crew_log` record says all that was before it."""
        self._deaths.clear()
        self._actions.clear()
        for row in data["rows"]:
            self.take(row, segment)

    def deaths(self) -> list[dict[str, Any]]:
        """The oldest first."""
        return [fields for _, fields in self._deaths]

    def actions(self) -> list[dict[str, Any]]:
        """The oldest first."""
        return [fields for _, fields in self._actions]

    def records_for(self, segment: float) -> Iterator[dict[str, Any]]:
        """The fields of the `crew_log` record that must be written before `segment`, the oldest, goes.

        Of all with an infinite one.
        """
        rows = [*self._deaths, *self._actions]
        if any(each <= segment for each, _ in rows):
            yield {"rows": [fields for _, fields in rows]}

    def plain(self) -> list[dict[str, Any]]:
        """All of it as plain values: two logs of the same records are equal here."""
        return [*self.deaths(), *self.actions()]

    def index(self) -> list[list[Any]]:
        """All of it for an index."""
        return [list(row) for row in (*self._deaths, *self._actions)]

    @classmethod
    def of_index(cls, found: Sequence[Sequence[Any]]) -> "CrewLog":
        """What `index` has said. Raises anything for what it has not."""
        made = cls()
        for segment, fields in found:
            made.take(fields, int(segment))
        return made
