"""What a next life makes of a state of the disk, and whether that keeps what the world was told.

The state is laid out, read without the lock, recovered, recovered again, and worked on by another life. What comes of
it depends on the bytes alone; so it is done once for each directory, and only compared with the world again.
"""

__all__ = ["FAULTS", "Checker", "Tally", "contents", "taken_away"]

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from captchad.journal.places import RecordFiles
from captchad.journal.segments import HEAD_BYTES, parse_head
from captchad.journal.store import ReadReport, read_all
from captchad.model.errors import CaptchadError
from captchad.policy.lifecycle import Kind, NotAllowed
from captchad.queue import upkeep
from captchad.queue.queue import Queue
from captchad.queue.upkeep import Upkeep
from captchad.queue.view import View
from tests.crash.cast import SEGMENT_BYTES, later_parent
from tests.crash.world import Breach, Logged, Seen, World, known_payload, seen
from tests.journal.model import State, lay_out

#: How a journal, or a queue on it, shows that something is wrong.
FAULTS = (CaptchadError, NotAllowed, AssertionError, ValueError, LookupError, TypeError, AttributeError, OSError)


@dataclass(slots=True)
class Tally:
    """How much was tried: states, different directories among them, different states of the queue found in them."""

    states: int = 0
    directories: set[bytes] = field(default_factory=set)
    recovered: set[bytes] = field(default_factory=set)

    def add(self, other: "Tally") -> None:
        self.states += other.states
        self.directories |= other.directories
        self.recovered |= other.recovered

    def __str__(self) -> str:
        return f"{self.states} states, {len(self.directories)} directories, {len(self.recovered)} recovered states"


@dataclass(frozen=True, slots=True)
class _Recovered:
    """What the first life after the crash found, and left."""

    found: Seen
    left: bytes  # a name for what it left


@dataclass(frozen=True, slots=True)
class _Later:
    """What a whole life after that came to: what it saw when all last words were taken in, and what never began."""

    found: Seen
    never_began: tuple[int, ...]


class Checker:
    """Works in the directory `scratch`, which it makes and removes.

    Every state is recovered; every `read_every`th is read without the lock before that.
    """

    def __init__(self, scratch: Path, read_every: int = 1) -> None:
        self.tally = Tally()
        self._read_every = read_every
        self._root = scratch
        self._directory = scratch / "journal"
        self._payloads: dict[tuple[str, str], set[bytes]] = {}
        self._recovered: dict[bytes, _Recovered | Breach] = {}
        self._later: dict[bytes, _Later | Breach] = {}
        self._known: dict[bytes, Seen] = {}

    def know(self, payloads: Mapping[tuple[str, str], set[bytes]]) -> None:
        """What was written, and may be found."""
        for key, known in payloads.items():
            self._payloads.setdefault(key, set()).update(known)

    def check(self, state: State, world: World) -> Breach | None:
        """What is wrong with what becomes of `state`, when that was told to the world."""
        name = _name_of(state)
        self.tally.states += 1
        self.tally.directories.add(name)
        first = self._recovered.get(name)
        if first is None:
            first = self._recovered[name] = self._try(state)
        if isinstance(first, Breach):
            return first
        self.tally.recovered.add(first.found.digest)
        later = self._later[first.left]
        return (
            world.breach(first.found)
            or _not_kept(state, world)
            or (later if isinstance(later, Breach) else _misjudged(later, world))
        )

    def _try(self, state: State) -> _Recovered | Breach:
        lay_out(state, self._root)
        try:
            return self._recover(state)
        except FAULTS as error:
            return Breach("raised", repr(error))
        finally:
            shutil.rmtree(self._root)

    def _recover(self, state: State) -> _Recovered | Breach:
        read = self._read_only() if self.tally.states % self._read_every == 0 else None
        if isinstance(read, Breach):
            return read
        with later_parent(self._directory) as parent:
            found = self._same(parent.seen())
            parent.journal.close()
        if parent.queue.broken or parent.journal.holes:
            return Breach("damage", f"{parent.queue.broken} {parent.journal.holes}")
        if read is not None and read != found:
            return Breach("readers differ", "replay does not find what the reader finds")
        after = contents(self._root)
        if lost := taken_away(state, after):
            return lost
        left = _name_of({path: data for path, data in after.items() if "/quarantine" not in path})
        if left not in self._later:
            self._later[left] = self._live_on(found)
        return _Recovered(found, left)

    def _read_only(self) -> Seen | Breach:
        """As `captchactl` reads; and now and then as its `journal verify` does, which must name no more than a tail."""
        report = ReadReport()
        view = View(RecordFiles(self._directory).read)
        for record in read_all(self._directory, report=report, lazy=View.LAZY):
            view.replay(record)
            if record.payload is not None and record.payload not in self._payloads.get(known_payload(record), ()):
                return Breach("wrong record", f"{record.kind} at {record.entry}")
        if report.holes or report.missing:
            return Breach("damage", f"holes {report.holes}, missing {report.missing}")
        if self.tally.states % 10 == 0 and self._directory.exists():
            found = upkeep.verify(Upkeep(self._root, SEGMENT_BYTES))
            bad = [each for each in found["damage"] if not each["place"].startswith("workers/")]
            if bad or bool(found["unfinished"]) != bool(report.unfinished_bytes):
                return Breach("verify", f"{bad} {found['unfinished']} {report}")
        return self._same(seen(view))

    def _live_on(self, before: Seen) -> _Later | Breach:
        """A second recovery, a start, some work, and what a reader finds then."""
        with later_parent(self._directory) as parent:
            if parent.seen() != before:
                return Breach("second replay differs", "the same directory, twice read")
            staged: list[Logged] = []
            parent.journal.tell = lambda what, value: staged.append(value)
            if parent.start() or parent.queue.down_reason:
                return Breach("no new life", parent.queue.down_reason or "tasks are held")
            found = self._same(parent.seen())
            _work(parent.queue, parent.epoch)
            if parent.queue.down_reason:
                return Breach("no new life", parent.queue.down_reason)
            live = parent.seen()
            parent.journal.close()
        report = ReadReport()
        view = View(RecordFiles(self._directory).read)
        for record in read_all(self._directory, report=report, lazy=View.LAZY):
            view.replay(record)
        if seen(view) != live:
            return Breach("replay is not what was live", "after a new life")
        if report.holes or report.missing or report.unfinished_bytes:
            return Breach("damage", f"after a new life: {report}")
        fields = [logged.fields for logged in staged if logged.kind == Kind.NOT_SENT]
        return _Later(found, tuple(each["n"] for each in fields if each["why"] == "never began"))

    def _same(self, found: Seen) -> Seen:
        """One object for each thing that can be found."""
        return self._known.setdefault(found.digest, found)


def contents(root: Path) -> State:
    """What is below `root`."""
    found: State = {}
    for path, directories, files in os.walk(root):
        inside = f"{path}/"[len(str(root)) + 1 :]
        found |= dict.fromkeys((inside + name for name in directories), None)
        found |= {inside + name: Path(path, name).read_bytes() for name in files}
    return found


def _name_of(state: State) -> bytes:
    """The same for the same files. What the lock says of its last holder counts for nothing."""
    whole = hashlib.blake2b(digest_size=12)
    for path, data in sorted(state.items()):
        if data is not None and not path.endswith("lock"):
            whole.update(b"%b\0%d\0" % (path.encode(), len(data)))
            whole.update(data)
    return whole.digest()


def taken_away(before: State, after: State) -> Breach | None:
    """What a recovery has cut off, removed or written over, and not put into quarantine."""
    kept = [data for path, data in after.items() if path.endswith(".torn") and data]
    for path, data in before.items():
        if data is None or not path.endswith(".jsonl") or "/workers/" in path:
            continue
        left = after.get(path) or b""
        if left.startswith(data):
            continue
        if left[-1:] == b"\n" and data.startswith(left[:-1]):
            data = left + data[len(left) :]  # a newline in the place of another byte took nothing away
        gone = data[_same_bytes(data, left) :].strip(b"\0")
        stray = path not in after and parse_head(data[:HEAD_BYTES], int(Path(path).stem)) is not None
        if gone and not stray and not any(gone in each for each in kept):
            return Breach("bytes not kept", path)
    return None


def _same_bytes(one: bytes, other: bytes) -> int:
    """How many bytes are the same from the beginning on."""
    size = min(len(one), len(other))
    if one[:size] == other[:size]:
        return size
    return next(at for at in range(size) if one[at] != other[at])


def _not_kept(state: State, world: World) -> Breach | None:
    """Whether what an earlier recovery has set aside is still there."""
    lost = [path for path, data in world.kept.items() if state.get(path) != data]
    return Breach("quarantine lost", ", ".join(lost)) if lost else None


def _misjudged(later: _Later, world: World) -> Breach | None:
    """What a start makes of last words: each charge is counted, and nothing that began is said never to have begun."""
    if misjudged := set(later.never_began) & world.begun:
        return Breach("submit forgotten", f"{sorted(misjudged)} had begun")
    return world.misses_charges(later.found, said=True)


def _work(queue: Queue, epoch: int) -> None:
    """One task from its drop to its answer."""
    data = {
        "pr": 2, "ex": 1, "fp": "new", "org": "new", "src": "f.json", "line": 0,
        "m": "userrecaptcha", "h": "example.com", "dl": None,
    }  # fmt: skip
    queue.accept("new", data, b'{"id":"new"}')
    n = queue.order(queue.view.tasks["new"], "p", (epoch, 1), "k")
    queue.commit()
    queue.submitted(n, "c")
    queue.solved(n, {"token": "t", "answer": None, "extra": {}})
    queue.commit()
