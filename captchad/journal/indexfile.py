"""The index file: what its owner knew at one place of the journal, so that a start may read from there on.

The file is derived: it may be removed at any time, and whoever has any doubt about it removes it. It holds a first
line, in the form of a record, and bytes that are its owner's matter. A `Mark` in it says of which journal it speaks:
where that ended, with which line, and what its files looked like. The segments before that are not read again, so one
that anybody has touched since is a reason for doubt.
"""

__all__ = ["INDEX_NAME", "IndexFile", "Mark", "Seal", "doubt", "take_mark"]

import errno
import os
import stat
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from captchad.journal.osio import Os, error_text, sync_directory, write_all
from captchad.journal.records import MAX_RECORD, Line, Place, decode, draft, encode
from captchad.journal.segments import Link, segment_path

#: The file's name, beside the segments.
INDEX_NAME: Final = "index"

_KIND = "index"
_MODE = 0o640  # what Os.open gives at most
_GUESS = 4096  # more than most lines have
_CHUNK = 256 << 10
_LINE_START = len('{"c":"')
_LINE_SUM = slice(_LINE_START, _LINE_START + 8)


class Seal(NamedTuple):
    """A segment's file as it was. Who writes to it, or puts another one in its place, cannot keep all of this."""

    number: int
    length: int  # bytes that count
    size: int
    inode: int
    changed_ns: int


class Mark(NamedTuple):
    """The end of a journal, with all that must still be so if what was known there is to be believed."""

    end: Place
    last: int  # offset of the last line
    checksum: str  # its checksum, as it stands there
    crc: int  # of all that stands in the last segment before the end
    seals: tuple[Seal, ...]  # of the segments that counted, in order; the last one is the one that was written


def take_mark(osio: Os, directory: Path, lengths: Mapping[int, int]) -> Mark | None:
    """The mark of a journal whose segments count for so many bytes, all of them synced.

    None when there is no good last line. Raises OSError.
    """
    seals = tuple(_seal(osio.stat(segment_path(directory, each[0])), each) for each in lengths.items())
    end = Place(seals[-1].number, seals[-1].length)
    fd = osio.open(segment_path(directory, end.segment), os.O_RDONLY)
    try:
        for size in (_GUESS, MAX_RECORD + 1):
            begin = max(0, end.offset - size)
            data = osio.pread(fd, end.offset - begin, begin)
            last = begin + data.rfind(b"\n", 0, -1) + 1
            if (checksum := _checksum(data[last - begin :], Place(end.segment, last))) is not None:
                return Mark(end, last, checksum, _crc(osio, fd, end.offset), seals)
    finally:
        osio.close(fd)
    return None


def doubt(osio: Os, directory: Path, links: Sequence[Link], mark: Mark) -> str:
    """Why a journal whose segments are `links` need not be the one of `mark`, gone on or not; "" if it is."""
    seals = {seal.number: seal for seal in mark.seals}
    before = [link for link in links if link.number <= mark.end.segment]
    if not before or before[-1].number != mark.end.segment:
        return f"segment {mark.end.segment:08d} is not there any more"
    try:
        for link in before:
            why = _doubt_segment(osio, directory, link, seals.get(link.number), mark.end)
            if why:
                return f"segment {link.number:08d} {why}"
        fd = osio.open(segment_path(directory, mark.end.segment), os.O_RDONLY)
        try:
            return _doubt_last(osio, fd, mark)
        finally:
            osio.close(fd)
    except OSError as error:
        return f"the segments cannot be looked at: {error_text(error)}"


def _doubt_segment(osio: Os, directory: Path, link: Link, seal: Seal | None, end: Place) -> str:
    if seal is None:
        return "is not known to it"
    if link.number == end.segment:
        return "counts for less than it did" if link.length is not None and link.length < end.offset else ""
    if link.length != seal.length:
        return "counts for another length"
    return "" if _seal(osio.stat(segment_path(directory, link.number)), seal[:2]) == seal else "was touched"


def _doubt_last(osio: Os, fd: int, mark: Mark) -> str:
    """The same for the segment that was written: it may have been touched, if it still begins as it did."""
    end, seal = mark.end, mark.seals[-1]
    line = osio.pread(fd, min(end.offset - mark.last, MAX_RECORD), mark.last)
    if _checksum(line, Place(end.segment, mark.last)) != mark.checksum or len(line) != end.offset - mark.last:
        return "the line that it was written behind is not there"
    if _seal(osio.fstat(fd), seal[:2]) != seal and _crc(osio, fd, end.offset) != mark.crc:
        return f"segment {end.segment:08d} does not begin as it did"
    return ""


def _seal(there: os.stat_result, counts: tuple[int, int]) -> Seal:
    """`counts`: the number of the segment, and how many bytes of it count."""
    return Seal(*counts, there.st_size, there.st_ino, there.st_ctime_ns)


def _crc(osio: Os, fd: int, end: int) -> int:
    crc, at = 0, 0
    while at < end and (data := osio.pread(fd, min(end - at, _CHUNK), at)):
        crc, at = zlib.crc32(data, crc), at + len(data)
    return crc


def _checksum(data: bytes, place: Place) -> str | None:
    """What the one good line in `data`, which stands at `place`, says of itself."""
    line = decode(data[:-1]) if data[-1:] == b"\n" else None
    return data[_LINE_SUM].decode("ascii") if isinstance(line, Line) and line.at == place else None


class IndexFile:
    """One index file, for the holder of the journal's lock."""

    def __init__(self, osio: Os, directory: Path) -> None:
        self._os = osio
        self._directory = directory
        self._path = directory / INDEX_NAME

    def write(self, fields: Mapping[str, Any], parts: Sequence[bytes]) -> None:
        """Write a new one in place of the old; durable on return. Raises OSError, RecordTooLarge: then there is none.

        A file that is cut short anywhere is known by its checksums. So it needs no second name, and no rename.
        """
        size, crc = 0, 0
        for part in parts:
            size, crc = size + len(part), zlib.crc32(part, crc)
        head = encode(draft(_KIND, {"size": size, "crc": crc, **fields}), Place(0, 0))
        self.remove()
        try:
            self._put([head, *parts], len(head) + size)
        except OSError:
            with suppress(OSError):  # what is left of it will not be believed
                self.remove()
            raise

    def _put(self, parts: Sequence[bytes], size: int) -> None:
        fd = self._os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        try:
            if self._os.free_bytes(fd) < 2 * size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # what is scarce serves the segments
            for part in parts:
                if part:
                    write_all(self._os, fd, part)
            self._os.fsync(fd)
        finally:
            self._os.close(fd)
        sync_directory(self._os, self._directory)

    def read(self) -> tuple[dict[str, Any], memoryview] | None:
        """The fields of its first line, and all that stands behind that; None when there is no file.

        Raises ValueError for a file that is not whole or not our own, OSError.
        """
        try:
            fd = self._os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            return self._read(fd)
        finally:
            self._os.close(fd)

    def _read(self, fd: int) -> tuple[dict[str, Any], memoryview]:
        there = self._os.fstat(fd)
        if not stat.S_ISREG(there.st_mode) or there.st_uid != os.geteuid() or stat.S_IMODE(there.st_mode) & ~_MODE:
            raise ValueError("it is not our own file, or others may write it")
        # The first line says how long the file is: no more than that is read.
        head = self._os.pread(fd, MAX_RECORD, 0)
        begin = head.find(b"\n") + 1
        line = decode(head[: begin - 1]) if begin else None
        if not isinstance(line, Line) or line.kind != _KIND or line.at != (0, 0):
            raise ValueError("its first line is bad")
        size = line.fields.get("size")
        if there.st_size - begin != size:
            raise ValueError("it has not the length that it should have")
        body = self._rest(fd, begin, there.st_size)
        if len(body) != size or zlib.crc32(body) != line.fields.get("crc"):
            raise ValueError("its checksum does not fit")
        return line.fields, memoryview(body)

    def _rest(self, fd: int, begin: int, end: int) -> bytes:
        data = self._os.pread(fd, end - begin, begin)
        while len(data) < end - begin and (more := self._os.pread(fd, end - begin - len(data), begin + len(data))):
            data += more  # one call reads two gigabytes at most
        return data

    def remove(self) -> None:
        """There is none any more. Raises OSError."""
        with suppress(FileNotFoundError):
            self._os.unlink(self._path)
