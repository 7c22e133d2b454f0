"""What the application has done and what the world was told, and how a recovered queue may differ from it.

The application stages records in an order. `acked` of them the world was told about. Whatever happens, a next life must
find what a run of the first of them makes: at least the acknowledged ones, at most the staged ones. Beside that stand
plain facts, counted from the records without the view: which tasks were accepted, how they ended, what was charged.
"""

__all__ = ["Breach", "Logged", "Seen", "World", "known_payload", "seen"]

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from captchad.journal.records import Draft, Entry, Place, Record, encode, record_at
from captchad.queue.crewlog import DEATHS
from captchad.queue.view import View

#: How a record ends a task.
_ENDS = {"solved": "solved", "dead": "dead", "expired": "expired", "cancelled": "cancelled"}


class Logged(NamedTuple):
    """A record as it was staged."""

    kind: str
    ready: Draft

    def record(self, number: int = 1) -> Record:
        """As it would be read as record `number` of a journal in which every record takes one byte."""
        line = encode(self.ready, place := Place(1, number))
        record = record_at(line, 0, len(line) - 1, place)
        if record is None:
            raise ValueError(f"a {self.kind} record that cannot be read")
        return record

    @property
    def fields(self) -> dict[str, Any]:
        return self.record().fields


class Breach(NamedTuple):
    """What is wrong, and the name of the check that found it."""

    check: str
    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What a life finds: a digest of all of it, of each task its state and its charges, and which workers have died."""

    digest: bytes
    tasks: dict[str, tuple[str, int]]
    dead: frozenset[int]  # their pids: no two are the same in a story


def seen(view: View) -> Seen:
    """What `view` shows. In which order some wait for the same leader counts for nothing."""
    known = view.fingerprint()
    known["followers"] = {leader: sorted(ids) for leader, ids in known["followers"].items()}
    text = json.dumps([view.epoch, known], sort_keys=True)
    tasks = {task_id: (str(task["state"]), int(task.get("charges", 0))) for task_id, task in known["tasks"].items()}
    dead = frozenset(death["pid"] for death in view.crew.deaths())
    return Seen(hashlib.blake2b(text.encode(), digest_size=12).digest(), tasks, dead)


@dataclass(slots=True)
class Facts:
    """What some records say, counted without the view."""

    accepted: set[str] = field(default_factory=set)
    ended: dict[str, str] = field(default_factory=dict)
    charged: dict[int, str] = field(default_factory=dict)  # attempt -> task
    dead: list[int] = field(default_factory=list)  # pids of workers, in the order in which they died

    def add(self, kind: str, data: dict[str, Any]) -> None:
        task_id = data.get("id", "")
        if kind == "accept":
            self.accepted.add(task_id)
        elif kind == "forget":
            self.accepted.discard(task_id)
            self.ended.pop(task_id, None)
        elif kind == "redrive":
            self.ended.pop(task_id, None)
        elif kind == "submitted":
            self.charged[data["n"]] = task_id
        elif kind == "crew" and data["do"] == "death":
            self.dead.append(data["pid"])
        elif kind in _ENDS:
            self.ended.setdefault(task_id, _ENDS[kind])  # the first end counts


class World:
    """Told by the application while it runs, or told again by a list of notes."""

    def __init__(self) -> None:
        self.log: list[Logged] = []
        self.acked = 0
        self.begun: set[int] = set()  # attempts whose submit may have reached the provider
        self.paid: dict[int, str] = {}  # attempt -> task: what the provider has charged
        self.said: set[int] = set()  # charges that a dead worker's side file tells, which is synced
        self.kept: dict[str, bytes] = {}  # what was set aside in quarantine
        self._facts = Facts()
        self._counted = 0  # how many records `_facts` has
        self._shadow = View(self._read)  # what the first `_shown` records make
        self._shown = 0
        self._digests: dict[int, bytes] = {}  # after so many records

    def tell(self, what: str, value: Any) -> None:
        """`what` is staged, acked, replayed, begun, paid, said or kept."""
        match what:
            case "staged":
                self.log.append(value)
            case "acked":
                self.acked = max(self.acked, value)
            case "replayed":
                self._replayed(value)
            case "begun":
                self.begun.add(value)
            case "paid":
                self.paid[value[0]] = value[1]
            case "said":
                self.said |= set(value)
            case "kept":
                self.kept |= value
            case _:
                raise ValueError(what)

    def copy(self) -> "World":
        """Another one that knows the same."""
        other = World()
        other.log, other.acked = list(self.log), self.acked
        other.begun, other.paid, other.said, other.kept = (
            set(self.begun),
            dict(self.paid),
            set(self.said),
            dict(self.kept),
        )
        return other

    def _replayed(self, count: int) -> None:
        """A life has found the first `count` records, and acts on them."""
        del self.log[count:]
        self.acked = count
        self._digests = {}
        if self._shown > count:
            self._shadow, self._shown = View(self._read), 0

    def position(self, found: Seen) -> int | None:
        """How many of the records `found` has; None when it is none of the legal runs."""
        legal = range(self.acked, len(self.log) + 1)
        return next((count for count in legal if self._digest(count) == found.digest), None)

    def _digest(self, count: int) -> bytes:
        known = self._digests.get(count)
        if known is not None:
            return known
        if self._shown > count:
            self._shadow, self._shown = View(self._read), 0
        for index in range(self._shown, count):
            self._shadow.replay(self.log[index].record(index))
        self._shown = count
        return self._digests.setdefault(count, seen(self._shadow).digest)

    def _read(self, entry: Entry) -> Record:
        return self.log[entry.offset].record(entry.offset)

    def breach(self, found: Seen) -> Breach | None:
        """How `found`, just recovered, breaks what the world was told."""
        facts = self._acknowledged()
        undone = {data["id"] for kind, data in self._open_records() if kind in ("forget", "redrive")}
        for task_id in facts.accepted - undone:
            if task_id not in found.tasks:
                return Breach("task missing", task_id)
        for task_id, end in facts.ended.items():
            state = found.tasks[task_id][0] if task_id in found.tasks else None
            if task_id not in undone and state != end:
                return Breach("ended task alive", f"{task_id} was {end}, is {state}")
        # Later deaths may have taken the places of the first of them.
        later = sum(kind == "crew" and data["do"] == "death" for kind, data in self._open_records())
        first = max(0, len(facts.dead) - max(0, DEATHS - later))
        if lost := set(facts.dead[first:]) - found.dead:
            return Breach("death of a worker forgotten", f"{sorted(lost)}")
        if breach := self.misses_charges(found, said=False):
            return breach
        if self.position(found) is None:
            return Breach("no legal run of records", f"{self.acked} acknowledged, {len(self.log)} staged")
        return None

    def misses_charges(self, found: Seen, *, said: bool) -> Breach | None:
        """Whether each charge that was told (`said`: in a side file, too) is counted, once, and none that never was."""
        told = self._acknowledged().charged | {n: self.paid[n] for n in self.said if said}
        for task_id, (_, charges) in found.tasks.items():
            least = sum(each == task_id for each in told.values())
            most = sum(each == task_id for each in self.paid.values())
            if not least <= charges <= max(least, most):
                return Breach("charge lost or doubled", f"{task_id}: {charges}, told {least}, paid {most}")
        return None

    def _acknowledged(self) -> Facts:
        if self._counted > self.acked:
            self._facts, self._counted = Facts(), 0
        for logged in self.log[self._counted : self.acked]:
            self._facts.add(logged.kind, logged.fields)
        self._counted = self.acked
        return self._facts

    def _open_records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What is staged and not acknowledged."""
        return ((logged.kind, logged.fields) for logged in self.log[self.acked :])


def known_payload(record: Record) -> tuple[str, str]:
    """A key under which a payload may stand: of a task, or of its answer."""
    return "answer" if record.kind in ("solved", "keep_answer") else "task", record.fields["id"]
