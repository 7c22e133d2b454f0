"""Reading the segments without the lock: for status with the daemon down, for verify and export.

Nothing is written, and a writer may be at work all the while. Which segments count, and how much of each but the last,
is found out once, at the beginning; their files are held open, so that what the writer drops meanwhile can still be
read. A segment that begins later is not read: part of what it says may stand in the last one already, given up there
and written anew.
"""

__all__ = ["ReadReport", "read_all"]

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from captchad.journal.osio import Os, error_text, read_file
from captchad.journal.records import Record
from captchad.journal.segments import (
    HEAD_BYTES,
    SEGMENT_BYTES_MAX,
    Chain,
    Head,
    Hole,
    Link,
    find_chain,
    good_end,
    list_segments,
    parse_head,
    read_records,
    segment_path,
)
from captchad.model.errors import JournalDown

# The writer drops the oldest ones. So many of them cannot be dropped while one is read.
_HELD: Final = 200

# Listing a directory is not one step: segments that come and go meanwhile may look like a gap.
_TRIES: Final = 20


@dataclass(slots=True)
class ReadReport:
    """What `read_all` met. Filled while it is read."""

    segments: int = 0
    records: int = 0
    size_bytes: int = 0  #: of what counts
    unfinished_bytes: int = 0  #: behind the last good record: a commit under way, or one that a crash cut short
    holes: list[Hole] = field(default_factory=list)  #: bad bytes that had been synced
    missing: list[int] = field(default_factory=list)  #: segments that are gone, or without a header


def read_all(
    directory: Path,
    osio: Os | None = None,
    *,
    report: ReadReport | None = None,
    lazy: frozenset[str] = frozenset(),
) -> Iterator[Record]:
    """Yield every good record in order. Takes no lock and writes nothing. Kinds in `lazy` are not parsed.

    All that was durable at the first step is there, each record once, whatever a writer does meanwhile; of what he has
    staged since, some may be there, without a gap. Damage is skipped and noted in `report`. Raises NewerVersion, and
    JournalDown when a file cannot be read.
    """
    reader = _Reader(directory, osio or Os(), report if report is not None else ReadReport(), lazy)
    try:
        yield from reader.run()
    finally:
        reader.close()


class _Reader:
    def __init__(self, directory: Path, osio: Os, report: ReadReport, lazy: frozenset[str]) -> None:
        self._lazy = lazy
        self._directory = directory
        self._os = osio
        self._report = report
        self._files: dict[int, int] = {}  # descriptors of segments that are still to be read

    def run(self) -> Iterator[Record]:
        chain = self._settled_chain()
        self._report.missing += chain.missing
        for index, link in enumerate(chain.links):
            for ahead in chain.links[index : index + _HELD]:
                self._hold(ahead.number)
            yield from self._records(link, last=link is chain.links[-1])
            self._let_go(link.number)

    def close(self) -> None:
        for number in list(self._files):
            self._let_go(number)

    def _settled_chain(self) -> Chain:
        """What counts now, with the oldest of it held open. A gap is believed if the directory stays as it is."""
        before: list[int] = []
        for _ in range(_TRIES):
            numbers = self._list()
            chain, whole = self._look_at(numbers)
            if (whole and not chain.missing) or numbers == before:
                break
            before = numbers
            self.close()
        return chain

    def _list(self) -> list[int]:
        try:
            return list_segments(self._os, self._directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise JournalDown(f"cannot list {self._directory}: {error_text(error)}") from error

    def _look_at(self, numbers: Sequence[int]) -> tuple[Chain, bool]:
        """The chain of these segments, and whether all of them are still there."""
        heads: dict[int, Head | None] = {}
        for number in numbers:
            if self._hold(number):
                heads[number] = parse_head(self._read(number, HEAD_BYTES), number)
            if len(self._files) > _HELD:
                self._let_go(number)
        return find_chain(heads), len(heads) == len(numbers)

    def _records(self, link: Link, *, last: bool) -> Iterator[Record]:
        if link.number not in self._files:
            raise JournalDown(f"segment {link.number:08d} went away while the journal was read")
        data = self._read(link.number, SEGMENT_BYTES_MAX)
        end = len(data) if link.length is None else link.length  # where the next is missing, so is the word about this
        if last:
            end = good_end(data, link.number)
        self._report.segments += 1
        self._report.size_bytes += end
        self._report.unfinished_bytes += len(data) - end if last else 0
        for record in read_records(data, link.number, end, self._report.holes, self._lazy):
            self._report.records += 1
            yield record

    def _hold(self, number: int) -> bool:
        """Open a segment unless it is open. False when it is gone (the writer drops old ones), or the disk lost it."""
        if number in self._files:
            return True
        try:
            self._files[number] = self._os.open(segment_path(self._directory, number), os.O_RDONLY)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EIO):
                return False
            raise self._unreadable(number, error) from error
        return True

    def _let_go(self, number: int) -> None:
        self._os.close(self._files.pop(number))

    def _read(self, number: int, size: int) -> bytes:
        """The bytes of a segment; none when the disk has lost them."""
        try:
            return read_file(self._os, self._files[number], size)
        except OSError as error:
            if error.errno == errno.EIO:
                return b""
            raise self._unreadable(number, error) from error

    def _unreadable(self, number: int, error: OSError) -> JournalDown:
        return JournalDown(f"cannot read segment {number:08d}: {error_text(error)}")
