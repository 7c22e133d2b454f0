"""`rejected/`: what could not be taken, each with a `.reason` file beside it.

Nothing leaves `incoming/` before its reason is on disk. A file is moved here as it is; of a batch only the bad tasks
are copied. When the file system takes no write everything stays where it is and the OSError goes to the caller.
"""

__all__ = ["MAX_BAD", "BadPieces", "Reason", "reject_file", "reject_pieces"]

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from captchad.model.errors import FixInput, TaskError
from captchad.spool.files import DIRECTORY, ChangedError, Identity, display, look, move_checked, write_all, write_new
from captchad.spool.pieces import Piece

#: After so many bad tasks the rest of a file is rejected unread: it is no batch of tasks.
MAX_BAD = 1000
_TRIES = 100  # names tried with a number before one is made from the file's identity
_LONGEST_BASE = 240  # leaves room for ".99.reason" in 255 bytes
_SLICE = 1 << 20
_MODE = 0o640


@dataclass(frozen=True, slots=True)
class Reason:
    """Why, in one word for counters and in full for the owner of the file."""

    word: str
    error: FixInput
    item: int = 0  # line of a .jsonl, index in an array; 0 is the file
    task_id: str = ""  # under which somebody may wait for it, as far as it can be known

    def document(self) -> dict[str, object]:
        """The reason as JSON: `error`, `hint`, and `line` and `column`, `key`, `id` as far as they are known."""
        made: dict[str, object] = {"error": str(self.error), "reason": self.word}
        if isinstance(self.error, TaskError):
            places = {"line": self.error.line, "column": self.error.column, "key": self.error.key}
            made.update({name: place for name, place in places.items() if place})
        if self.item:
            made["item"] = self.item
        if self.task_id:
            made["id"] = self.task_id
        made["hint"] = self.error.hint
        return made


class BadPieces:
    """The bad tasks of a file, by their place in it."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []
        self.reasons: list[Reason] = []

    @property
    def full(self) -> bool:
        return len(self.reasons) > MAX_BAD

    def add(self, piece: Piece, reason: Reason) -> None:
        """Note a bad task. Behind MAX_BAD of them all that follows counts as one."""
        if self.full:
            self.spans[-1] = (self.spans[-1][0], piece.end)
            return
        if len(self.reasons) == MAX_BAD:
            error = TaskError(f"not read: more than {MAX_BAD} bad tasks before it", line=piece.line)
            reason = Reason("unread", error, piece.number)  # nobody has looked for an id in it
        self.spans.append((piece.start, piece.end))
        self.reasons.append(reason)

    def document(self) -> dict[str, object]:
        """The first reason, and all of them as `errors`."""
        return {**self.reasons[0].document(), "errors": [reason.document() for reason in self.reasons]}


def reject_file(rejected: Path, incoming: int, name: bytes, file: Identity, document: dict[str, object]) -> bool:
    """Move a file to `rejected/` with its reason; both durable on return. False when the name is another file by now.

    Raises OSError, and then the file is where it was.
    """
    with _opened(rejected) as target:
        drop = _drop(name, file)
        slot = _slot(target, name, drop)
        _write_reason(target, slot, name, drop, document)
        moved = False
        try:
            moved = move_checked(incoming, name, target, slot, file)
        finally:
            if not moved:
                os.unlink(slot + b".reason", dir_fd=target)
        os.fsync(target)
        return moved


def reject_pieces(
    rejected: Path, source: int, name: bytes, file: Identity, bad: BadPieces, *, array: bool
) -> Iterator[None]:
    """Copy the bad tasks of the open file `source` to `rejected/`, slice by slice; durable at the end.

    Raises OSError and leaves nothing half-written under a final name; ChangedError when the file has shrunk.
    """
    with _opened(rejected) as target:
        drop = _drop(name, file)
        part = b".bad-" + drop.encode("ascii")
        try:
            write_new(target, part, b"", _MODE)
            yield from _copy(target, part, source, bad.spans, array=array)
            slot = _slot(target, name, drop)
            _write_reason(target, slot, name, drop, bad.document())
            os.rename(part, slot, src_dir_fd=target, dst_dir_fd=target)
            os.fsync(target)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(part, dir_fd=target)


def _copy(target: int, part: bytes, source: int, spans: list[tuple[int, int]], *, array: bool) -> Iterator[None]:
    begin, between, end = (b"[", b",\n", b"]\n") if array else (b"", b"\n", b"\n")
    fd = os.open(part, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
    try:
        write_all(fd, begin)
        unsynced = 0
        for number, (start, stop) in enumerate(spans):
            write_all(fd, between if number else b"")
            for offset in range(start, stop, _SLICE):
                data = _read_all(source, offset, min(stop, offset + _SLICE))
                write_all(fd, data)
                unsynced += len(data)
                if unsynced >= _SLICE:  # so that no single sync takes long
                    os.fdatasync(fd)
                    unsynced = 0
                yield
        write_all(fd, end)
        os.fsync(fd)
    finally:
        os.close(fd)


def _read_all(fd: int, start: int, end: int) -> bytes:
    data = os.pread(fd, end - start, start)
    if len(data) != end - start:
        raise ChangedError
    return data


def _write_reason(target: int, slot: bytes, name: bytes, drop: str, document: dict[str, object]) -> None:
    data = json.dumps({**document, "file": display(name), "drop": drop}, indent=1).encode("ascii") + b"\n"
    part = b".reason-" + drop.encode("ascii")
    try:
        write_new(target, part, data, _MODE)
        os.rename(part, slot + b".reason", src_dir_fd=target, dst_dir_fd=target)
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=target)
        raise


def _drop(name: bytes, file: Identity) -> str:
    """16 hex digits that name this drop, so that a rejection repeated after a crash takes the same place."""
    facts = b"%d\0%d\0" % (file.inode, file.mtime_ns)
    return hashlib.sha256(facts + name).hexdigest()[:16]


def _slot(target: int, name: bytes, drop: str) -> bytes:
    """A free name: NAME, NAME.1, …; a long name is cut, and kept apart by a digest.

    What somebody has called NAME.reason becomes NAME.reason.file: only captchad's own reasons have such names here.
    """
    base = name + b".file" if name.endswith(b".reason") else name
    if len(base) > _LONGEST_BASE:
        digest = hashlib.sha256(name).hexdigest()[:16].encode("ascii")
        base = name[: _LONGEST_BASE - len(digest) - 1] + b"-" + digest
    names = [base, *(base + b".%d" % number for number in range(1, _TRIES))]
    free = (each for each in names if _is_free(target, each, drop))
    return next(free, base[: _LONGEST_BASE - 17] + b"." + drop.encode("ascii"))


def _is_free(target: int, name: bytes, drop: str) -> bool:
    try:
        look(target, name)
    except FileNotFoundError:
        return True
    return _reason_drop(target, name) == drop


def _reason_drop(target: int, name: bytes) -> str:
    try:
        fd = os.open(name + b".reason", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=target)
    except OSError:  # no reason, or not ours to read: then the name is simply taken
        return ""
    try:
        tail = os.pread(fd, 64, max(0, os.fstat(fd).st_size - 64))
    finally:
        os.close(fd)
    return tail.partition(b'"drop": "')[2][:16].decode("ascii", "replace")


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)
