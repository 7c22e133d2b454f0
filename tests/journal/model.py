"""What a power cut may leave.

`RecordingOs` does every call and notes those that change the directory. `states` then stops after each note and asks
what the disk may hold: all that a sync covers, and any part of the rest. A write falls apart at block borders; the last
one may tear inside a block, with nothing, zeros or garbage behind the tear. A sync that failed has made nothing
durable, and what it should have covered stays in doubt whatever later syncs of that file say: the page cache shows it,
until it is dropped, and the disk does not have it.
"""

__all__ = ["BLOCK", "Note", "RecordingOs", "State", "Told", "any_byte", "few_bytes", "half", "lay_out", "states"]

import os
import random
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, count
from pathlib import Path
from typing import Any

from tests.journal.kit import HookOs

BLOCK = 4096

#: Paths to bytes, None for a directory.
State = dict[str, bytes | None]

#: Where a write of so many bytes tears, and how often the three tails come there: a byte, and the tails.
Tears = Callable[[int], Iterable[tuple[int, Sequence[str]]]]

TAILS = ("nothing", "zeros", "garbage")


@dataclass(frozen=True, slots=True)
class Note:
    """One change.

    `kind` is mkdir, create, unlink, write, cut, sync, syncdir, failed (a sync) or forget (what the cache has and the
    disk has not); `file` is an inode of ours.
    """

    kind: str
    path: str = ""
    file: int = 0
    offset: int = 0
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Told:
    """What the application said to the world, in between."""

    what: str
    value: Any


class RecordingOs(HookOs):
    """The kernel, and a list of what was done to it. Outlives the lives that use it."""

    def __init__(self, root: Path, failing_syncs: Sequence[int] = ()) -> None:
        super().__init__()
        self.notes: list[Note | Told] = []
        self.failing_next = 0  # so many syncs of files, beside those that are named by number
        self._root = root
        self._failing = failing_syncs
        self._syncs = 0
        self._files: dict[str, int] = {}
        self._sizes: dict[int, int] = {}
        self._open: dict[int, tuple[str, int]] = {}  # path, file; a directory is file 0
        self._numbers = count(1)
        self._disk = _Disk()

    def tell(self, what: str, value: Any) -> None:
        self.notes.append(Told(what, value))

    def around(self, name, args, call):
        if name in ("fsync", "fdatasync"):
            self._sync(args[0], call)
            return None
        result = call()
        note = getattr(self, f"_after_{name}", None)
        if note is not None:
            note(result, *args)
        return result

    def _note(self, note: Note) -> None:
        self.notes.append(note)
        self._disk.take(note)

    def _sync(self, fd, call):
        path, file = self._open[fd]
        if file:
            self._syncs += 1
            if self.failing_next or self._syncs in self._failing:
                self.failing_next = max(0, self.failing_next - 1)
                self._note(Note("failed", path, file))
                raise OSError(5, "Input/output error")
        call()
        self._note(Note("sync" if file else "syncdir", path, file))

    def _after_open(self, fd, path, flags, *mode):
        name = self._name(path)
        if flags & os.O_DIRECTORY:
            self._open[fd] = (name, 0)
            return
        if name not in self._files:
            self._files[name] = next(self._numbers)
            self._sizes[self._files[name]] = 0
            self._note(Note("create", name, self._files[name]))
        self._open[fd] = (name, self._files[name])

    def _after_write(self, done, fd, data):
        path, file = self._open[fd]
        if path.endswith("lock"):
            return
        self._note(Note("write", path, file, self._sizes[file], bytes(data[:done])))
        self._sizes[file] += done

    def _after_pwrite(self, done, fd, data, offset):
        path, file = self._open[fd]
        self._note(Note("write", path, file, offset, bytes(data[:done])))
        self._sizes[file] = max(self._sizes[file], offset + done)

    def _after_ftruncate(self, _, fd, size):
        path, file = self._open[fd]
        if path.endswith("lock") or size == self._sizes[file]:
            return  # the second gives back reserved space, and no byte changes
        self._sizes[file] = size
        self._note(Note("cut", path, file, size))

    def _after_unlink(self, _, path):
        name = self._name(path)
        self._files.pop(name, None)
        self._note(Note("unlink", name))

    def _after_mkdir(self, _, path, *mode):
        self._note(Note("mkdir", self._name(path)))

    def _after_rename(self, *_):
        raise NotImplementedError("the model knows no rename, and the journal uses none")

    def _after_drop_cache(self, _, fd):
        """The next read comes from the disk: bytes whose sync has failed are not there."""
        path, file = self._open[fd]
        if not self._disk.in_doubt(file):
            return
        self._note(Note("forget", path, file))
        content = self._disk.content(file)
        (self._root / path).write_bytes(content)
        self._sizes[file] = len(content)

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._root)).removeprefix(".")


@dataclass(slots=True, eq=False)
class _Change:
    note: Note
    durable: bool = False
    doomed: bool = False


@dataclass(slots=True)
class _Thing:
    """A file's bytes, or what a path names: what is durable for sure, and the changes since, in order.

    A path names an inode, a directory (0), or nothing (None).
    """

    base: Any
    changes: list[_Change] = field(default_factory=list)

    def settle(self) -> None:
        """Take the durable changes that no doubtful one precedes into the base."""
        settled = 0
        for change in self.changes:
            if not change.durable:
                break
            self.base = _apply(self.base, change.note)
            settled += 1
        del self.changes[:settled]

    def value(self, changes: Iterable[_Change]) -> Any:
        value = self.base
        for change in changes:
            value = _apply(value, change.note)
        return value


def _apply(value: Any, note: Note) -> Any:
    match note.kind:
        case "mkdir":
            return 0
        case "create":
            return note.file
        case "unlink":
            return None
    content = value[: note.offset] + bytes(max(0, note.offset - len(value))) + note.data
    return content if note.kind == "cut" else content + value[note.offset + len(note.data) :]


class _Disk:
    """What is durable after some notes, and what is not, in the order in which it was done."""

    def __init__(self) -> None:
        self._names: dict[str, _Thing] = {}
        self._files: dict[int, _Thing] = {}
        self._volatile: list[_Change] = []

    def take(self, note: Note) -> None:
        match note.kind:
            case "sync" | "failed" | "forget":
                self._synced(note)
            case "syncdir":
                for path, thing in self._names.items():
                    if _parent(path) == note.path:
                        was = thing.base
                        self._settle(thing, thing.changes)
                        if was and thing.base != was:
                            self._remove(was)
            case "write":
                self._add(self._file(note.file), [_Change(piece) for piece in _pieces(note)])
            case "cut":
                self._add(self._file(note.file), [_Change(note)])
            case _:
                self._add(self._names.setdefault(note.path, _Thing(None)), [_Change(note)])

    def in_doubt(self, file: int) -> bool:
        """Whether the page cache shows what the disk has not."""
        return any(change.doomed for change in self._file(file).changes)

    def content(self, file: int) -> bytes:
        """What the page cache has of a file: all of it, unless it was told to forget."""
        thing = self._file(file)
        return thing.value(thing.changes)

    def volatile(self) -> list[_Change]:
        return self._volatile

    def state(self, gone: Sequence[_Change] = (), torn: tuple[_Change, Note] | None = None) -> State:
        """What the disk holds without the changes in `gone`, and with another one for `torn`."""
        names = {path: self._value(thing, gone, None) for path, thing in self._names.items()}
        return {
            path: self._value(self._file(file), gone, torn) if file else None
            for path, file in names.items()
            if file is not None and path and _is_reachable(path, names)
        }

    @staticmethod
    def _value(thing: _Thing, gone: Sequence[_Change], torn: tuple[_Change, Note] | None) -> Any:
        if not thing.changes:
            return thing.base
        kept = (change for change in thing.changes if change not in gone)
        if torn is None:
            return thing.value(kept)
        return thing.value(_Change(torn[1]) if change is torn[0] else change for change in kept)

    def _file(self, file: int) -> _Thing:
        return self._files.setdefault(file, _Thing(b""))

    def _add(self, thing: _Thing, changes: list[_Change]) -> None:
        thing.changes += changes
        self._volatile += changes

    def _remove(self, file: int) -> None:
        """Its name is gone for good, and with it what was not durable."""
        gone = self._files.pop(file, _Thing(b""))
        self._volatile = [change for change in self._volatile if change not in gone.changes]

    def _synced(self, note: Note) -> None:
        thing = self._file(note.file)
        if note.kind == "forget":
            for change in [change for change in thing.changes if change.doomed]:
                thing.changes.remove(change)
                self._volatile.remove(change)
            return
        if note.kind == "failed":
            for change in thing.changes:
                change.doomed |= not change.durable
        self._settle(thing, [change for change in thing.changes if not change.doomed])

    def _settle(self, thing: _Thing, changes: Iterable[_Change]) -> None:
        for change in changes:
            if not change.durable:
                change.durable = True
                self._volatile.remove(change)
        thing.settle()


def states(
    notes: Sequence[Note | Told],
    seed: int,
    extra: int,
    tears: Tears | None = None,
    where: Container[int] | None = None,
) -> Iterator[tuple[int, State]]:
    """Each (how many notes had been made, what the disk may hold then).

    `tears` says in which places a write may tear that was just made; later it tears in one. `where` leaves out all
    numbers of notes but some. A state depends on nothing but the notes, the seed and `extra`.
    """
    disk = _Disk()
    for at in range(len(notes) + 1):
        fresh: list[_Change] = []
        if at and isinstance(note := notes[at - 1], Note):
            before = len(disk.volatile())
            disk.take(note)
            fresh = disk.volatile()[before:]
        if where is None or at in where:
            for state in _states(disk, fresh, random.Random(seed << 32 | at), extra, tears or few_bytes):
                yield at, state


def _states(disk: _Disk, fresh: list[_Change], chance: random.Random, extra: int, tears: Tears) -> Iterator[State]:
    volatile = disk.volatile()
    for lost in _choices(len(volatile), chance, extra):
        gone = [volatile[index] for index in lost]
        yield disk.state(gone)
        kept = [change for change in volatile if change not in gone]
        last = next((change for change in reversed(kept) if change.note.kind == "write"), None)
        if last is None:
            continue
        # In every place only once: when it has just been made, and all before it is there.
        in_order = len(kept) == volatile.index(last) + 1
        where = half if last not in fresh else tears if in_order else few_bytes
        for torn in _torn(last.note, chance, where):
            yield disk.state(gone, (last, torn))


def few_bytes(size: int) -> Iterator[tuple[int, Sequence[str]]]:
    """The first byte, the half, all but the last."""
    return ((length, TAILS) for length in sorted({1, size // 2, size - 1} - {0, size}))


def half(size: int) -> Iterator[tuple[int, Sequence[str]]]:
    """The half."""
    return ((length, TAILS) for length in {size // 2} - {0})


def any_byte(size: int) -> Iterator[tuple[int, Sequence[str]]]:
    """Each byte; of a small write with each tail, of a large one with one of them in turn."""
    return ((length, TAILS if size <= 200 else TAILS[length % 3 : length % 3 + 1]) for length in range(1, size))


def _torn(note: Note, chance: random.Random, tears: Tears) -> Iterator[Note]:
    for length, tails in tears(len(note.data)):
        rest = len(note.data) - length
        for tail in tails:
            behind = b"" if tail == "nothing" else bytes(rest) if tail == "zeros" else chance.randbytes(rest)
            yield Note("write", note.path, note.file, note.offset, note.data[:length] + behind)


def _pieces(note: Note) -> Iterator[Note]:
    begin = 0
    while begin < len(note.data):
        end = begin + BLOCK - (note.offset + begin) % BLOCK
        yield Note("write", note.path, note.file, note.offset + begin, note.data[begin:end])
        begin = end


def _choices(size: int, chance: random.Random, extra: int) -> Iterator[tuple[int, ...]]:
    """Which of `size` changes are lost: all subsets of a few; of many the plain ones, and `extra` by chance."""
    everything = tuple(range(size))
    if size <= 4:
        yield from chain.from_iterable(combinations(everything, length) for length in range(size + 1))
        return
    yield ()
    for index in everything:
        yield everything[index:]
        yield (index,)
        yield everything[:index] + everything[index + 1 :]
    for _ in range(extra):
        yield tuple(index for index in everything if chance.random() < 0.5)


def _is_reachable(path: str, names: dict[str, int | None]) -> bool:
    return not path or (names.get(path) is not None and _is_reachable(_parent(path), names))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def lay_out(state: State, root: Path) -> None:
    """Make `state` real below `root`."""
    root.mkdir()
    for path, data in sorted(state.items()):
        if data is None:
            (root / path).mkdir(exist_ok=True)
        else:
            (root / path).write_bytes(data)
