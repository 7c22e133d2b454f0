"""Records by their place: one of them, or all of one segment, without holding a segment in memory."""

__all__ = ["RecordFiles", "read_record", "scan_records"]

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from captchad.journal.osio import Os
from captchad.journal.records import MAX_RECORD, REPAIR_HINT, Bulk, Entry, Place, Record, record_at
from captchad.journal.segments import Hole, read_records, segment_path, spans, unreadable
from captchad.model.errors import JournalDamaged

# More than most records have.
_GUESS = 2048
# Small enough to stay in a processor's cache.
_CHUNK = 256 << 10


def read_record(osio: Os, fd: int, entry: Entry) -> Record:
    """The record at `entry` of the segment that `fd` reads; a length of 0 is one that is not known.

    Raises JournalDamaged when it is not there or bad, OSError when it cannot be read.
    """
    number, offset, length = entry.segment, entry.offset, entry.length
    data = osio.pread(fd, length or _GUESS, offset)
    if not length:
        if b"\n" not in data:
            data = osio.pread(fd, MAX_RECORD, offset)
        length = data.find(b"\n") + 1 or len(data)
    place = Place(number, offset)
    record = record_at(data, 0, length - 1, place) if length else None
    if record is None and length and not entry.length:
        # The newline behind it may have gone bad: then the next record is on the same line.
        first = next(spans(data, number, 0, length, offset))
        record = record_at(data, 0, first.length - 1, place)
    if record is None:
        raise JournalDamaged(f"the record at {number:08d}:{offset:010d} is bad", hint=REPAIR_HINT)
    return record


def scan_records(
    pread: Callable[[int, int], bytes],
    number: int,
    end: int,
    lazy: frozenset[str] = frozenset(),
    *,
    begin: int = 0,
    holes: list[Hole] | None = None,
    bulk: Bulk | None = None,
) -> Iterator[Record]:
    """The good records from `begin` to `end` of a segment, a piece at a time, as `read_records` says.

    `pread` reads so many bytes of that segment from there; what it raises passes through.
    """
    bad = [] if holes is None else holes
    size = _CHUNK
    while begin < end:
        data = pread(min(size, end - begin), begin)
        whole = data.rfind(b"\n") + 1
        if not whole and size <= MAX_RECORD and begin + size < end:
            size = 2 * MAX_RECORD  # one long record, or bytes that are none
            continue
        piece = begin + (whole or len(data)) if data else end
        yield from read_records(data, number, piece, bad, lazy, begin, bulk)
        begin = piece
        size = _CHUNK


class RecordFiles:
    """Reads records for somebody who has no lock: what the writer has dropped meanwhile is damage to them."""

    def __init__(self, directory: Path, osio: Os | None = None) -> None:
        self._directory = directory
        self._os = osio or Os()

    def read(self, entry: Entry) -> Record:
        """The record at `entry`. Raises JournalDamaged, JournalDown."""
        try:
            fd = self._os.open(segment_path(self._directory, entry.segment), os.O_RDONLY)
            try:
                return read_record(self._os, fd, entry)
            finally:
                self._os.close(fd)
        except OSError as error:
            raise unreadable(entry.segment, error) from error
