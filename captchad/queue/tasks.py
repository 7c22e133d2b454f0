"""Every task by its id: hot ones as objects, cold ones as the place of the one record that says all of them.

Most tasks of a long queue wait untouched, and most of those that ended are only remembered; a million of either must
not take a gigabyte. So of a cold task memory holds its id and one integer. After a start from an index even those may
be missing for a while: what is asked, and cannot be answered without them, has all of them taken up first.
"""

__all__ = ["Absent", "Tasks", "is_dead"]

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Protocol

from captchad.journal.records import Entry, Place, Record
from captchad.model.errors import JournalDamaged
from captchad.model.states import State
from captchad.policy.lifecycle import Kind
from captchad.queue.task import Task, of_record, of_row, unreadable_task

#: A place in one integer: segment numbers have 27 bits, so that with these all of it fits into 60, the most that a
#: Python integer holds in 32 bytes.
_OFFSET_BITS: Final = 33

#: Of a task that has ended two more bits say how.
_END_BITS: Final = 2
_END_MASK: Final = 3
_ENDS: Final = tuple(state for state in State if state.ended)

_END_OF: Final = {str(state): end for end, state in enumerate(_ENDS)}

#: A row of an `ended` record.
_ROW_BYTES: Final = 160

# Looking a member up in its enum takes longer than all that is done with it here.
_PENDING: Final = State.PENDING


class Absent(Protocol):
    """Cold tasks that are known and not taken up yet."""

    pending: int
    over: int

    def take_some(self, budget: int) -> None:
        """Take up about so many."""

    def take_all(self) -> None:
        """Take up the rest."""


class Tasks:
    """A mapping of ids to tasks. `get` and `[]` make a cold task hot, so that it may be changed; `peek` does not.

    `read` gets a record from where it stands; `warmed` is told of each task that becomes hot in this way.
    """

    def __init__(self, read: Callable[[Entry], Record], warmed: Callable[[Task], None]) -> None:
        self._warmed = warmed
        self.hot: dict[str, Task] = {}
        self._pending: dict[str, int] = {}  # cold ones that wait, ready to be run
        self._over: dict[str, int] = {}  # cold ones that have ended; the low bits say how
        self._ends = [0] * len(_ENDS)  # how many of each
        self._live: dict[int, list[float]] = {}  # segment: cold tasks whose record is there, and bytes of those records
        self.shelf: Absent | None = None  # cold tasks of an index, until all of them are here
        self._read = read
        self._rows_at = 0
        self._rows: dict[str, list[Any]] = {}  # of the `ended` record that was read last

    # ---------------------------------------------------------------- asking

    def __contains__(self, task_id: str) -> bool:
        if task_id in self.hot or task_id in self._pending or task_id in self._over:
            return True
        return self.shelf is not None and self._complete() and task_id in self

    def __len__(self) -> int:
        absent = 0 if self.shelf is None else self.shelf.pending + self.shelf.over
        return len(self.hot) + len(self._pending) + len(self._over) + absent

    def __iter__(self) -> Iterator[str]:
        self._complete()
        return iter([*self.hot, *self._pending, *self._over])

    def __getitem__(self, task_id: str) -> Task:
        task = self.get(task_id)
        if task is None:
            raise KeyError(task_id)
        return task

    def get(self, task_id: str) -> Task | None:
        """The task, from now on hot; None when it is not known. Raises JournalDown when it cannot be read now."""
        task = self.hot.get(task_id)
        if task is None:
            task = self.peek(task_id)
            if task is not None:
                self.drop_cold(task_id)
                self.hot[task_id] = task
                self._warmed(task)
        return task

    def peek(self, task_id: str) -> Task | None:
        """The task, to look at only: of a cold one this is a copy. Raises JournalDown when it cannot be read now."""
        task = self.hot.get(task_id)
        if task is not None:
            return task
        place = self._pending.get(task_id)
        if place is not None:
            task = self._load(task_id, _PENDING, place)
            task.where = "ready"
            return task
        place = self._over.get(task_id)
        if place is not None:
            return self._load(task_id, _ENDS[place & _END_MASK], place >> _END_BITS)
        return self.peek(task_id) if self.shelf is not None and self._complete() else None

    def state(self, task_id: str) -> State | None:
        """Its state, without reading anything."""
        task = self.hot.get(task_id)
        if task is not None:
            return task.state
        if task_id in self._pending:
            return _PENDING
        place = self._over.get(task_id)
        if place is not None:
            return _ENDS[place & _END_MASK]
        return self.state(task_id) if self.shelf is not None and self._complete() else None

    def values(self) -> Iterator[Task]:
        """All tasks, to look at only. Reads every cold one from the disk."""
        return (task for task_id in self if (task := self.peek(task_id)) is not None)

    def ids(self, state: State) -> list[str]:
        """The ids of all tasks in `state`."""
        hot = [task.id for task in self.hot.values() if task.state is state]
        return hot + self.first_cold(state, len(self))

    def first_cold(self, state: State, limit: int) -> list[str]:
        """At most `limit` cold tasks in `state`: those that have been it for longest."""
        self._complete()
        if state is _PENDING:
            return list(islice(self._pending, limit))
        over = (task_id for task_id, place in self._over.items() if _ENDS[place & _END_MASK] is state)
        return list(islice(over, limit))

    def count_cold(self, state: State) -> int:
        """How many cold tasks are in `state`."""
        if state is _PENDING:
            return len(self._pending) + (0 if self.shelf is None else self.shelf.pending)
        return self._ends[_ENDS.index(state)] if state in _ENDS else 0

    def is_cold_at(self, task_id: str, segment: int, offset: int) -> bool:
        """Whether it is the record at that place that says all of a cold task."""
        self._complete()
        place = _pack(segment, offset)
        return self._pending.get(task_id) == place or self._over.get(task_id, -1) >> _END_BITS == place

    def cold_in(self, segment: int) -> list[str]:
        """The cold tasks whose record is in `segment`; looks at all of them if there is one."""
        if segment not in self._live:
            return []
        self._complete()
        pending = (task_id for task_id, place in self._pending.items() if place >> _OFFSET_BITS == segment)
        shift = _OFFSET_BITS + _END_BITS
        return [*pending, *(task_id for task_id, place in self._over.items() if place >> shift == segment)]

    def hot_in(self, segment: int) -> list[str]:
        """The hot tasks of which a record in `segment` says what no later one does."""
        return [task.id for task in self.hot.values() if _in(task.payload, segment) or _in(task.answer, segment)]

    def lives_in(self, segment: int) -> bool:
        """Whether anything in `segment` still counts."""
        return segment in self._live or bool(self.hot_in(segment))

    @property
    def live_bytes(self) -> int:
        """About how many bytes would be left if all was cleaned."""
        cold = sum(size for _, size in self._live.values())
        return int(cold) + sum(
            (task.payload.length if task.payload else 0) + (task.answer.length if task.answer else 0)
            for task in self.hot.values()
        )

    # ---------------------------------------------------------------- changing

    def put_cold(self, state: State, task_id: str, segment: int, offset: int, size: float) -> None:
        """Know a task by the record at that place alone; `size` bytes of it are the task's. It must not be known."""
        if state is _PENDING:
            self._pending[task_id] = _pack(segment, offset)
        else:
            end = _ENDS.index(state)
            self._over[task_id] = _pack(segment, offset) << _END_BITS | end
            self._ends[end] += 1
            if state is not State.DEAD:
                size = min(size, _ROW_BYTES)  # cleaning leaves no more of it
        self._add_live(segment, size)

    def put_rows(self, rows: Sequence[Sequence[Any]], entry: Entry) -> None:
        """The same for all rows of the `ended` record at `entry`; each begins with an id and how that task ended.

        Raises ValueError for what is no end.
        """
        place, over, known = _pack(entry.segment, entry.offset) << _END_BITS, self._over, len(self._over)
        for task_id, state, *_ in rows:
            end = _END_OF.get(state)
            if end is None:
                raise ValueError(f"not an end of a task: {state!r}")
            if task_id not in over:  # a slice of cleaning that met two records of a task has two rows of it
                over[task_id] = place | end
                self._ends[end] += 1
        self._add_live(entry.segment, min(entry.length, len(rows) * _ROW_BYTES), len(over) - known)

    def take_pending(self, task_id: str, segment: int, offset: int, size: float) -> bool:
        """The same for one that waits; False if it is known."""
        if task_id in self._pending or task_id in self._over or task_id in self.hot:
            return False
        if self.shelf is not None and self._complete():
            return self.take_pending(task_id, segment, offset, size)
        self._pending[task_id] = segment << _OFFSET_BITS | offset
        if segment in self._live:
            live = self._live[segment]
            live[0] += 1
            live[1] += size
        else:
            self._live[segment] = [1, size]
        return True

    def _add_live(self, segment: int, size: float, count: int = 1) -> None:
        live = self._live.get(segment)
        if live is None:
            live = self._live[segment] = [0, 0]
        live[0] += count
        live[1] += size

    def cool(self, task: Task, entry: Entry) -> None:
        """The record at `entry` says all of a hot task: it is cold from now on."""
        del self.hot[task.id]
        self.put_cold(task.state, task.id, entry.segment, entry.offset, entry.length)

    def move_cold(self, state: State, task_id: str, entry: Entry) -> None:
        """Another record, at `entry`, says all of a cold task now."""
        self.drop_cold(task_id)
        self.put_cold(state, task_id, entry.segment, entry.offset, entry.length)

    def drop_cold(self, task_id: str) -> float:
        """Forget a cold task. About how many bytes of its record were its own."""
        place = self._pending.pop(task_id, None)
        if place is None:
            over = self._over.pop(task_id)
            self._ends[over & _END_MASK] -= 1
            place = over >> _END_BITS
        segment = place >> _OFFSET_BITS
        live = self._live[segment]
        size = live[1] / live[0]  # its own length is not known any more: the mean of those that are there
        if live[0] == 1:
            del self._live[segment]
        else:
            live[1] -= size
            live[0] -= 1
        return size

    def moved(self, moves: Mapping[Place, Place]) -> None:
        """Records that were staged stand elsewhere than was promised. Looks at every cold task; it is rare."""
        packed = {_pack(*before): after for before, after in moves.items()}
        self._rows_at, self._rows = 0, {}
        places = [(task_id, place) for task_id, place in self._pending.items() if place in packed]
        places += [(task_id, over >> _END_BITS) for task_id, over in self._over.items() if over >> _END_BITS in packed]
        states = {task_id: self.state(task_id) for task_id, _ in places}
        for task_id, place in places:
            state, after = states[task_id], packed[place]
            size = self.drop_cold(task_id)
            if state is not None:
                self.put_cold(state, task_id, after.segment, after.offset, size)

    # ---------------------------------------------------------------- an index

    def cold(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """The places of all cold tasks: of those that wait, and packed as in an index of those that have ended."""
        self._complete()
        return self._pending, self._over

    @property
    def live(self) -> Mapping[int, Sequence[float]]:
        """By segment: how many cold tasks live there, and in how many bytes."""
        return self._live

    @property
    def ends(self) -> Sequence[int]:
        """How many cold tasks have ended in each way."""
        return self._ends

    def put_on_shelf(self, shelf: Absent | None, live: Mapping[int, Sequence[float]], ends: Sequence[int]) -> None:
        """Know of the cold tasks that are on `shelf`, where they live, and how many have ended in each way."""
        self.shelf = shelf
        self._live = {segment: list(each) for segment, each in live.items()}
        self._ends = list(ends)

    def take_up_pending(self, places: Iterable[tuple[str, int]]) -> None:
        """Cold tasks that wait come from the shelf."""
        self._pending.update(places)

    def take_up_over(self, places: Iterable[tuple[str, int]]) -> None:
        """Cold tasks that have ended come from the shelf."""
        self._over.update(places)

    def _complete(self) -> bool:
        """Have everything here; whether something was not."""
        if self.shelf is None:
            return False
        self.shelf.take_all()
        self.shelf = None
        return True

    # ---------------------------------------------------------------- reading

    def _load(self, task_id: str, state: State, place: int) -> Task:
        entry = Entry(place >> _OFFSET_BITS, place & (1 << _OFFSET_BITS) - 1, 0)
        try:
            task = self._of_rows(task_id, entry) if place == self._rows_at else self._of_record(task_id, entry)
        except (JournalDamaged, ValueError):  # an index may name a segment that is not there
            task = None
        # A record that speaks of another task is as good as none.
        return unreadable_task(task_id, state, entry) if task is None or task.id != task_id else task

    def _of_record(self, task_id: str, entry: Entry) -> Task | None:
        record = self._read(entry)
        if record.kind != Kind.ENDED:
            return of_record(record)
        self._rows_at = _pack(entry.segment, entry.offset)
        self._rows = {row[0]: row for row in record.fields["rows"]}
        return self._of_rows(task_id, entry)

    def _of_rows(self, task_id: str, entry: Entry) -> Task | None:
        row = self._rows.get(task_id)
        return None if row is None else of_row(row, entry)


def is_dead(over: int) -> bool:
    """Whether the place of a task that has ended, as an index has it, says that the task is dead."""
    return _ENDS[over & _END_MASK] is State.DEAD


def _in(entry: Entry | None, segment: int) -> bool:
    return entry is not None and entry.segment == segment


def _pack(segment: int, offset: int) -> int:
    return segment << _OFFSET_BITS | offset
