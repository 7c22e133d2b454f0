"""A journal that may be damaged: read whatever is left of it, and make it whole again.

`Reading` is for everybody, also beside a running daemon: it writes nothing and goes around what the disk cannot read.
`Rebuild` is for the holder of the lock. Nothing that was synced is rewritten in place: what is good is written anew
into segments with greater numbers, and the files that it came from move to quarantine/ as they are.

    1. NUMBER.part   The new segments are written and synced. Killed here: they are thrown away, nothing has happened.
    2. NUMBER.new    All of them are complete. From here on a repair that was killed is finished by the next one.
    3. NUMBER.jsonl  They take their place, the last one first, but for the second one, the keystone. As long as it is
                     not there a segment is missing, and no daemon starts, whatever else is there or gone.
    4. quarantine/   What does not count any more moves there.
    5. The keystone takes its place.
"""

__all__ = ["Reading", "Rebuild", "Rehearsal", "bad_side_lines", "hole_bytes", "left_over"]

import errno
import json
import os
import re
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from captchad.journal.osio import Os, error_text, make_directory, read_file, read_path, sync_directory, write_all
from captchad.journal.records import HEAD, VERSION, BadLine, Draft, Entry, Place, Record, draft, encode
from captchad.journal.segments import (
    HEAD_BYTES,
    QUARANTINE_NAME,
    SEGMENT_BYTES_MAX,
    Head,
    Hole,
    find_chain,
    good_end,
    list_segments,
    parse_head,
    read_records,
    segment_path,
    spans,
    synced_length,
    unreadable,
)
from captchad.journal.sidefile import SidePath
from captchad.journal.store import Journal
from captchad.model.clock import Clock, iso_utc
from captchad.model.errors import JournalDown

#: What the disk is asked for at once where it could not read more.
_PIECES: Final = (1 << 20, 4096)

#: Bytes of lines that are gathered for one write.
_BUFFER: Final = 1 << 20

#: New segments at least: the last one, the first one, and the keystone between them.
_AT_LEAST: Final = 3

_UNREAD: Final = "the disk cannot read it (EIO)"
_STAGED = re.compile(r"([0-9]{8})\.(part|new)")


@dataclass(frozen=True, slots=True)
class Member:
    """A segment that counts, and its bytes that count; None where no header of a later one says."""

    number: int
    length: int | None
    headed: bool
    behind_gap: bool  # what was before it is lost, or may be


class Survey(NamedTuple):
    """What there is. `lost` are named by a header and not there, `idle` are files that do not count."""

    members: tuple[Member, ...]
    lost: tuple[int, ...]
    idle: tuple[int, ...]


class _Bytes(NamedTuple):
    """A file, with zeros where the disk cannot read it: offsets and lengths in `unread`."""

    data: bytes
    unread: list[tuple[int, int]]


class Reading:
    """One pass over every good record that counts. What it met is in the attributes when `records` has ended."""

    def __init__(self, directory: Path, osio: Os | None = None) -> None:
        self.lengths: dict[int, int] = {}  #: of the segments that were read: bytes that count
        self.count = 0  #: records
        self.holes: list[Hole] = []  #: bad bytes that count
        self.lost: tuple[int, ...] = ()  #: segments that are not there and should be
        self.gaps: list[int] = []  #: segments before which something is lost, or may be
        self.idle: tuple[int, ...] = ()  #: segments that do not count
        self.unfinished: Hole | None = None  #: bytes behind the end: a commit under way, or one that a crash cut short
        self.directory = directory
        self._os = osio or Os()
        self._doubles: Counter[str] = Counter()

    def records(self) -> Iterator[Record]:
        """Yield them in order; a writer may be at work. Raises NewerVersion; JournalDown when a file cannot be read."""
        at = Place(0, 0)
        while True:
            survey = _survey(self._os, self.directory)
            self.lost, self.idle = survey.lost, survey.idle
            ahead = [member for member in survey.members if member.number >= at.segment]
            if not ahead or ahead[-1].number == at.segment:
                return
            for member in ahead:
                begin = at.offset if member.number == at.segment else 0
                end = yield from self._segment(member, begin, last=member is ahead[-1])
                at = Place(member.number, end)

    def _segment(self, member: Member, begin: int, *, last: bool) -> Generator[Record, None, int]:
        """Yield the records of one segment from `begin` on; returns where it ends."""
        number = member.number
        found = _read_around(self._os, segment_path(self.directory, number))
        if found is None:
            return begin  # dropped meanwhile: nobody needs it
        end = self._end(member, found, last=last)
        if end > len(found.data):  # a writer went on before it began the next segment
            found = _read_around(self._os, segment_path(self.directory, number)) or found
        self.lengths[number] = end
        if member.behind_gap and number not in self.gaps:
            self.gaps.append(number)
        self.unfinished = None
        if last and member.length is None and end < len(found.data):
            self.unfinished = Hole(number, end, len(found.data) - end, "unfinished")
        yield from self._good(member, found, begin, end, uncertain=member.length is None and not last)
        return end

    def _end(self, member: Member, found: _Bytes, *, last: bool) -> int:
        if member.length is not None:
            return member.length
        if not last:
            return len(found.data.rstrip(b"\0"))  # nobody says what of it counts
        # Asked again after the bytes were read: a next segment, begun meanwhile, may say it.
        now = {each.number: each for each in _survey(self._os, self.directory).members}.get(member.number)
        if now is not None and now.length is not None:
            return now.length
        return len(found.data) if found.unread else good_end(found.data, member.number)

    def _good(self, member: Member, found: _Bytes, begin: int, end: int, *, uncertain: bool) -> Iterator[Record]:
        """The good records from `begin` on; what is bad there is added to `holes`.

        When nobody says how much of a segment counts, its last commit may be one that was given up and written anew
        into the next segment: there it is left out.
        """
        doubles, self._doubles = self._doubles, Counter()
        proved = synced_length(found.data, member.number) if uncertain else end
        holes: list[Hole] = []
        for record in read_records(found.data, member.number, end, holes):
            if record.offset < begin:
                continue
            if record.offset >= proved:
                self._doubles[_key(record)] += 1
            if doubles and doubles[_key(record)]:
                doubles[_key(record)] -= 1
                continue
            self.count += 1
            yield record
        if not member.headed and not any(hole.offset == 0 for hole in holes):
            holes.insert(0, Hole(member.number, 0, 0, "has no header"))
        holes = [_blame(hole, found.unread) for hole in holes if hole.offset >= begin]
        # What does not count is in the way of a reader all the same when the disk cannot read it.
        aside = [each for each in found.unread if not any(_overlap(hole, each) for hole in holes)]
        self.holes += [*holes, *(Hole(member.number, offset, size, _UNREAD) for offset, size in aside)]


def _key(record: Record) -> str:
    return f"{record.kind} {json.dumps(record.fields)} {record.payload!r}"


def _overlap(hole: Hole, unread: tuple[int, int]) -> bool:
    offset, size = unread
    return offset < hole.offset + max(1, hole.length) and hole.offset < offset + size


def _blame(hole: Hole, unread: list[tuple[int, int]]) -> Hole:
    """The hole with its true reason, when it is there because the disk cannot read it."""
    if any(_overlap(hole, each) for each in unread):
        return Hole(hole.segment, hole.offset, hole.length, _UNREAD)
    return hole


def hole_bytes(directory: Path, hole: Hole, osio: Os | None = None) -> bytes:
    """What stands in `hole`, as far as it is there; zeros where the disk cannot read it. Raises JournalDown."""
    found = _read_around(osio or Os(), segment_path(directory, hole.segment), hole.offset, hole.length)
    return found.data if found is not None else b""


def bad_side_lines(side: SidePath, osio: Os | None = None) -> bool:
    """Whether the side file of a dead worker has bad lines before a good one. At its end a crash may leave them.

    Raises JournalDown.
    """
    found = _read_around(osio or Os(), side.path)
    lines = [] if found is None else [span.line for span in spans(found.data, side.number, 0, len(found.data))]
    while lines and isinstance(lines[-1], BadLine):
        lines.pop()
    return any(isinstance(line, BadLine) for line in lines)


def _survey(osio: Os, directory: Path) -> Survey:
    """Which segments count. Raises NewerVersion; JournalDown when the directory or a file cannot be read."""
    heads = _heads(osio, directory)
    chain = find_chain(heads)
    lost = tuple(number for number in chain.missing if number not in heads)
    counted = {link.number for link in chain.links} | {number for number in chain.missing if number in heads}
    for number in reversed((*chain.strays, *chain.torn)):
        if _may_count(heads, counted, number) and _proves_itself(osio, directory, number):
            counted.add(number)
    named = {head.prev: head.prev_len for number in counted if (head := heads[number]) is not None}
    members: list[Member] = []
    for number in sorted(counted):
        head = heads[number]
        gap = head.prev in lost if head else bool(members) and number - members[-1].number > 1
        members.append(Member(number, named.get(number), head is not None, gap))
    return Survey(tuple(members), lost, tuple(sorted(set(heads) - counted)))


def _may_count(heads: dict[int, Head | None], counted: set[int], number: int) -> bool:
    """Whether the header that would have named segment `number` is not there to say so."""
    following = min((each for each in counted if each > number), default=None)
    head = heads[following] if following is not None else None
    return head is None or (head.prev > number and head.prev not in heads)


def _proves_itself(osio: Os, directory: Path, number: int) -> bool:
    """Whether a line of the segment says that lines before it were synced: then they were promised, too.

    What the disk cannot read may have said so.
    """
    found = _read_around(osio, segment_path(directory, number))
    return found is not None and (bool(found.unread) or synced_length(found.data, number) > 0)


def _heads(osio: Os, directory: Path) -> dict[int, Head | None]:
    heads: dict[int, Head | None] = {}
    for number in _numbers(osio, directory):
        try:
            heads[number] = parse_head(read_path(osio, segment_path(directory, number), HEAD_BYTES), number)
        except FileNotFoundError:
            continue  # dropped meanwhile
        except OSError as error:
            if error.errno != errno.EIO:
                raise unreadable(number, error) from error
            heads[number] = None
    return heads


def _numbers(osio: Os, directory: Path) -> list[int]:
    try:
        return list_segments(osio, directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalDown(f"cannot list {directory}: {error_text(error)}") from error


def _read_around(osio: Os, path: Path, offset: int = 0, size: int = SEGMENT_BYTES_MAX) -> _Bytes | None:
    """Up to `size` bytes of a file from `offset` on; None when it is gone. Raises JournalDown."""
    try:
        fd = osio.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EIO:
            return _Bytes(b"", [(0, SEGMENT_BYTES_MAX)])
        raise JournalDown(f"cannot read {path.name}: {error_text(error)}") from error
    try:
        if offset == 0 and size == SEGMENT_BYTES_MAX:
            return _Bytes(read_file(osio, fd, size), [])
        return _in_pieces(osio, fd, offset, size, _PIECES)
    except OSError as error:
        if error.errno != errno.EIO:
            raise JournalDown(f"cannot read {path.name}: {error_text(error)}") from error
        return _in_pieces(osio, fd, offset, size, _PIECES)
    finally:
        osio.close(fd)


def _in_pieces(osio: Os, fd: int, offset: int, size: int, pieces: tuple[int, ...]) -> _Bytes:
    """Read piece by piece, and what cannot be read in smaller ones; what cannot be read at all is zeros."""
    parts: list[bytes] = []
    unread: list[tuple[int, int]] = []
    end = min(offset + size, osio.fstat(fd).st_size)
    while offset < end:
        wanted = min(pieces[0], end - offset)
        try:
            part = osio.pread(fd, wanted, offset)
            if not part:
                break
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            if len(pieces) > 1:
                part, worse = _in_pieces(osio, fd, offset, wanted, pieces[1:])
            else:
                part, worse = bytes(wanted), [(offset, wanted)]
            unread += worse
        parts.append(part)
        offset += len(part)
    return _Bytes(b"".join(parts), unread)


class Rehearsal(Journal):
    """A journal as it would become: read from its files, written nowhere. Beside a running daemon, too.

    What is appended has its place after `commit`, as it would have there, and cannot be read back.
    """

    def __init__(self, reading: Reading, clock: Clock, segment_bytes: int, osio: Os | None = None) -> None:
        super().__init__(reading.directory, osio or Os(), clock, segment_bytes, 0)
        self._reading = reading
        self._drafts: list[Draft] = []
        self._begin = Place(0, 0)  # where the first of them will stand

    def rehearse(self) -> Iterator[Record]:
        """Yield what there is; in place of `replay`. Raises as `Reading.records` does."""
        self._lengths = self._reading.lengths
        self._ready = True
        yield from self._reading.records()

    def append_ready(self, ready: Draft) -> Entry:
        """Stage a record."""
        entry = super().append_ready(ready)
        self._drafts.append(ready)
        return entry

    def commit(self) -> None:
        """Reckon what would be written."""
        if self._drafts:
            self._lengths[self._begin.segment] = self._begin.offset + self._batch.bytes
        self._batch.clear()
        self._drafts.clear()

    def _begin_batch(self) -> None:
        self._begin = self._end
        if self._begin.segment and self._begin.offset < self.segment_bytes:
            self._batch.begin(self._begin, self._begin)
            return
        head = self._make_head(self.active + 1)
        self._begin = Place(head.number, len(head.line))
        self._batch.begin(self._begin, None)

    def drop_oldest(self) -> None:
        """Forget the oldest segment."""
        del self._lengths[self.oldest]

    def drafts(self) -> list[Draft]:
        """What is staged."""
        return list(self._drafts)


def left_over(directory: Path, osio: Os | None = None) -> list[str]:
    """Names of files that a repair which was killed has left. Raises JournalDown."""
    try:
        names = (osio or Os()).listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalDown(f"cannot list {directory}: {error_text(error)}") from error
    return sorted(name for name in names if _STAGED.fullmatch(name))


class Rebuild:
    """Makes a journal whole. Only for the holder of its lock. `moved` names what went to quarantine/."""

    def __init__(self, directory: Path, osio: Os, clock: Clock, segment_bytes: int) -> None:
        self.moved: list[str] = []
        self._directory = directory
        self._os = osio
        self._clock = clock
        self._segment_bytes = segment_bytes

    def resume(self) -> bool:
        """Finish a repair that was killed, or throw away what it had not completed. True when it was finished.

        Raises OSError.
        """
        names = left_over(self._directory, self._os)
        if names and all(name.endswith(".new") for name in names):
            self._place()
            return True
        self._throw_away()
        return False

    def run(self, drafts: Iterable[Draft], behind: Place) -> None:
        """Have the journal be what it is up to `behind` ((0, 0): nothing of it), then `drafts`, and nothing else.

        Durable on return. Raises OSError; then nothing has happened, or `resume` finishes it.
        """
        try:
            self._write(drafts, behind)
        except OSError:
            with suppress(OSError):  # the space is needed; if it cannot be given back now, `resume` does it
                self._throw_away()
            raise
        self._place()

    def clear(self, idle: Iterable[int]) -> None:
        """Move segments that do not count to quarantine/. Durable on return; raises OSError."""
        self._move_out(idle)

    def _throw_away(self) -> None:
        """Remove new segments that are not complete. Those that look so go first: alone they would be taken for it."""
        names = left_over(self._directory, self._os)
        for some in (".new", ".part"):
            for name in names:
                if name.endswith(some):
                    self._os.unlink(self._directory / name)
            sync_directory(self._os, self._directory)

    def _write(self, drafts: Iterable[Draft], behind: Place) -> None:
        numbers: list[int] = []
        number = max(_numbers(self._os, self._directory), default=0)
        lines = iter(drafts)
        following = next(lines, None)
        while following is not None or len(numbers) < _AT_LEAST - 1:
            number += 1
            numbers.append(number)
            behind, following = self._write_one(number, behind, following, lines)
        # The last one has its header only: so every record has a later header that vouches for it.
        numbers.append(number + 1)
        self._write_one(number + 1, behind, None, lines)
        sync_directory(self._os, self._directory)
        for number in numbers:
            self._os.rename(self._staged(number, "part"), self._staged(number, "new"))
        sync_directory(self._os, self._directory)

    def _write_one(
        self, number: int, behind: Place, following: Draft | None, lines: Iterator[Draft]
    ) -> tuple[Place, Draft | None]:
        """Write and sync one segment behind the place `behind`; returns its end and the first draft not in it."""
        fd = self._os.open(self._staged(number, "part"), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        try:
            fields = {
                "v": VERSION,
                "prev": behind.segment,
                "prev_len": behind.offset,
                "t": iso_utc(self._clock.time()),
            }
            buffer = [encode(draft(HEAD, fields), Place(number, 0), behind)]
            size = gathered = len(buffer[0])
            while following is not None and size < self._segment_bytes:
                buffer.append(encode(following, Place(number, size)))
                size += len(buffer[-1])
                gathered += len(buffer[-1])
                if gathered >= _BUFFER:
                    write_all(self._os, fd, b"".join(buffer))
                    buffer, gathered = [], 0
                following = next(lines, None)
            if buffer:
                write_all(self._os, fd, b"".join(buffer))
            self._os.fsync(fd)
        finally:
            self._os.close(fd)
        return Place(number, size), following

    def _place(self) -> None:
        """Let the complete new segments take their place, and what they replace move out. See the top."""
        new = sorted(int(name.partition(".")[0]) for name in left_over(self._directory, self._os))
        keystone = new[1] if len(new) > 1 else new[0]
        for number in sorted(set(new) - {keystone}, reverse=True):
            self._os.rename(self._staged(number, "new"), segment_path(self._directory, number))
            sync_directory(self._os, self._directory)
        self._move_out(self._replaced(keystone - 1))
        self._os.rename(self._staged(keystone, "new"), segment_path(self._directory, keystone))
        sync_directory(self._os, self._directory)

    def _replaced(self, first: int) -> list[int]:
        """The segments older than the new one `first` that it does not stand on."""
        heads = _heads(self._os, self._directory)
        head = heads[first]
        base = head.prev if head else 0
        kept = find_chain({number: heads[number] for number in heads if number <= base}).links
        return sorted(set(heads) - {link.number for link in kept} - {each for each in heads if each >= first})

    def _move_out(self, numbers: Iterable[int]) -> None:
        place = self._directory / QUARANTINE_NAME
        make_directory(self._os, place)
        there = set(self._os.listdir(place))
        for number in numbers:
            name = wanted = segment_path(self._directory, number).name
            count = 1
            while name in there:
                count += 1
                name = f"{wanted}.{count}"
            self._os.rename(segment_path(self._directory, number), place / name)
            there.add(name)
            self.moved.append(name)
        # The new name first: a file may have two of them after a power cut, and must not have none.
        sync_directory(self._os, place)
        sync_directory(self._os, self._directory)

    def _staged(self, number: int, state: str) -> Path:
        return self._directory / f"{number:08d}.{state}"
