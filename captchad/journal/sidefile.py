"""Side files: the last words of a worker whose parent is gone.

Each worker owns `workers/EPOCH-N.jsonl` and holds a flock on it for life; so a lock that can be taken says that the
worker is dead. At its end it writes every outcome that nobody has confirmed, and behind them one `end` line with their
count. With it, what is not named there never began; without it, that is not known.

The file is there for an instant before its lock. Whoever reads it then finds no outcomes and no `end`, which is true:
no task is given to a worker before it has its side file.
"""

__all__ = ["WORKERS_NAME", "SideFile", "SidePath", "SideReport", "read_side_file", "remove_side_files", "side_files"]

import fcntl
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from captchad.journal.osio import NO_SPACE, Os, error_text, make_directory, read_file, sync_directory
from captchad.journal.records import VERSION, Draft, Line, Place, draft, encode
from captchad.journal.segments import SEGMENT_BYTES_MAX, spans
from captchad.journal.writer import LogFile
from captchad.model.errors import JournalDown, LockHeld, NewerVersion, RecordTooLarge

#: The directory, beside the segments, of the side files.
WORKERS_NAME: Final = "workers"

_HEAD = "side"
_OUT = "out"
_END = "end"
_NAME = re.compile(r"([0-9]{1,18})-([0-9]{1,8})\.jsonl")
_LAST_NUMBER = 99_999_999


class SidePath(NamedTuple):
    """Where the side file of worker `number` of daemon start `epoch` is."""

    epoch: int
    number: int
    path: Path


@dataclass(frozen=True, slots=True)
class SideReport:
    """What a dead worker left. `ended`: it said all that it knew, so what is not named never began."""

    epoch: int
    number: int
    outcomes: list[dict[str, Any]]
    ended: bool


class SideFile:
    """The side file of this process. `reserved` says whether the disk had room for its preallocation."""

    def __init__(self, log: LogFile, epoch: int) -> None:
        self.reserved = False
        self._log = log
        self._epoch = epoch
        self._finished = False

    @classmethod
    def create(
        cls, directory: Path, epoch: int, number: int, *, osio: Os | None = None, preallocate: int = 256 << 10
    ) -> "SideFile":
        """Make, lock and sync the side file in the journal at `directory`. Its name is durable on return.

        On a full disk the file may be empty and nothing reserved: the lock is what matters, and `finish` tries again.
        Raises JournalDown, also when there is such a file already; LockHeld when somebody was quicker to lock it.
        """
        if epoch < 0 or not 0 <= number <= _LAST_NUMBER:
            raise ValueError(f"not a side file's name: {epoch}-{number}")
        system = osio or Os()
        path = directory / WORKERS_NAME / f"{epoch}-{number}.jsonl"
        try:
            fd = _create_file(system, path)
        except OSError as error:
            raise JournalDown(f"cannot make side file {path.name}: {error_text(error)}") from error
        try:
            system.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            made = cls(LogFile(system, path, number, fd), epoch)
            made._begin(system, preallocate)
        except OSError as error:
            system.close(fd)
            with suppress(OSError):
                system.unlink(path)
            if isinstance(error, BlockingIOError):
                raise LockHeld(f"side file {path.name} is being read") from error
            raise JournalDown(f"cannot make side file {path.name}: {error_text(error)}") from error
        return made

    def finish(self, outcomes: Sequence[Mapping[str, Any]]) -> None:
        """Write all `outcomes` and the `end` line with one write; durable on return. Once only.

        Raises JournalDown; then no `end` counts, and it may be tried again unless a sync has failed. An outcome that
        cannot be written (RecordTooLarge, ValueError, TypeError) is raised when the others are durable, without `end`.
        """
        if self._finished or self._log.poisoned:
            raise JournalDown("the side file is closed: it was finished, or its sync has failed")
        ready: list[Draft] = []
        refused: Exception | None = None
        for outcome in outcomes:
            try:
                ready.append(draft(_OUT, outcome))
            except (RecordTooLarge, ValueError, TypeError) as error:
                refused = error
        if refused is None:
            ready.append(draft(_END, {"count": len(ready), "epoch": self._epoch}))
        try:
            self._put(ready if self._log.synced else [self._head(), *ready])
        except OSError as error:
            raise JournalDown(f"cannot write the side file: {error_text(error)}") from error
        self._finished = True
        if refused is not None:
            raise refused

    def fileno(self) -> int:
        """The descriptor that holds the lock."""
        return self._log.fd

    def close(self) -> None:
        """Give the lock back, as the death of the process does."""
        self._log.close()

    def _begin(self, osio: Os, preallocate: int) -> None:
        try:
            self.reserved = self._log.preallocate(preallocate)
            self._put([self._head()])
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
        sync_directory(osio, self._log.path.parent)

    def _head(self) -> Draft:
        return draft(_HEAD, {"v": VERSION, "epoch": self._epoch, "pid": os.getpid()})

    def _put(self, ready: Sequence[Draft]) -> None:
        lines: list[bytes] = []
        offset = self._log.synced
        for each in ready:
            lines.append(encode(each, Place(self._log.number, offset)))
            offset += len(lines[-1])
        self._log.put(b"".join(lines), with_inode=True)


def side_files(directory: Path, osio: Os | None = None) -> list[SidePath]:
    """The side files of the journal at `directory`, oldest first. Raises JournalDown."""
    place = directory / WORKERS_NAME
    try:
        names = (osio or Os()).listdir(place)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalDown(f"cannot list {place}: {error_text(error)}") from error
    found = (_NAME.fullmatch(name) for name in names)
    return sorted(SidePath(int(match[1]), int(match[2]), place / match[0]) for match in found if match)


def read_side_file(path: Path, osio: Os | None = None) -> SideReport | None:
    """What its worker left; None while that lives. Torn and bad lines are left out, whatever their bytes.

    Raises NewerVersion; JournalDown when the file is not there or cannot be read; ValueError for another file's name.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"not a side file: {path.name}")
    try:
        data = _read_unlocked(osio or Os(), path)
    except OSError as error:
        raise JournalDown(f"cannot read side file {path.name}: {error_text(error)}") from error
    return None if data is None else _report(data, int(match[1]), int(match[2]))


def remove_side_files(paths: Sequence[Path], osio: Os | None = None) -> None:
    """Remove side files of one directory; durable on return. One that is gone is no error. Raises JournalDown."""
    system = osio or Os()
    try:
        for path in paths:
            with suppress(FileNotFoundError):
                system.unlink(path)
        if paths:
            sync_directory(system, paths[0].parent)
    except OSError as error:
        raise JournalDown(f"cannot remove side files: {error_text(error)}") from error


def _create_file(osio: Os, path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND
    try:
        return osio.open(path, flags)
    except FileNotFoundError:
        make_directory(osio, path.parent)
        return osio.open(path, flags)


def _read_unlocked(osio: Os, path: Path) -> bytes | None:
    fd = osio.open(path, os.O_RDONLY)
    try:
        osio.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return read_file(osio, fd, SEGMENT_BYTES_MAX)
    except BlockingIOError:
        return None
    finally:
        osio.close(fd)


def _report(data: bytes, epoch: int, number: int) -> SideReport:
    outcomes: list[dict[str, Any]] = []
    for span in spans(data, number, 0, len(data)):
        line = span.line
        if not isinstance(line, Line):
            continue
        if line.kind == _HEAD:
            _demand_version(line, epoch, number)
        elif line.kind == _OUT:
            outcomes.append(line.fields)
        elif line.kind == _END:
            whole = line.fields.get("count") == len(outcomes) and line.fields.get("epoch") == epoch
            return SideReport(epoch, number, outcomes, ended=whole)
    return SideReport(epoch, number, outcomes, ended=False)


def _demand_version(line: Line, epoch: int, number: int) -> None:
    version = line.fields.get("v")
    if type(version) is int and version > VERSION:
        raise NewerVersion(
            f"side file {epoch}-{number} has version {version}, this captchad knows {VERSION}",
            hint="run the captchad that wrote it, or a later one",
        )
