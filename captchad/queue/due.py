"""Ids that become due at some time, in little space: those of one second share a list."""

__all__ = ["Due"]

import heapq
from collections.abc import Iterator


class Due:
    """Gives each id once, at most a second after its time."""

    def __init__(self) -> None:
        self._seconds: list[int] = []
        self._ids: dict[int, list[str]] = {}

    def add(self, at: float, task_id: str) -> None:
        """`task_id` is due at `at`, UTC seconds."""
        second = int(at)
        ids = self._ids.get(second)
        if ids is None:
            heapq.heappush(self._seconds, second)
            self._ids[second] = [task_id]
        else:
            ids.append(task_id)

    def items(self) -> Iterator[tuple[int, list[str]]]:
        """The ids of each second, in order of time."""
        return ((second, self._ids[second]) for second in sorted(self._seconds))

    def pop(self, now: float) -> str | None:
        """One id whose time has come, or None."""
        if not self._seconds or self._seconds[0] + 1 > now:
            return None
        ids = self._ids[self._seconds[0]]
        task_id = ids.pop()
        if not ids:
            del self._ids[heapq.heappop(self._seconds)]
        return task_id
