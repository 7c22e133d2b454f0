"""The lines in which pending tasks wait: ready by priority and age, delayed until a time, waiting for another's answer.

A place in a line is an id, of one that stands there since it was accepted, or an id with a ticket, of one that came
back; it counts as long as the task is ready and has no newer ticket. So nobody is ever searched for in the middle.
"""

__all__ = ["Block", "Lines"]

import heapq
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Container, Iterator

from captchad.model.states import Priority, State
from captchad.queue.task import Task
from captchad.queue.tasks import Tasks

_READY, _DELAYED, _WAITING, _NOWHERE = "ready", "delayed", "waiting", ""


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
        found = {priority: list(dict.fromkeys(self._standing(line))) for priority, line in self._ready.items()}
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

    def peek(self, suspects: Container[str] = (), bar: Priority = Priority.LOW) -> Task | None:
        """The next ready task, by priority, then by how long it has been ready.

        `suspects` lose their place in the line: whoever suspects them runs them. Lower priorities than `bar` wait.
        """
        if self._kept:
            self._line_up_kept()
        for priority, line in self._ready.items():  # in the order of their priorities
            if priority > bar:
                break
            task_id = self._head(line, suspects)
            if task_id is not None:
                return self._tasks[task_id]
        return None

    def peek_aged(self, before: float, suspects: Container[str] = ()) -> Task | None:
        """Of the next ready tasks of all priorities the one queued first, if that was before `before` (UTC)."""
        if self._kept:
            self._line_up_kept()
        heads = [task_id for line in self._ready.values() if (task_id := self._head(line, suspects)) is not None]
        aged = [task for task_id in heads if (task := self._tasks[task_id]).queued_at < before]
        return min(aged, key=lambda task: task.queued_at, default=None)

    def oldest_pending_at(self) -> float | None:
        """When the oldest pending task was queued (UTC)."""
        if self._kept:
            self._line_up_kept()
        heads = [self._head(line) for line in self._ready.values()]
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
