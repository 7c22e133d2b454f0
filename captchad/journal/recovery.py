"""Replay: read what the last writer left, and mend what its end left behind.

First everything is read that could forbid it (a later version, a missing segment); then records are yielded; then,
behind the last good record, what is torn is set aside and cut off. Each step may be killed and is then done again by
the next start. An OSError in mending ends the mending, not the reading: it is kept in `failure`, what is torn stays
where it is, and the next segment's header will say that it does not count.
"""

__all__ = ["Recovery"]

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from captchad.journal.indexfile import Mark, doubt
from captchad.journal.osio import Os, error_text, read_path, sync_directory
from captchad.journal.places import scan_records
from captchad.journal.quarantine import save_hole, save_torn
from captchad.journal.records import Bulk, Place, Record
from captchad.journal.segments import (
    HEAD_BYTES,
    REPAIR_HINT,
    SEGMENT_BYTES_MAX,
    Chain,
    Hole,
    demand_whole,
    find_chain,
    good_end,
    list_segments,
    parse_head,
    segment_path,
    synced_length,
    unreadable,
)
from captchad.model.errors import JournalDamaged, JournalDown

_BEGIN: Final = Place(0, 0)


class Recovery:
    """One replay, by the holder of the lock. What it found is in its attributes when `run` has ended."""

    def __init__(self, osio: Os, directory: Path) -> None:
        self.lengths: dict[int, int] = {}  # of the segments that count, in order
        self.newest = 0  # the greatest number that a file has
        self.strays: list[int] = []  # files of segments that do not count, and are still there
        self.holes: list[Hole] = []
        self.unsaved: list[Hole] = []  # those that could not be put into quarantine
        self.torn = 0
        self.failure: OSError | None = None
        self._os = osio
        self._directory = directory
        self._chain: Chain | None = None

    def doubt(self, mark: Mark) -> str:
        """Why what was known at `mark` is not to be believed, or "". Raises what `Journal.replay` says."""
        return doubt(self._os, self._directory, self._settled().links, mark)

    def run(
        self,
        lazy: frozenset[str],
        bulk: Bulk | None,
        progress: Callable[[int, int], None] | None,
        since: Place = _BEGIN,
    ) -> Iterator[Record]:
        """Yield the good records that stand at `since` or behind it, then mend. Raises what `Journal.replay` says."""
        chain = self._settled()
        for link in chain.links:
            torn = b""
            begin = since.offset if link.number == since.segment else 0
            end = link.length
            if end is None:
                data = self._read(link.number, begin=begin)
                end = good_end(data, link.number, begin)
                torn = data[end - begin :]
                del data
            if link.number < since.segment:
                self.lengths[link.number] = end
                continue
            if progress is not None:
                progress(sum(self.lengths.values()), end)
            yield from self._records(link.number, begin, end, lazy, bulk)
            if link.length is None:
                self._mend_tail(link.number, torn, end)
            self.lengths[link.number] = end
        self._clear(chain.strays, chain.torn)
        self._save_holes()

    def _records(self, number: int, begin: int, end: int, lazy: frozenset[str], bulk: Bulk | None) -> Iterator[Record]:
        try:
            fd = self._os.open(segment_path(self._directory, number), os.O_RDONLY)
            try:
                read = partial(self._os.pread, fd)
                yield from scan_records(read, number, end, lazy, begin=begin, holes=self.holes, bulk=bulk)
            finally:
                self._os.close(fd)
        except OSError as error:
            raise unreadable(number, error) from error

    def _settled(self) -> Chain:
        if self._chain is None:
            self._chain = self._settle()
        return self._chain

    def _settle(self) -> Chain:
        """Find the segments that count, with the ends that recovery relies on synced and read from the disk itself.

        After a failed sync the page cache shows bytes that the disk has not. So what a dead writer left is synced,
        dropped from the cache and read again, until the last segment is one that was treated so.
        """
        settled: set[int] = set()
        while True:
            chain = self._find_chain()
            ends = {link.number for link in chain.links[-1:]} | set(chain.torn)
            if ends <= settled:
                return chain
            for number in sorted(ends - settled):
                self._settle_segment(number)
            settled |= ends

    def _settle_segment(self, number: int) -> None:
        try:
            fd = self._os.open(segment_path(self._directory, number), os.O_RDWR)
            try:
                self._sync_and_forget(fd)
            finally:
                self._os.close(fd)
        except OSError as error:
            self.failure = error

    def _sync_and_forget(self, fd: int) -> None:
        try:
            self._os.fsync(fd)
        finally:
            self._os.drop_cache(fd)

    def _find_chain(self) -> Chain:
        try:
            numbers = list_segments(self._os, self._directory)
        except OSError as error:
            raise JournalDown(f"cannot list {self._directory}: {error_text(error)}") from error
        chain = find_chain({each: parse_head(self._read(each, HEAD_BYTES), each) for each in numbers})
        demand_whole(chain)
        for number in chain.torn:
            if synced_length(self._read(number), number):
                raise JournalDamaged(f"the header of segment {number:08d} is damaged", hint=REPAIR_HINT)
        self.newest = max(numbers, default=0)
        return chain

    def _mend_tail(self, number: int, torn: bytes, end: int) -> None:
        """Set aside and cut off what stands behind `end`, and end the last line; durable on return, unless it fails."""
        if self.failure:
            return
        try:
            if torn.strip(b"\0"):  # zeros alone are what a power cut leaves, and tell nothing
                save_torn(self._os, self._directory, number, end, torn)
            self._end_at(segment_path(self._directory, number), end, cut=bool(torn))
        except OSError as error:
            self.failure = error
            return
        self.torn += bool(torn)

    def _end_at(self, path: Path, end: int, *, cut: bool) -> None:
        fd = self._os.open(path, os.O_RDWR)
        try:
            # The last record may be whole and only its newline be another byte. It stays; but what is written next
            # would be taken for a part of its line.
            unended = self._os.pread(fd, 1, end - 1) not in (b"\n", b"")
            if unended:
                self._os.pwrite(fd, b"\n", end - 1)
            if cut:
                self._os.ftruncate(fd, end)
            if cut or unended:
                self._os.fsync(fd)
        finally:
            self._os.close(fd)

    def _clear(self, strays: Iterable[int], torn: Iterable[int]) -> None:
        """Remove the segments that do not count. Sync the directory: the name of the last one may not be durable."""
        self.strays = [*strays, *torn]
        if self.failure:
            return
        try:
            for number in torn:
                self._keep(number)
            for number in list(self.strays):
                self._os.unlink(segment_path(self._directory, number))
                self.strays.remove(number)
            sync_directory(self._os, self._directory)
        except OSError as error:
            self.failure = error

    def _keep(self, number: int) -> None:
        data = read_path(self._os, segment_path(self._directory, number), SEGMENT_BYTES_MAX)
        if data.strip(b"\0"):
            save_torn(self._os, self._directory, number, 0, data)
            self.torn += 1

    def _save_holes(self) -> None:
        for hole in self.holes:
            try:
                save_hole(self._os, self._directory, hole)
            except OSError:
                # The bytes stay where they are, and the segment is not dropped before they are saved.
                self.unsaved.append(hole)

    def _read(self, number: int, size: int = SEGMENT_BYTES_MAX, begin: int = 0) -> bytes:
        try:
            return read_path(self._os, segment_path(self._directory, number), size, begin)
        except OSError as error:
            raise unreadable(number, error) from error
