"""The queue's index: at a clean stop all that the view knows is written beside the journal, so that a start is quick.

Hot tasks are written as `keep` records would say them, with the places of their payload and answer. Cold ones, of which
there may be millions, stand in blocks of bytes: ids, places, and what becomes due. A start takes up the hot ones and
leaves the blocks on a shelf. The segments say all of it as well: whatever gives rise to doubt, the index goes and they
are read. docs/journal.md describes the form.
"""

__all__ = ["Found", "load", "save"]

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple

from captchad import __version__
from captchad.journal.indexfile import Mark, Seal
from captchad.journal.osio import error_text
from captchad.journal.records import VERSION, Entry, Place
from captchad.journal.store import Journal
from captchad.model.errors import RecordTooLarge
from captchad.model.states import Priority
from captchad.policy.spend import Spent
from captchad.queue.bill import Bill
from captchad.queue.crewlog import CrewLog
from captchad.queue.shelf import OverBlock, PendingBlock, Shelf, pack
from captchad.queue.task import Task
from captchad.queue.tasks import is_dead
from captchad.queue.view import Totals, View

#: The form of what is written here. Greater with each change, also of what a view must know.
INDEX_VERSION: Final = 4

#: With fewer tasks than these a replay of the segments is as quick.
LEAST: Final = 10_000

#: Ids of a block: taken up in about a millisecond.
BLOCK: Final = 2048

#: With more hot tasks than these, reading the index would take as long as reading the segments.
HOT_MOST: Final = 50_000

_log = logging.getLogger(__name__)


class Found(NamedTuple):
    """What an index has brought: the view as it was, and the end of the journal of that time."""

    view: View
    since: Place


# ---------------------------------------------------------------- writing


def save(view: View, journal: Journal, *, broken: bool = False, least: int = LEAST, block: int = BLOCK) -> str:
    """Write the index of a queue of which nothing is staged; durable on return. `broken`: its history has holes.

    Returns "", or why there is none now. Raises OSError: then there is none either.
    """
    why = "the journal has records that do not fit" if broken else _forbidden(view, least)
    mark = None if why else journal.mark()
    if mark is None:
        journal.index.remove()
        return why or "the journal is down or damaged, or has something staged"
    try:
        content = _Content(view, block)
        journal.index.write(_head(view, mark) | content.table(), content.parts)
    except (ValueError, OverflowError, RecordTooLarge) as error:
        journal.index.remove()
        return f"it cannot be written down: {error}"
    return ""


def _forbidden(view: View, least: int) -> str:
    if len(view.tasks) < least:
        return "there are few tasks"
    if len(view.tasks.hot) > HOT_MOST:
        return f"more than {HOT_MOST} tasks are under way"
    if view.orphan_ids:
        return "records of tasks were met that are not known"
    return ""


def _head(view: View, mark: Mark) -> dict[str, Any]:
    return {
        "v": INDEX_VERSION,
        "by": __version__,
        "journal": VERSION,
        "end": mark.end,
        "last": mark.last,
        "sum": mark.checksum,
        "crc_last": mark.crc,
        "segments": mark.seals,
        "epoch": view.epoch,
        "n": view.last_n,
        "totals": view.totals_record(),
        "spent": view.spent.record(),
        "live": [[segment, *each] for segment, each in view.tasks.live.items()],
        "ends": list(view.tasks.ends),
    }


class _Content:
    """All that stands behind the first line."""

    def __init__(self, view: View, block: int) -> None:
        self._view = view
        self._block = block
        self._pending, self._over = view.tasks.cold()
        self._more: dict[str, list[tuple[float, str]]] = {"deadlines": [], "endings": [], "deaths": []}
        self._pending_table: list[list[int]] = []
        self._over_table: list[list[int]] = []
        blocks = [*self._pending_parts(), *self._over_parts()]
        text = b"".join([*map(self._hot, sorted(view.tasks.hot.values(), key=_ticket)), self._rest()])
        self._text_size = len(text)
        self.parts = [text, *blocks]

    def table(self) -> dict[str, Any]:
        """Where what is."""
        return {
            "hot": len(self._view.tasks.hot),
            "text": self._text_size,
            "pending": self._pending_table,
            "over": self._over_table,
        }

    def _hot(self, task: Task) -> bytes:
        places = {"payload": _place(task.payload), "answer": _place(task.answer), "where": task.where}
        return _json_line(self._view.snapshot(task) | places)

    def _rest(self) -> bytes:
        view = self._view
        return _json_line(
            {
                "leaders": view.leaders,
                "followers": view.followers,
                "undelivered": list(view.undelivered),
                "bill": view.bill.index(),
                "crew": view.crew.index(),
                **self._more,
            }
        )

    def _pending_parts(self) -> Iterator[bytes]:
        deadlines = self._deadlines()
        for priority, ids in self._view.in_order().items():
            for begin in range(0, len(ids), self._block):
                names = ids[begin : begin + self._block]
                text = _names(names)
                places = [self._pending.get(name, 0) for name in names]
                due = [deadlines.get(name, math.nan) for name in names] if deadlines else []
                dated = any(map(math.isfinite, due))
                self._pending_table.append([priority, len(names), len(names) - places.count(0), len(text), int(dated)])
                yield from (text, pack("Q", places))
                if dated:
                    yield pack("d", due)

    def _deadlines(self) -> dict[str, float]:
        """Of cold tasks, one each. What else may count is noted."""
        found: dict[str, float] = {}
        for deadline, task_id in self._view.times.deadlines:
            if task_id in self._pending and task_id not in found and math.isfinite(deadline):
                found[task_id] = deadline
            elif task_id in self._pending or task_id in self._view.tasks.hot:
                self._more["deadlines"].append((deadline, task_id))
        return found

    def _over_parts(self) -> Iterator[bytes]:
        rows = self._over_rows()
        while some := list(islice(rows, self._block)):
            text = _names([row[0] for row in some])
            self._over_table.append([len(some), len(text)])
            yield from (text, pack("Q", [row[1] for row in some]), pack("Q", [row[2] for row in some]))

    def _over_rows(self) -> Iterator[tuple[str, int, int]]:
        """(id, place, second) of each cold task that has ended. What else may become due is noted."""
        left = dict(self._over)
        for name in ("endings", "deaths"):
            for second, ids in getattr(self._view.times, name).items():
                for task_id in ids:
                    place = left.get(task_id)
                    if place is not None and is_dead(place) == (name == "deaths"):
                        del left[task_id]
                        yield task_id, place, second
                    elif task_id in self._over or task_id in self._view.tasks.hot:
                        self._more[name].append((second, task_id))
        for task_id, place in left.items():
            task = self._view.tasks.peek(task_id)
            yield task_id, place, int((task and task.finished_at) or 0)


def _ticket(task: Task) -> int:
    return task.ticket


def _names(names: Sequence[str]) -> bytes:
    """Raises ValueError for an id that cannot stand there."""
    text = "\n".join(names).encode("ascii")
    if text.count(b"\n") != len(names) - 1 or not all(names):
        raise ValueError("an id is empty or has a newline in it")
    return text


def _place(entry: Entry | None) -> list[int] | None:
    return None if entry is None else [entry.segment, entry.offset, entry.length]


def _json_line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


# ---------------------------------------------------------------- reading


def load(journal: Journal) -> Found | None:
    """What the index brings, if it is there and beyond doubt; else it is thrown away, and a line in the log says why.

    To be asked before `journal.replay`. Raises as that does, and nothing else, whatever the bytes in the index are.
    """
    why, found = "", None
    try:
        read = journal.index.read()
        if read is None:
            return None
        mark = _mark(read[0])
        found = Found(_Index(*read, mark).view(journal), mark.end)
    except OSError as error:
        why = error_text(error)
    except Exception as error:  # noqa: BLE001 - bytes can be wrong in any way, and the segments say the same
        why = str(error) or type(error).__name__
    why = why or journal.doubt(mark)
    if not why:
        return found
    _log.warning("the index is thrown away, the journal is read from its beginning: %s", why)
    try:
        journal.index.remove()
    except OSError as error:
        _log.warning("the index cannot be removed: %s", error_text(error))
    return None


def _mark(fields: Mapping[str, Any]) -> Mark:
    if (fields["v"], fields["by"], fields["journal"]) != (INDEX_VERSION, __version__, VERSION):
        raise ValueError("another captchad has written it")
    end, seals = Place(*_numbers(fields["end"])), tuple(Seal(*_numbers(each)) for each in fields["segments"])
    last, crc = _numbers([fields["last"], fields["crc_last"]])
    if not seals or end != (seals[-1].number, seals[-1].length) or last >= end.offset:
        raise ValueError("it does not say where the journal ended")
    return Mark(end, last, str(fields["sum"]), crc, seals)


@dataclass(slots=True)
class _Index:
    """Takes what was written apart. Raises anything for what is not right."""

    _fields: Mapping[str, Any]
    _body: memoryview
    _mark: Mark
    _at: int = field(default=0, init=False)

    def view(self, journal: Journal) -> View:
        """A view that knows all of it."""
        view = View(journal.read)
        fields = self._fields
        view.epoch, view.last_n = _numbers([fields["epoch"], fields["n"]])
        view.totals = Totals(**dict(zip(fields["totals"], _numbers(fields["totals"].values()), strict=True)))
        view.spent = Spent.of_record(fields["spent"])
        *hot, rest, end = bytes(self._take(fields["text"])).split(b"\n")
        if len(hot) != fields["hot"] or end:
            raise ValueError("it has not the lines that it should have")
        self._put_back(view, map(json.loads, hot), json.loads(rest))
        self._fill_shelf(view)
        return view

    def _put_back(self, view: View, hot: Iterable[dict[str, Any]], rest: dict[str, Any]) -> None:
        for data in hot:
            view.put_back(data, _entry(data["payload"]), _entry(data["answer"]))
        view.attempts = dict(sorted(view.attempts.items()))
        view.captchas = dict(sorted(view.captchas.items()))
        view.leaders, view.followers = dict(rest["leaders"]), dict(rest["followers"])
        view.undelivered = dict.fromkeys(rest["undelivered"])
        view.bill = Bill.of_index(rest["bill"])
        view.crew = CrewLog.of_index(rest["crew"])
        if not view.undelivered.keys() <= view.tasks.hot.keys():
            raise ValueError("a task without result is not there")
        for deadline, task_id in rest["deadlines"]:
            view.times.add_deadline(float(deadline), str(task_id))
        for due, name in ((view.times.endings, "endings"), (view.times.deaths, "deaths")):
            for second, task_id in rest[name]:
                due.add(second, str(task_id))

    def _fill_shelf(self, view: View) -> None:
        fields = self._fields
        shelf = Shelf(view.tasks, view.times)
        for row in fields["pending"]:
            priority, count, cold, size, dated = _numbers(row)
            places = (self._take_names(size, count), self._take(8 * count), self._take(8 * count) if dated else None)
            block = PendingBlock(shelf, *places, cold)
            view.append_block(Priority(priority), block)
            shelf.put(block)
        for row in fields["over"]:
            count, size = _numbers(row)
            names = self._take_names(size, count)
            shelf.put(OverBlock(names, self._take(8 * count), self._take(8 * count), count))
        live = {int(segment): (int(count), float(size)) for segment, count, size in fields["live"]}
        ends = _numbers(fields["ends"])
        if sum(ends) != shelf.over or sum(count for count, _ in live.values()) != shelf.pending + shelf.over:
            raise ValueError("its numbers do not fit")
        if not live.keys() <= {seal.number for seal in self._mark.seals} or self._at != len(self._body):
            raise ValueError("its parts do not fit")
        view.tasks.put_on_shelf(shelf if shelf.pending + shelf.over else None, live, ends)
        if view.lines["ready"] != sum(row[1] for row in fields["pending"]):
            raise ValueError("its lines do not fit")

    def _take(self, size: int) -> memoryview:
        begin, self._at = self._at, self._at + size
        data = self._body[begin : self._at]
        if size < 0 or len(data) != size:
            raise ValueError("it is too short")
        return data

    def _take_names(self, size: int, count: int) -> memoryview:
        taken = self._take(size)
        names = bytes(taken)
        if not names.isascii() or names.count(b"\n") != count - 1:
            raise ValueError("it has not the ids that it should have")
        return taken


def _numbers(values: Iterable[Any]) -> list[int]:
    """Raises ValueError for what are none."""
    found = list(values)
    if not all(type(each) is int and each >= 0 for each in found):
        raise ValueError("it has something else where numbers should be")
    return found


def _entry(place: Sequence[int] | None) -> Entry | None:
    return None if place is None else Entry(*_numbers(place))
