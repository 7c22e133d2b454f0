"""What an index knows and memory has not taken up yet: blocks of ids with their places, taken up a block at a time.

A daemon with a million tasks is to be at work in a moment, and to make a million entries takes longer than that. So the
blocks stay the bytes that they are until their turn comes, or until somebody needs them: who looks for the head of a
line, or asks for an id that is not there.
"""

__all__ = ["OverBlock", "PendingBlock", "Shelf", "Times", "doubles", "integers", "pack"]

import heapq
import sys
from array import array
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from captchad.queue.due import Due
from captchad.queue.lines import Block
from captchad.queue.tasks import Tasks, is_dead

_NOTHING: Final = memoryview(b"")


class Times(NamedTuple):
    """Where the view keeps what becomes due: unfinished tasks with a deadline, and ids that will be free."""

    deadlines: list[tuple[float, str]]  # a heap
    endings: Due
    deaths: Due

    def add_deadline(self, deadline: float, task_id: str) -> None:
        """A task has this deadline, UTC seconds."""
        heapq.heappush(self.deadlines, (deadline, task_id))


@dataclass(slots=True, eq=False)
class PendingBlock(Block):
    """Ids that follow one another in a ready line. A hot one has place 0; a deadline of NaN is none."""

    shelf: "Shelf"
    names: memoryview | list[str]  # bytes, with a newline between two, until they are taken up
    places: memoryview
    deadlines: memoryview | None
    cold: int  # how many of them are

    def ids(self) -> list[str]:
        """Its ids, in order; the tasks know of them from now on."""
        return self.shelf.take_up(self)


@dataclass(slots=True, eq=False)
class OverBlock:
    """Ids of cold tasks that have ended, with the second as of which each has."""

    names: memoryview
    places: memoryview
    seconds: memoryview
    count: int


class Shelf:
    """The blocks of one index, in the order in which they are taken up."""

    def __init__(self, tasks: Tasks, due: Times) -> None:
        self.pending = 0  # cold tasks that wait, and are not taken up
        self.over = 0  # those that have ended
        self._tasks = tasks
        self._due = due
        self._blocks: deque[PendingBlock | OverBlock] = deque()

    def put(self, block: PendingBlock | OverBlock) -> None:
        """One more block."""
        if isinstance(block, PendingBlock):
            self.pending += block.cold
        else:
            self.over += block.count
        self._blocks.append(block)

    def take_some(self, budget: int) -> None:
        """Take up about so many ids."""
        begin = self.pending + self.over
        while self._blocks and begin - self.pending - self.over < budget:
            block = self._blocks.popleft()
            if isinstance(block, PendingBlock):
                self.take_up(block)
            else:
                self._take_up_over(block)
        if not self._blocks:
            self._tasks.shelf = None

    def take_all(self) -> None:
        """Take up the rest."""
        self.take_some(self.pending + self.over + 1)

    def take_up(self, block: PendingBlock) -> list[str]:
        """Have the tasks know of the ids of a block, if they do not. Returns the ids."""
        if isinstance(block.names, list):
            return block.names
        names = block.names = _split(block.names)
        places = integers(block.places)
        if block.cold == len(names):
            self._tasks.take_up_pending(zip(names, places, strict=True))
        else:
            self._tasks.take_up_pending(pair for pair in zip(names, places, strict=True) if pair[1])
        if block.deadlines is not None:
            for deadline, name in zip(doubles(block.deadlines), names, strict=True):
                if deadline == deadline:  # not NaN
                    self._due.add_deadline(deadline, name)
        self.pending -= block.cold
        block.places, block.deadlines = _NOTHING, None  # so that the file's bytes need not be held
        return names

    def _take_up_over(self, block: OverBlock) -> None:
        names, places = _split(block.names), integers(block.places)
        self._tasks.take_up_over(zip(names, places, strict=True))
        for name, place, second in zip(names, places, integers(block.seconds), strict=True):
            (self._due.deaths if is_dead(place) else self._due.endings).add(second, name)
        self.over -= block.count


def pack(kind: Literal["Q", "d"], values: Iterable[float]) -> bytes:
    """Integers (Q, unsigned) or times (d) of 64 bits each, little endian. Raises OverflowError, TypeError."""
    made = array(kind, values)
    if sys.byteorder == "big":
        made.byteswap()
    return made.tobytes()


def integers(data: memoryview) -> list[int]:
    """What `pack` has made of integers."""
    found = array("Q")
    found.frombytes(data)
    if sys.byteorder == "big":
        found.byteswap()
    return found.tolist()


def doubles(data: memoryview) -> list[float]:
    """What `pack` has made of times."""
    found = array("d")
    found.frombytes(data)
    if sys.byteorder == "big":
        found.byteswap()
    return found.tolist()


def _split(names: memoryview) -> list[str]:
    return str(names, "ascii").split("\n")
