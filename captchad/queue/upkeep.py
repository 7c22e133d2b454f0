"""Upkeep of the journal, where one must know what its records mean: verify, clean, export, repair.

`verify` and `export` take no lock and write nothing; `clean` and `repair` hold the segments' lock, so no daemon runs.

A task whose history has a hole is held: a `submitting` that is lost leaves no other trace, and a second one would be
paid for again. Its history has a hole when one of its records does not fit the ones before it, when its id stands in
damaged bytes, or (for `repair`, which must do without some segments altogether) when it was accepted before something
that is lost as a whole. What `accept` or `keep` says of a task behind the damage is whole again.
"""

__all__ = ["MISSING", "Export", "Upkeep", "clean", "hold_doubtful", "repair", "verify"]

import json
import math
import random
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from captchad.journal.osio import Os, error_text
from captchad.journal.records import REPAIR_HINT, Draft, Place, Record, draft
from captchad.journal.repair import Reading, Rebuild, Rehearsal, bad_side_lines, hole_bytes, left_over
from captchad.journal.segments import QUARANTINE_NAME, Hole
from captchad.journal.sidefile import WORKERS_NAME, SidePath, read_side_file, side_files
from captchad.journal.store import Journal
from captchad.model.clock import Clock, SystemClock
from captchad.model.errors import JournalDown, LockHeld, NeedsOperator, NewerVersion, TryLater
from captchad.model.states import State
from captchad.policy.lifecycle import Kind, NotAllowed
from captchad.policy.retry import RetrySettings
from captchad.queue.queue import Queue, QueueSettings

#: Records that one commit of `clean` writes.
_BUDGET: Final = 1000

#: Where an id stands in a record, also in one that is damaged.
_ID = re.compile(rb'"id":"([A-Za-z0-9][A-Za-z0-9._-]{0,127})"')
_ACCEPT = re.compile(rb'"k":"accept"')
_NO_TASK = re.compile(rb'"k":"(?:head|epoch|beat|totals|bill|crew|crew_log)"')

#: A hole at the beginning of a segment that is shorter can hold its header (135 bytes at least) and no record besides.
_HEAD_ALONE: Final = 200

#: The reason of a place where a whole segment is not there.
MISSING = "the segment is missing"

#: Kinds of records that say all of a task, whatever is lost before them.
_WHOLE: Final = frozenset({Kind.ACCEPT, Kind.KEEP, Kind.ENDED, Kind.FORGET})

_NOWHERE: Final = Place(0, 0)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Whose journal it is, and what the configuration says of it."""

    state_dir: Path
    segment_bytes: int
    id_ttl_s: float = float("inf")  # infinite when the configuration does not say: nothing is forgotten then
    dead_ttl_s: float = float("inf")
    allow_weak_fs: bool = False
    clock: Clock = field(default_factory=SystemClock)
    osio: Os = field(default_factory=Os)

    @property
    def directory(self) -> Path:
        return self.state_dir / "journal"

    def demand_journal(self) -> None:
        """Raise NeedsOperator when there is none, OSError when that cannot be seen."""
        try:
            self.osio.listdir(self.directory)
        except (FileNotFoundError, NotADirectoryError):
            hint = "name the daemon's configuration with --config FILE"
            raise NeedsOperator(f"there is no journal in {self.state_dir}", hint=hint) from None

    def open(self, refusal: str) -> Journal:
        """The journal, locked and not replayed. Raises LockHeld with the holder's pid; `refusal` says what to do."""
        try:
            return Journal.open(
                self.directory,
                segment_bytes=self.segment_bytes,
                clock=self.clock,
                osio=self.osio,
                lock_wait_s=0.0,
                allow_weak_fs=self.allow_weak_fs,
            )
        except LockHeld as error:
            message = f"a daemon runs on {self.state_dir} (pid {error.pid or 'unknown'})"
            raise LockHeld(message, pid=error.pid, hint=refusal) from None
        except JournalDown as error:
            error.hint = error.hint or "nothing was changed: make room, or mend the disk, and run it again"
            raise

    def queue(self, journal: Journal) -> Queue:
        """A queue that submits nothing and accepts nothing."""
        retry = RetrySettings(1, 0.0, 0.0)
        settings = QueueSettings(0, self.id_ttl_s, self.dead_ttl_s, 0, hold_unknown=True, retry=retry)
        return Queue(journal, settings, self.clock, random.Random())


# ---------------------------------------------------------------- holes


def hold_doubtful(queue: Queue, directory: Path, osio: Os | None = None) -> int:
    """Hold the pending tasks of a replayed queue whose history has a hole; stages, and returns how many.

    Beside `queue.broken` these are the ones whose ids stand in the bad places that replay met, and those with a submit
    whose outcome may have stood there; all of them are in `queue.broken` afterwards. To be called before what the last
    life left is settled. Raises JournalDown when a segment cannot be read.
    """
    for hole in queue.journal.holes:
        place = Place(hole.segment, hole.offset)
        open_submits = {attempt.task_id for attempt in queue.view.attempts.values()}
        for task_id in _ids(hole_bytes(directory, hole, osio)) | open_submits:
            task = queue.view.tasks.peek(task_id)
            if task is None:
                continue
            said = task.payload  # where a record says all of it
            if said is None or (said.segment, said.offset) < place:
                queue.broken.add(task_id)
    return queue.hold_broken()


def _ids(data: bytes) -> set[str]:
    return {match[1].decode("ascii") for match in _ID.finditer(data)}


# ---------------------------------------------------------------- a journal as the daemon would read it


@dataclass(frozen=True, slots=True)
class _Misfit:
    """A good record that the ones before it do not allow."""

    place: Place
    length: int
    task_id: str
    reason: str


class _Check:
    """A journal, damaged or not, replayed into a queue that writes nothing."""

    def __init__(self, upkeep: Upkeep) -> None:
        self.reading = Reading(upkeep.directory, upkeep.osio)
        self.journal = Rehearsal(self.reading, upkeep.clock, upkeep.segment_bytes, upkeep.osio)
        self.queue = upkeep.queue(self.journal)
        self.whole: dict[str, Place] = {}  # where the last record stands that says all of a task
        self.unwanted: set[Place] = set()  # records that say nothing, for they do not fit
        self.forgotten: dict[Place, Draft] = {}  # what must have stood before an `accept` of an id that was taken
        self.orphans: dict[str, Place] = {}  # tasks whose first record is lost, and where the next one stands
        self._misfits: dict[str, list[_Misfit]] = {}  # by task
        self._upkeep = upkeep

    def run(self) -> None:
        """Read everything. Raises NewerVersion, JournalDown."""
        for record in self.journal.rehearse():
            self._take(record)
        known = self.queue.view.orphan_ids
        self.orphans = {task_id: place for task_id, place in self.orphans.items() if task_id in known}

    def close(self) -> None:
        """Close what was opened to read."""
        self.journal.close()

    def _take(self, record: Record) -> None:
        place = Place(record.segment, record.offset)
        try:
            self._apply(record)
        except (NotAllowed, KeyError, TypeError, ValueError) as error:
            # Not only what the lifecycle forbids: behind a hole a record may name what is not there.
            reason = str(error) if isinstance(error, NotAllowed) else f"it makes no sense ({error!r})"
            task_id = _task_id(record)
            self._misfits.setdefault(task_id, []).append(_Misfit(place, record.length, task_id, reason))
            if not self._accepted_again(record, place):
                self.unwanted.add(place)
            return
        if record.kind in _WHOLE:
            self._note_whole(record, place)
        elif (task_id := _task_id(record)) in self.queue.view.orphan_ids:
            self.orphans.setdefault(task_id, place)

    def _apply(self, record: Record) -> None:
        self.queue.view.replay(record)

    def _accepted_again(self, record: Record, place: Place) -> bool:
        """Take an `accept` of an id that still belongs to a task that is over: its `forget` is lost."""
        task_id = _task_id(record)
        known = self.queue.view.tasks.state(task_id)
        if record.kind != Kind.ACCEPT or known is None or not known.ended:
            return False
        fields = {"id": task_id, "t": record.fields["t"]}
        self.queue.view.apply(Kind.FORGET, fields, record.entry)
        self._apply(record)
        self.forgotten[place] = draft(Kind.FORGET, fields)
        self.whole[task_id] = place
        return True

    def _note_whole(self, record: Record, place: Place) -> None:
        ids = [_task_id(record)] if "id" in record.fields else [row[0] for row in record.fields["rows"]]
        for task_id in ids:
            self.orphans.pop(task_id, None)
            if place not in self.forgotten:
                self._misfits.pop(task_id, None)
            if record.kind == Kind.FORGET:
                self.whole.pop(task_id, None)
            else:
                self.whole[task_id] = place

    @property
    def misfits(self) -> list[_Misfit]:
        """Those that matter: of tasks that were not said anew behind them."""
        return [misfit for some in self._misfits.values() for misfit in some]

    def damage(self) -> list[dict[str, Any]]:
        """Everything that is wrong, in order, as plain values."""
        reading = self.reading
        found = [_bad_place(Place(number, 0), 0, MISSING) for number in reading.lost]
        found += [_bad_place(Place(hole.segment, hole.offset), hole.length, hole.reason) for hole in reading.holes]
        found += [
            _bad_place(each.place, each.length, f"a record of task {each.task_id} does not fit: {each.reason}")
            for each in self.misfits
        ]
        found.sort(key=lambda each: str(each["place"]))
        found += [
            _bad_place(place, 0, f"the first record of task {task_id} is lost")
            for task_id, place in self.orphans.items()
        ]
        left = left_over(self._upkeep.directory, self._upkeep.osio)
        return found + [{"place": name, "length": 0, "reason": "a repair was not finished"} for name in left[:1]]

    def first_bad(self) -> int:
        """The number of the first segment that is not as it should be; 0 when all are."""
        numbers = [hole.segment for hole in self.reading.holes] + self.reading.gaps
        numbers += [place.segment for place in (*self.forgotten, *self.orphans.values())]
        numbers += [misfit.place.segment for misfit in self.misfits]
        return min(numbers, default=0)

    def counts(self) -> dict[str, int]:
        """Tasks that the journal knows."""
        states = self.queue.view.states
        ended = sum(states[state] for state in State if state.ended and state is not State.DEAD)
        view = self.queue.view
        counts = {"unfinished": view.unfinished, "dead": states[State.DEAD], "ended": ended}
        return counts | {"undelivered": len(view.undelivered)}


def _task_id(record: Record) -> str:
    return str(record.fields.get("id", ""))


def _bad_place(place: Place, length: int, reason: str) -> dict[str, Any]:
    return {"place": f"{place.segment:08d}:{place.offset:010d}", "length": length, "reason": reason}


# ---------------------------------------------------------------- verify


def verify(upkeep: Upkeep) -> dict[str, Any]:
    """What there is, and whether all of it is good. Takes no lock, writes nothing, may run beside a daemon.

    Raises NeedsOperator when there is no journal, NewerVersion, JournalDown when something cannot be read.
    """
    upkeep.demand_journal()
    with closing(_Check(upkeep)) as check:
        seen = {str(each) for each in _damage(check, upkeep)}
        if not seen:
            return _report(check, upkeep, [])
    # What a writer does meanwhile can look like damage, but not twice in the same way.
    with closing(_Check(upkeep)) as check:
        return _report(check, upkeep, [each for each in _damage(check, upkeep) if str(each) in seen])


def _damage(check: _Check, upkeep: Upkeep) -> list[dict[str, Any]]:
    """Read everything, and say what is wrong."""
    check.run()
    bad = [side for side in _side_files(upkeep) if side["problem"]]
    return check.damage() + [
        {"place": f"{WORKERS_NAME}/{side['name']}", "length": 0, "reason": side["problem"]} for side in bad
    ]


def _report(check: _Check, upkeep: Upkeep, damage: list[dict[str, Any]]) -> dict[str, Any]:
    reading, tail = check.reading, check.reading.unfinished
    size = sum(reading.lengths.values())
    return {
        "schema": 1,
        "journal": str(upkeep.directory),
        "clean": not damage,
        "segments": len(reading.lengths),
        "records": reading.count,
        "bytes": size,
        "tasks": check.counts(),
        "cleaning_gains_bytes": None if damage else _gain(check, upkeep, size),
        "unfinished": tail and _bad_place(Place(tail.segment, tail.offset), tail.length, tail.reason),
        "unused_segments": [f"{number:08d}.jsonl" for number in reading.idle],
        "side_files": _side_files(upkeep),
        "quarantine": _quarantine(upkeep),
        "damage": damage,
    }


def _gain(check: _Check, upkeep: Upkeep, size: int) -> int | None:
    """Bytes that `clean` would give back now; found by doing the same in memory."""
    if upkeep.id_ttl_s == float("inf"):
        return None
    _clean_all(check.queue)
    return max(0, size - check.journal.size_bytes)


def _side_files(upkeep: Upkeep) -> list[dict[str, Any]]:
    return [found for side in side_files(upkeep.directory, upkeep.osio) if (found := _side_file(side, upkeep))]


def _side_file(side: SidePath, upkeep: Upkeep) -> dict[str, Any] | None:
    """One of them; None when it is gone. `ended` is None while its worker lives."""
    found: dict[str, Any] = {"name": side.path.name, "ended": None, "outcomes": 0, "problem": ""}
    try:
        report = read_side_file(side.path, upkeep.osio)
    except NewerVersion:
        raise
    except JournalDown as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        found["problem"] = str(error)
        return found
    if report is not None:
        found |= {"ended": report.ended, "outcomes": len(report.outcomes)}
        if bad_side_lines(side, upkeep.osio):
            found["problem"] = "bad lines: the next daemon takes the others and counts the submits of these as unknown"
    return found


def _quarantine(upkeep: Upkeep) -> list[dict[str, Any]]:
    place = upkeep.directory / QUARANTINE_NAME
    found = []
    try:
        for name in sorted(upkeep.osio.listdir(place)):
            found.append({"name": name, "bytes": upkeep.osio.stat(place / name).st_size})
    except FileNotFoundError:
        pass  # there is none; or an entry went meanwhile, and then the rest is not worth a second look
    except OSError as error:
        raise JournalDown(f"cannot list {place}: {error_text(error)}") from error
    return found


# ---------------------------------------------------------------- clean


def clean(upkeep: Upkeep) -> dict[str, Any]:
    """Forget and clean all that is due, at once. Durable on return.

    Raises LockHeld while a daemon runs, NeedsOperator when the journal is damaged, JournalDown when it takes no write.
    """
    upkeep.demand_journal()
    journal = upkeep.open("it cleans by itself, there is nothing to do")
    try:
        queue = upkeep.queue(journal)
        queue.replay()
        if journal.holes or queue.broken:
            # Afterwards nobody could name the tasks that the bad bytes are of.
            raise NeedsOperator("the journal has damaged places, and cleaning would drop them", hint=REPAIR_HINT)
        before, segments = journal.size_bytes, len(journal.segments())
        forgotten = _clean_all(queue)
        return {
            "schema": 1,
            "bytes_before": before,
            "bytes_after": journal.size_bytes,
            "segments_before": segments,
            "segments_after": len(journal.segments()),
            "forgotten": forgotten,
        }
    finally:
        journal.close()


def _clean_all(queue: Queue) -> int:
    """Forget what is due, and clean every segment but the newest one. Returns how many were forgotten.

    Raises JournalDown.
    """
    tasks = sum(queue.view.states.values())
    for _ in range(tasks // _BUDGET + 1):
        queue.forget(_BUDGET)
        _commit(queue)
    forgotten = tasks - sum(queue.view.states.values())
    queue.clean_all()
    _commit(queue)
    return forgotten


def _commit(queue: Queue) -> None:
    queue.commit()
    if queue.down_reason:
        raise JournalDown(queue.down_reason, hint="nothing is lost; make room and try again")


# ---------------------------------------------------------------- export


class Export:
    """All records as lines of plain JSON, those since `since` (UTC seconds) if that is given.

    A record without a time of its own has the time of the one before it.
    """

    def __init__(self, upkeep: Upkeep, since: float | None = None) -> None:
        upkeep.demand_journal()
        self._reading = Reading(upkeep.directory, upkeep.osio)
        self._since = float("-inf") if since is None else since

    def lines(self) -> Iterator[bytes]:
        """One record a line. Holds one segment in memory. Raises NewerVersion, JournalDown."""
        at = float("-inf")
        for record in self._reading.records():
            stamp = record.fields.get("t")
            at = stamp if isinstance(stamp, int | float) else at
            if at >= self._since:
                yield _line(record)

    @property
    def left_out(self) -> int:
        """Bad places that were met, when all lines are out."""
        return len(self._reading.holes) + len(self._reading.lost)


def _line(record: Record) -> bytes:
    at = {"at": f"{record.segment:08d}:{record.offset:010d}", "k": record.kind}
    text = json.dumps(at | record.fields, separators=(",", ":")).encode("ascii")
    return text + b"\n" if record.payload is None else b'%b,"p":%b}\n' % (text[:-1], record.payload)


# ---------------------------------------------------------------- repair


def repair(upkeep: Upkeep, *, dry_run: bool = False) -> dict[str, Any]:
    """Make the journal whole. Durable on return; may be killed anywhere and run again. Destroys nothing.

    Raises LockHeld while a daemon runs, NewerVersion before anything is changed, TryLater while a worker of the last
    daemon still has something to say, JournalDown when the disk refuses.
    """
    upkeep.demand_journal()
    journal = upkeep.open("stop it first: systemctl stop captchad, or kill -TERM the pid")
    try:
        return {"schema": 1, "journal": str(upkeep.directory), "dry_run": dry_run, **_repair(upkeep, dry_run=dry_run)}
    except OSError as error:
        message = f"the repair could not go on: {error_text(error)}"
        hint = "nothing is lost: make room, or mend the disk, and run it again"
        raise JournalDown(message, hint=hint) from error
    finally:
        journal.close()


def _repair(upkeep: Upkeep, *, dry_run: bool) -> dict[str, Any]:
    rebuild = Rebuild(upkeep.directory, upkeep.osio, upkeep.clock, upkeep.segment_bytes)
    unfinished, resumed = bool(left_over(upkeep.directory, upkeep.osio)), False
    if unfinished:
        with closing(_Check(upkeep)) as check:
            check.run()  # raises NewerVersion before anything is changed
            if dry_run:
                nothing: dict[str, Any] = {"moved": [], "held": [], "lost": []}
                return {"unfinished": True, "resumed": False, "damage": check.damage(), **nothing}
        resumed = rebuild.resume()
    with closing(_Check(upkeep)) as check:
        check.run()
        done = _Repair(upkeep, check, rebuild).run(dry_run=dry_run)
    return {"unfinished": unfinished, "resumed": resumed, **done}


class _Repair:
    """One run, under the lock, of a journal that was looked through."""

    def __init__(self, upkeep: Upkeep, check: _Check, rebuild: Rebuild) -> None:
        self._upkeep = upkeep
        self._check = check
        self._rebuild = rebuild
        self._lost: list[str] = []

    def run(self, *, dry_run: bool) -> dict[str, Any]:
        """Do it, or say what would be done. Raises OSError."""
        rebuild, damage = self._rebuild, self._check.damage()
        first = self._check.first_bad()
        held: list[str] = []
        if first:
            moved = self._doomed(first)
            held = self._hold()
            if not dry_run:
                rebuild.run(self._drafts(first), self._behind(first))
        else:
            moved = [f"{number:08d}.jsonl" for number in self._idle()]
            if moved and not dry_run:
                rebuild.clear(self._idle())
        return {"damage": damage, "moved": moved if dry_run else rebuild.moved, "held": held, "lost": self._lost}

    def _idle(self) -> list[int]:
        """Segments that no header names, older than the last one. Newer ones are the matter of the daemon's start."""
        reading = self._check.reading
        return [number for number in reading.idle if number < max(reading.lengths, default=0)]

    def _doomed(self, first: int) -> list[str]:
        reading = self._check.reading
        numbers = {number for number in reading.lengths if number >= first} | set(reading.idle)
        return [f"{number:08d}.jsonl" for number in sorted(numbers)]

    def _behind(self, first: int) -> Place:
        """The end of what stays as it is."""
        lengths = self._check.reading.lengths
        last = max((number for number in lengths if number < first), default=0)
        return Place(last, lengths.get(last, 0))

    def _drafts(self, first: int) -> Iterator[Draft]:
        """What stands from segment `first` on, without what says nothing, then what is new."""
        check = self._check
        for record in Reading(self._upkeep.directory, self._upkeep.osio).records():
            place = Place(record.segment, record.offset)
            if place.segment < first or place in check.unwanted or _task_id(record) in check.orphans:
                continue
            if place in check.forgotten:
                yield check.forgotten[place]
            yield draft(record.kind, record.fields, record.payload)
        yield from check.journal.drafts()

    def _hold(self) -> list[str]:
        """Stage what keeps doubtful tasks from being submitted again. Returns the ids of those that are held by it."""
        queue = self._check.queue
        queue.broken = self._doubtful() - set(queue.view.tasks.ids(State.HELD))
        queue.hold_broken()
        self._hold_submits()
        held = [task_id for task_id in sorted(queue.broken) if queue.view.tasks.state(task_id) is State.HELD]
        # Counters and numbers go on from where they are, whatever the records said that are not there any more.
        epochs = [attempt.worker[0] for attempt in queue.view.attempts.values()]
        queue.stage("epoch", {"epoch": max([queue.view.epoch, *epochs]), "t": self._upkeep.clock.time()})
        for day in queue.view.bill.records_for(math.inf):
            queue.stage("bill", day)
        for log in queue.view.crew.records_for(math.inf):
            queue.stage("crew_log", log)
        queue.stage("totals", queue.view.sums())
        return held

    def _hold_submits(self) -> None:
        """Hold the doubtful tasks with a submit under way that no side file will answer for."""
        queue = self._check.queue
        sides = {(side.epoch, side.number): side for side in side_files(self._upkeep.directory, self._upkeep.osio)}
        for task_id in sorted(queue.broken):
            if queue.view.tasks.state(task_id) is not State.SUBMITTING:
                continue
            n = queue.view.tasks[task_id].n
            attempt = queue.view.attempts.get(n)
            side = None if attempt is None else sides.get(attempt.worker)
            if side is None or n not in self._answered(side):
                queue.unknown(n, "its history has a hole", by_crash=True)

    def _answered(self, side: SidePath) -> set[int]:
        """The submits that a side file says the outcome of."""
        report = read_side_file(side.path, self._upkeep.osio)
        if report is None:
            raise TryLater(
                f"a worker of the last daemon still ends its submits ({side.path.name})",
                hint="it takes at most provider.submit_s: run it again in a minute",
            )
        return {outcome["n"] for outcome in report.outcomes if isinstance(outcome.get("n"), int)}

    def _doubtful(self) -> set[str]:
        """The tasks whose history has a hole. Notes those that are lost altogether."""
        check = self._check
        doubt = _Doubt(self._upkeep, check)
        self._lost = sorted({*check.orphans, *doubt.lost})
        found = {task_id for task_id, place in check.whole.items() if place < doubt.edge}
        found |= {task_id for task_id, place in doubt.named.items() if check.whole.get(task_id, place) < place}
        return found | {misfit.task_id for misfit in check.misfits if misfit.place not in check.forgotten}


class _Doubt:
    """What the damaged places say of the tasks that they are about.

    `named` are ids that stand there, and where. Every task accepted before `edge` may have a hole in its history: what
    is damaged there has no readable id, and a submit may be among it. It is not when the numbers of the submits go on
    behind it where they were before it. `lost` are tasks whose `accept` was damaged.
    """

    def __init__(self, upkeep: Upkeep, check: _Check) -> None:
        self.named: dict[str, Place] = {}
        self.lost: set[str] = set()
        self._blind: list[Place] = []  # in order
        for hole in check.reading.holes:
            self._look_into(hole, hole_bytes(upkeep.directory, hole, upkeep.osio), check)
        if self._blind or self.lost:
            self._seek_evidence(Reading(upkeep.directory, upkeep.osio).records())
        self.edge = max([Place(number, 0) for number in check.reading.gaps] + self._blind, default=_NOWHERE)

    def _look_into(self, hole: Hole, data: bytes, check: _Check) -> None:
        place = Place(hole.segment, hole.offset)
        blind = len(data) < hole.length
        for line in filter(None, data.split(b"\n")):
            ids = _ids(line)
            known = [task_id for task_id in ids if check.queue.view.tasks.state(task_id) is not None]
            self.named.update(dict.fromkeys(known, place))
            if _ACCEPT.search(line):
                self.lost |= ids.difference(known)
            blind = blind or not (known or _NO_TASK.search(line))
        if blind and not (hole.offset == 0 and hole.length < _HEAD_ALONE):
            self._blind.append(place)

    def _seek_evidence(self, records: Iterable[Record]) -> None:
        """Clear the places where no submit can be lost, and the tasks that were forgotten later."""
        last_n = 0
        ahead, self._blind = self._blind, []
        waiting: list[tuple[Place, int]] = []  # places that are passed, and the greatest number before them
        for record in records:
            place = Place(record.segment, record.offset)
            while ahead and ahead[0] < place:
                waiting.append((ahead.pop(0), last_n))
            n = record.fields.get("n")
            if record.kind == Kind.SUBMITTING and type(n) is int:
                self._blind += [each for each, before in waiting if n != before + 1]
                waiting = []
            last_n = max(last_n, n) if type(n) is int else last_n
            if record.kind == Kind.FORGET:
                self.lost.discard(_task_id(record))
        self._blind += [each for each, _ in waiting] + ahead
