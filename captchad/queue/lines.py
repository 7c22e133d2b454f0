"""The lines in which pending tasks wait: ready by priority and age, delayed until a time, waiting for another's answer.

A place in a line is an id, of one that stands there since it was accepted, or an id with a ticket, of one that came
back; it counts as long as the task is ready and has no newer ticket. So nobody is ever searched for in the middle.

A head whose method nobody takes at present is set aside, in a line for its method, and comes before those that stood
behind it as soon as somebody does. That is memory alone: an index has them in their old order.
"""

__all__ = ["Block", "Lines", "Takes"]

import heapq
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Container, Iterator
from itertools import chain

from captchad.model.states import Priority, State
from captchad.queue.task import Task
from captchad.queue.tasks import Tasks

_READY, _DELAYED, _WAITING, _NOWHERE = "ready", "delayed", "waiting", ""

#: So many at most are set aside for one answer: each is read from the journal.
ASIDE_AT_ONCE = 128

#: Whether tasks of a method can be submitted now.
Takes = Callable[[str], bool]


def _any(method: str) -> bool:
    return True


class Block(ABC):
    """Ids of an index that stand in a ready line one after the other."""

    __slots__ = ()

    @abstractmethod
    def ids(self) -> list[str]:
        """Its ids, in order; the tasks know of them from now on."""


_InLine = str | tuple[str, int] | Block


class Lines:
    """Knows every pending task of `tasks`."""

    def __init__(self, tasks: Tasks) -> None:
        self._hot: dict[str, int] = dict.fromkeys((_READY, _DELAYED, _WAITING), 0)
        self._tasks = tasks
        self._ready: dict[Priority, deque[_InLine]] = {priority: deque() for priority in Priority}
        self._kept: list[tuple[float, Priority, str]] = []  # queued before all that stand in `_ready`
        self._delayed: list[tuple[float, int, str]] = []
        self._ticket = 0
        self._postponed: set[str] = set()  # delayed by `postpone`
        self._ages: list[tuple[float, str]] = []  # when those were queued that are not cold, or were not
        #: By priority and method: id -> number in the order of setting aside, ticket.
        self._aside: dict[Priority, dict[str, OrderedDict[str, tuple[int, int]]]] = {p: {} for p in Priority}
        self._aside_number = 0
        self.unseen = False  # the last look at the lines ended before it had seen all that may be ready

    @property
    def counts(self) -> dict[str, int]:
        """How many tasks stand in each line. Cold ones are ready, all of them."""
        return self._hot | {_READY: self._hot[_READY] + self._tasks.count_cold(State.PENDING)}

    def door(self, priority: Priority) -> Callable[[str], None]:
        """What puts a new cold task at the end of its ready line."""
        return self._ready[priority].append

    def stand_first(self, task: Task) -> None:
        """A hot ready task whose first record was cleaned away: older than those whose record is there."""
        task.where, task.ticket = _READY, 0
        self._kept.append((task.queued_at, task.priority, task.id))
        self._hot[_READY] += 1

    def cooled(self, task: Task) -> None:
        """A hot ready task is cold now; it keeps its place. One that was postponed is ready again."""
        self._hot[task.where] -= 1
        if task.where == _DELAYED:
            self._ready[task.priority].append(task.id)
            self._postponed.discard(task.id)

    def warmed(self) -> None:
        """A cold task is hot now; it keeps its place."""
        self._hot[_READY] += 1

    def join(self, task: Task) -> None:
        """A hot pending task stands at the end of the line that it belongs into."""
        self._ticket += 1
        task.ticket = self._ticket
        heapq.heappush(self._ages, (task.queued_at, task.id))
        if task.waits_for is not None:
            task.where = _WAITING
        elif task.due_at > 0.0:
            task.where = _DELAYED
            heapq.heappush(self._delayed, (task.due_at, task.ticket, task.id))
        else:
            task.where = _READY
            self._ready[task.priority].append((task.id, task.ticket))
        self._hot[task.where] += 1

    def postpone(self, task: Task, until: float) -> None:
        """A hot ready task waits until then (UTC). Not recorded: after a restart it is ready."""
        self._ticket += 1
        heapq.heappush(self._ages, (task.queued_at, task.id))
        heapq.heappush(self._delayed, (until, self._ticket, task.id))
        task.where, task.ticket = _DELAYED, self._ticket
        self._postponed.add(task.id)
        self._hot[_READY] -= 1
        self._hot[_DELAYED] += 1

    def bring_back(self) -> None:
        """Those that were postponed are ready again, in their order."""
        for task in sorted((self._tasks.hot[task_id] for task_id in self._postponed), key=lambda task: task.ticket):
            self.leave(task)
            self.join(task)

    def leave(self, task: Task) -> None:
        """It stands in no line any more."""
        if task.where:
            self._hot[task.where] -= 1
            task.where = _NOWHERE
            self._postponed.discard(task.id)
            aside = self._aside[task.priority].get(task.method)
            if aside is not None:
                aside.pop(task.id, None)

    def ripen(self, now: float) -> None:
        """Move delayed tasks that are due at `now` into the ready lines."""
        while self._delayed and self._delayed[0][0] <= now:
            _, ticket, task_id = heapq.heappop(self._delayed)
            task = self._tasks.hot.get(task_id)
            if task is not None and task.where == _DELAYED and task.ticket == ticket:
                self._hot[_DELAYED] -= 1
                self._hot[_READY] += 1
                task.where = _READY
                self._ready[task.priority].append((task_id, ticket))
                self._postponed.discard(task_id)

    def put_back(self, task: Task, place: str) -> None:
        """A hot pending task comes from an index: a ready one stands in one of the blocks, others join in order."""
        if place != _READY:
            self.join(task)
            return
        task.where, task.ticket = _READY, 0
        heapq.heappush(self._ages, (task.queued_at, task.id))
        self._hot[_READY] += 1

    def append_block(self, priority: Priority, block: Block) -> None:
        """The ids of a block from an index stand at the end of a ready line."""
        self._ready[priority].append(block)

    def in_order(self) -> dict[Priority, list[str]]:
        """The ids in each ready line, each once. Those that have lost their place, as suspects do, come first.

        Those that were postponed are ready from now on, as they will be after the restart that this is asked for.
        """
        self.bring_back()
        if self._kept:
            self._line_up_kept()
        found = {
            priority: list(dict.fromkeys(chain(self._standing_aside(priority), self._standing(line))))
            for priority, line in self._ready.items()
        }
        if sum(map(len, found.values())) != self.counts[_READY]:
            self._add_lost(found)
        return found

    def _standing(self, line: deque[_InLine]) -> Iterator[str]:
        pending, _ = self._tasks.cold()
        for place in line:
            if isinstance(place, str):
                if place in pending or self._stands(place, 0):
                    yield place
            elif isinstance(place, Block):
                yield from (task_id for task_id in place.ids() if self._stands(task_id, 0))
            elif self._stands(*place):
                yield place[0]

    def _standing_aside(self, priority: Priority) -> list[str]:
        places = (place for line in self._aside[priority].values() for place in line.items())
        return [task_id for task_id, (_, ticket) in sorted(places, key=_number) if self._stands(task_id, ticket)]

    def _add_lost(self, found: dict[Priority, list[str]]) -> None:
        there = set().union(*found.values())
        pending, _ = self._tasks.cold()
        ready = [task.id for task in self._tasks.hot.values() if task.where == _READY]
        lost = [task for task_id in (*pending, *ready) if task_id not in there and (task := self._tasks.peek(task_id))]
        for task in sorted(lost, key=lambda task: task.queued_at, reverse=True):
            found[task.priority].insert(0, task.id)

    def next_due(self) -> float | None:
        """UTC time at which the next delayed task is due (or a little earlier: stale places count)."""
        return self._delayed[0][0] if self._delayed else None

    def peek(
        self, suspects: Container[str] = (), bar: Priority = Priority.LOW, takes: Takes | None = None
    ) -> Task | None:
        """The next ready task, by priority, then by how long it has been ready.

        `suspects` lose their place in the line: whoever suspects them runs them. Lower priorities than `bar` wait, and
        so do tasks whose method `takes` says no to. `unseen` tells whether None is for want of time.
        """
        for priority in Priority:
            if priority > bar:
                break
            task_id = self._next(priority, suspects, takes)
            if task_id is not None:
                return self._tasks[task_id]
            if self.unseen:
                break
        return None

    def peek_aged(self, before: float, suspects: Container[str] = (), takes: Takes | None = None) -> Task | None:
        """Of the next ready tasks of all priorities the one queued first, if that was before `before` (UTC)."""
        heads = [task_id for each in Priority if (task_id := self._next(each, suspects, takes)) is not None]
        aged = [task for task_id in heads if (task := self._tasks[task_id]).queued_at < before]
        return min(aged, key=lambda task: task.queued_at, default=None)

    def oldest_pending_at(self) -> float | None:
        """When the oldest pending task was queued (UTC)."""
        if self._kept:
            self._line_up_kept()
        heads = [self._head(line) for line in self._ready.values()]
        heads += [self._first_aside(priority, (), _any) for priority in Priority]
        found = [task.queued_at for head in heads if head is not None and (task := self._tasks.peek(head))]
        while self._ages:
            queued_at, task_id = self._ages[0]
            task = self._tasks.hot.get(task_id)
            if task is None or task.state is not State.PENDING or task.queued_at != queued_at:
                heapq.heappop(self._ages)
                continue
            found.append(queued_at)
            break
        return min(found, default=None)

    @property
    def aside(self) -> Counter[str]:
        """How many tasks are set aside, by method."""
        total: Counter[str] = Counter()
        for lines in self._aside.values():
            total.update({method: len(line) for method, line in lines.items()})
        return total

    def _next(self, priority: Priority, suspects: Container[str], takes: Takes | None) -> str | None:
        """Who is first of a priority among those that `takes` says yes to; without it, among all."""
        if self._kept:
            self._line_up_kept()
        self.unseen = False
        first = self._first_aside(priority, suspects, takes or _any)
        if first is not None:
            return first
        line = self._ready[priority]
        for _ in range(ASIDE_AT_ONCE):
            task_id = self._head(line, suspects)
            if task_id is None or takes is None:
                return task_id
            task = self._tasks.peek(task_id)
            if task is None or takes(task.method):
                return task_id
            place = line.popleft()
            self._aside_number += 1
            aside = self._aside[priority].setdefault(task.method, OrderedDict())
            aside[task_id] = (self._aside_number, place[1] if isinstance(place, tuple) else 0)
        self.unseen = True
        return None

    def _first_aside(self, priority: Priority, suspects: Container[str], takes: Takes) -> str | None:
        """Who was set aside first of those that `takes` says yes to."""
        heads: list[tuple[int, str]] = []
        for method, line in list(self._aside[priority].items()):
            if not takes(method):
                continue
            while line:
                task_id, (number, ticket) = next(iter(line.items()))
                if task_id not in suspects and self._stands(task_id, ticket):
                    heads.append((number, task_id))
                    break
                del line[task_id]
            if not line:
                del self._aside[priority][method]
        return min(heads)[1] if heads else None

    def _head(self, line: deque[_InLine], suspects: Container[str] = ()) -> str | None:
        while line:
            place = line[0]
            if isinstance(place, Block):
                line.popleft()
                line.extendleft(reversed(place.ids()))
                continue
            task_id, ticket = (place, 0) if isinstance(place, str) else place
            if task_id not in suspects and self._stands(task_id, ticket):
                return task_id
            line.popleft()
        return None

    def _stands(self, task_id: str, ticket: int) -> bool:
        task = self._tasks.hot.get(task_id)
        if task is None:
            return self._tasks.state(task_id) is State.PENDING
        # One that was cold meanwhile has no ticket: then any of its places is as good.
        return task.where == _READY and task.ticket in (ticket, 0)

    def _line_up_kept(self) -> None:
        for _, priority, task_id in sorted(self._kept, reverse=True):
            self._ready[priority].appendleft(task_id)
        self._kept.clear()


def _number(place: tuple[str, tuple[int, int]]) -> int:
    return place[1][0]
