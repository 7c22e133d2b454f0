"""Cleaning: what still counts in the oldest segment is written to the head, a slice at a time; then the segment goes.

The segment is read once, in order, and each record in it is asked for whether memory points to it. Of a task that
waits, or is dead, a `keep` record is written with its payload; of one that is over, a row of an `ended` record, which
is all that must be known to recognise its id until that is forgotten. A crash at any step repeats the work, no more.
"""

__all__ = ["LOOKED_AT_A_SLICE", "Cleaner"]

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

from captchad.journal.records import Entry, Record
from captchad.journal.store import Journal
from captchad.model.errors import JournalDamaged, JournalDown
from captchad.model.states import State
from captchad.policy.lifecycle import Kind
from captchad.queue.task import Task, ended_row, of_record, row_at, row_of_snapshot
from captchad.queue.view import View

#: Records of the oldest segment that one slice looks at: under 10 ms, and more than a busy turn writes.
LOOKED_AT_A_SLICE = 1600

#: A task that is written anew costs as much as so many looks.
_WRITE_COSTS = 5

#: Most records say nothing that counts any more, and of those that may the id tells: few are parsed.
_ALL_KINDS = frozenset(map(str, Kind))
_ID = re.compile(rb',"id":"([^"\\]+)"')

_SAY_ALL = frozenset({Kind.ACCEPT, Kind.KEEP, Kind.DELIVERED, Kind.REPORTED})
_KEPT = frozenset({State.PENDING, State.DEAD})
_SAY_ANSWER = frozenset({Kind.SOLVED, Kind.KEEP_ANSWER})


class Duties(Protocol):
    """What cleaning needs of the queue."""

    journal: Journal
    view: View

    def now(self) -> float:
        """UTC seconds."""

    def stage(self, kind: str, data: Mapping[str, Any], payload: bytes | None = None) -> Task | None:
        """Stage one record and apply it."""

    def after_commit(self, effect: Callable[[], None]) -> None:
        """Run `effect` once everything staged so far is durable."""

    def keep(self, task: Task) -> bool:
        """Write all that must be known of a hot task to the head. False when it cannot be read at this moment."""

    def is_over(self, task: Task) -> bool:
        """Whether no more need be known of a task than its row."""

    def may_forget(self, finished_at: float) -> bool:
        """Whether the id of a task that ended then is free."""

    def went_down(self, error: JournalDown) -> None:
        """The journal takes no write."""


class Cleaner:
    """One slice a call. Holds nothing that a crash could lose."""

    def __init__(self, queue: Duties) -> None:
        self._queue = queue
        self._segment = 0
        self._records: Iterator[Record] | None = None
        self._rows: list[list[Any]] = []
        self._active_seen = self._size_seen = 0

    def slice(self, budget: int, *, thorough: bool) -> bool:
        """Do one slice, if cleaning is worth while (`thorough`: whatever it gains). True if there was something to do.

        `budget` is the number of records that it looks at, at most.
        """
        journal = self._queue.journal
        if journal.oldest == journal.active:
            return False
        if self._records is None or self._segment != journal.oldest:
            if not thorough and not self._worth_while():
                return False
            self._segment, self._records = journal.oldest, self._all_records(journal.oldest)
        try:
            done = self._move(self._records, budget)
        except JournalDown:  # what cannot be read now is read again later, from the beginning
            self._records = None
            return True
        finally:
            self._write_rows()
        if done and self._move_lost(budget):
            self._finish()
        return True

    def _worth_while(self) -> bool:
        """More than half of what is not written any more is of no use, or all of the oldest segment."""
        journal, tasks = self._queue.journal, self._queue.view.tasks
        size = journal.size_bytes
        if self._active_seen == journal.active and 0 <= size - self._size_seen < journal.segment_bytes // 8:
            return False
        bill = self._queue.view.bill
        if journal.sealed_bytes > 2 * (tasks.live_bytes + bill.live_bytes):
            return True
        if not tasks.lives_in(journal.oldest) and not bill.lives_in(journal.oldest):
            return True
        self._active_seen, self._size_seen = journal.active, size
        return False

    def _all_records(self, segment: int) -> Iterator[Record]:
        if not self._queue.view.tasks.lives_in(segment):
            return
        try:
            yield from self._queue.journal.scan(segment, _ALL_KINDS)
        except JournalDamaged:  # what lives in the rest of it is found by its place
            return

    def _move(self, records: Iterable[Record], budget: int) -> bool:
        """Write anew what lives; True when the segment has been read to its end."""
        for record in records:
            written = 0
            if record.kind in _SAY_ALL:
                written = self._move_task(record)
            elif record.kind in _SAY_ANSWER:
                written = self._move_hot(_id_in(record), record.entry)
            elif record.kind == Kind.ENDED:
                for row in record.fields["rows"]:
                    if self._queue.view.tasks.is_cold_at(row[0], record.segment, record.offset):
                        self._remember(row)
                    else:
                        self._move_hot(row[0], record.entry)
                budget -= len(record.fields["rows"])
            budget -= 1 + written * _WRITE_COSTS
            if budget <= 0:
                return False
        return True

    def _move_task(self, record: Record) -> int:
        """How many tasks were written anew."""
        tasks = self._queue.view.tasks
        task_id = _id_in(record)
        if not tasks.is_cold_at(task_id, record.segment, record.offset):
            return self._move_hot(task_id, record.entry)
        if tasks.state(task_id) not in _KEPT:
            self._remember(row_of_snapshot(record.fields))
            return 0
        self._queue.stage(Kind.KEEP, self._queue.view.snapshot(of_record(record)), record.payload)
        return 1

    def _move_hot(self, task_id: str, entry: Entry) -> int:
        task = self._queue.view.tasks.hot.get(task_id)
        if task is None or not (_at(task.payload, entry) or _at(task.answer, entry)):
            return 0
        return self._move_known(task)

    def _move_known(self, task: Task) -> int:
        if self._queue.is_over(task):
            self._remember(ended_row(task))
            return 0
        if not self._queue.keep(task):
            raise JournalDown("a record cannot be read at this moment")
        return 1

    def _remember(self, row: list[Any]) -> None:
        if row[3] is None:
            row[3] = self._queue.now()  # the disk has lost when it ended
        if self._queue.may_forget(row[3]):
            self._queue.stage(Kind.FORGET, {"id": row[0], "t": self._queue.now()})
        else:
            self._rows.append(row_at(row, self._queue.now()))

    def _write_rows(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            self._queue.stage(Kind.ENDED, {"rows": rows})

    def _move_lost(self, budget: int) -> bool:
        """Those whose records the disk has lost, so that they were not met. False: it takes another slice."""
        tasks = self._queue.view.tasks
        for task_id in [*tasks.cold_in(self._segment), *tasks.hot_in(self._segment)]:
            try:
                budget -= _WRITE_COSTS * self._move_known(tasks[task_id])
            except JournalDown:
                self._records = None
                return False
            if budget <= 0:
                self._write_rows()
                return False
        self._write_rows()
        return True

    def _finish(self) -> None:
        view = self._queue.view
        self._records = None
        self._active_seen = self._size_seen = 0
        self._queue.stage("epoch", {"epoch": view.epoch, "t": self._queue.now()})
        for day in view.bill.records_for(self._segment):
            self._queue.stage("bill", day)
        for log in view.crew.records_for(self._segment):
            self._queue.stage("crew_log", log)
        self._queue.stage("totals", view.sums())
        self._queue.after_commit(partial(self._drop, self._segment))

    def _drop(self, segment: int) -> None:
        """The last step. When it fails the journal is down, and the segment is cleaned again later."""
        journal = self._queue.journal
        if journal.oldest != segment or segment == journal.active:
            return
        try:
            journal.drop_oldest()
        except JournalDown as error:
            self._queue.went_down(error)


def _id_in(record: Record) -> str:
    """The task's id: it is the first field of every record that says all of a task, or its answer."""
    found = record.match(_ID)
    return found[1].decode("ascii") if found else str(record.fields["id"])


def _at(entry: Entry | None, place: Entry) -> bool:
    return entry is not None and (entry.segment, entry.offset) == (place.segment, place.offset)
