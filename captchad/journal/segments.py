"""Reading segments: which of them count, how much of each, and which lines are good. Nothing here writes.

The header of a segment names the one before it and how many bytes of that count. So the segments that count are found
from the newest backwards. A segment that nobody names was given up by its writer before anything in it was promised.

In the last segment the records themselves say how far it was synced (`s`). Bad bytes before that are damage: something
has eaten what was on disk. Bad bytes at or behind it are a commit that nobody was told about: the segment ends there.
"""

__all__ = [
    "HEAD_BYTES",
    "QUARANTINE_NAME",
    "REPAIR_HINT",
    "SEGMENT_BYTES_MAX",
    "Chain",
    "Head",
    "Hole",
    "Link",
    "Span",
    "demand_whole",
    "find_chain",
    "good_end",
    "list_segments",
    "parse_head",
    "read_records",
    "segment_path",
    "spans",
    "synced_length",
    "unreadable",
]

import errno
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from captchad.journal.osio import Os, error_text
from captchad.journal.records import (
    HEAD,
    MAX_RECORD,
    REPAIR_HINT,
    VERSION,
    BadLine,
    Bulk,
    Line,
    Place,
    Record,
    decode,
    record_at,
    take_run,
)
from captchad.model.errors import JournalDamaged, JournalDown, NewerVersion

#: More bytes than a header has.
HEAD_BYTES: Final = 4096

#: Bytes of a segment at most. Offsets have ten digits.
SEGMENT_BYTES_MAX: Final = 10**10

#: The directory, beside the segments, for bytes that were set aside.
QUARANTINE_NAME: Final = "quarantine"

_FRAME = re.compile(rb'\{"c":"[0-9a-f]{8}","at":"([0-9]{8}):([0-9]{10})"')
_BEFORE_OBJECTS = b":,[ \t\r"
_NAME = re.compile(r"([0-9]{8})\.jsonl")


@dataclass(frozen=True, slots=True)
class Head:
    """The header of a segment: `prev` is the number of the one before (0: none), `prev_len` what counts of it."""

    prev: int
    prev_len: int


@dataclass(frozen=True, slots=True)
class Hole:
    """Bytes that should hold records and do not. `length` counts bytes that are missing at a file's end, too."""

    segment: int
    offset: int
    length: int
    reason: str


class Link(NamedTuple):
    """A segment that counts, and its bytes that count; None where only its own records tell, as in the last one."""

    number: int
    length: int | None


@dataclass(frozen=True, slots=True)
class Chain:
    """What the headers say.

    `links` are the segments that count, in order; before a missing one, as far as can be told. `torn` are newer ones
    whose header never came whole, `strays` those that no header names. `missing` should count, but are not there or
    have no readable header.
    """

    links: tuple[Link, ...]
    torn: tuple[int, ...]
    strays: tuple[int, ...]
    missing: tuple[int, ...]


class Span(NamedTuple):
    """Bytes between two newlines, as a record or not."""

    offset: int
    length: int  # with the newline
    line: Line | BadLine


def segment_path(directory: Path, number: int) -> Path:
    """Where segment `number` is."""
    return directory / f"{number:08d}.jsonl"


def unreadable(number: int, error: OSError) -> JournalDamaged | JournalDown:
    """What to raise when segment `number` cannot be read: damage if the disk says so, else a trouble that may pass."""
    message = f"cannot read segment {number:08d}: {error_text(error)}"
    if error.errno in (errno.EIO, errno.ENOENT):
        return JournalDamaged(message, hint=REPAIR_HINT)
    return JournalDown(message)


def list_segments(osio: Os, directory: Path) -> list[int]:
    """The numbers of the segments in `directory`, in order. Raises OSError."""
    found = (_NAME.fullmatch(name) for name in osio.listdir(directory))
    return sorted(int(match[1]) for match in found if match and int(match[1]))


def parse_head(data: bytes, number: int) -> Head | None:
    """The header at the beginning of segment `number`, or None. Raises NewerVersion."""
    end = data.find(b"\n", 0, MAX_RECORD)
    line = decode(data[:end]) if end > 0 else None
    if not isinstance(line, Line) or line.kind != HEAD or line.at != (number, 0):
        return None
    version, prev, length = (line.fields.get(key) for key in ("v", "prev", "prev_len"))
    if type(version) is int and version > VERSION:
        raise NewerVersion(
            f"segment {number:08d} has version {version}, this captchad knows {VERSION}",
            hint="run the captchad that wrote it, or a later one",
        )
    if type(version) is not int or type(prev) is not int or type(length) is not int:
        return None
    return Head(prev, length) if version == VERSION and 0 <= prev < number and length >= 0 else None


def find_chain(heads: Mapping[int, Head | None]) -> Chain:
    """Sort out the segments there are; `heads` has None for a header that cannot be read."""
    readable = [number for number, head in heads.items() if head is not None]
    last = max(readable, default=0)
    links: list[Link] = []
    missing: list[int] = []
    number, length = last, None
    while number:
        if head := heads.get(number):
            links.insert(0, Link(number, length))
            number, length = head.prev, head.prev_len
            continue
        older = [each for each in heads if each < number]
        if number not in heads and not older:
            break  # it was dropped: what is dropped is always the oldest
        missing.append(number)
        number, length = max((each for each in older if heads[each]), default=0), None
    counted = {link.number for link in links} | set(missing)
    return Chain(
        tuple(links),
        tuple(sorted(each for each in heads if each > last)),
        tuple(sorted(each for each in heads if each < last and each not in counted)),
        tuple(missing),
    )


def demand_whole(chain: Chain) -> None:
    """Raise JournalDamaged when a segment is missing."""
    if chain.missing:
        raise JournalDamaged(f"segment {chain.missing[-1]:08d} is missing or has no readable header", hint=REPAIR_HINT)


def synced_length(data: bytes, number: int, base: int = 0) -> int:
    """How many bytes of segment `number` its own records prove to have been synced.

    `data` is what stands there from offset `base` on; what stands before that is known to be.
    """
    end = len(data)
    while (newline := data.rfind(b"\n", 0, end)) >= 0:
        end = newline
        # Each commit names a greater offset than the one before it, so the last that names one names the greatest.
        for span in _parts(data, number, data.rfind(b"\n", 0, newline) + 1, newline, base)[::-1]:
            synced = span.line.synced if isinstance(span.line, Line) else None
            if synced and synced.segment == number:
                return max(base, min(synced.offset, span.offset))
    return base


def good_end(data: bytes, number: int, base: int = 0) -> int:
    """Where the last segment ends: at the first bad line behind what was surely synced. `data` begins at `base`."""
    for span in spans(data, number, synced_length(data, number, base) - base, len(data), base):
        if isinstance(span.line, BadLine):
            return span.offset
    return base + len(data)


def read_records(
    data: bytes,
    number: int,
    end: int,
    holes: list[Hole],
    lazy: frozenset[str] = frozenset(),
    base: int = 0,
    bulk: Bulk | None = None,
) -> Iterator[Record]:
    """The good records of segment `number` before `end`, without its header. Kinds in `lazy` are not parsed.

    `bulk` may take runs of like records before they are yielded. `data` is what stands there from offset `base` on. Bad
    bytes are added to `holes`, a run of bad lines as one.
    """
    begin, there = 0, min(end - base, len(data))
    while begin < end - base:
        if bulk is not None:
            begin = take_run(data, begin, there, Place(number, base), bulk)
            if begin >= end - base:
                break
        newline = data.find(b"\n", begin, there)
        record = record_at(data, begin, newline, Place(number, base + begin), lazy) if newline >= 0 else None
        if record is not None:
            if record.kind != HEAD:
                yield record
            begin = newline + 1
            continue
        span = next(spans(data, number, begin, end - base, base))
        if isinstance(span.line, BadLine):
            _add_hole(holes, Hole(number, span.offset, span.length, span.line.reason))
        elif found := record_at(data, begin, begin + span.length - 1, Place(number, span.offset), lazy):
            yield found
        begin += span.length


def spans(data: bytes, number: int, begin: int, end: int, base: int = 0) -> Iterator[Span]:
    """The lines between two offsets of `data`, good and bad. What is missing at the end is a bad one.

    `data` is what stands in file `number` from offset `base` on; the spans say where in the file they are. Where bytes
    are bad that should be a newline, the records at both sides of them are found by what they say of their place.
    """
    there = min(end, len(data))
    while begin < there:
        newline = data.find(b"\n", begin, there)
        if newline < 0:
            newline = there - 1  # the last byte should have been one
        yield from _parts(data, number, begin, newline, base)
        begin = newline + 1
    if there < end:
        yield Span(base + there, end - there, BadLine("is not there"))


def _parts(data: bytes, number: int, begin: int, newline: int, base: int) -> list[Span]:
    """The bytes from `begin` to the newline: a line; a bad one is parted where good ones begin inside it."""
    line = _judge(data, number, begin, newline, base)
    if isinstance(line, Line):
        return [Span(base + begin, newline + 1 - begin, line)]
    parts: list[Span] = []
    for start in reversed(_starts(data, number, begin, newline, base)):
        found = _judge(data, number, start, newline, base)
        if isinstance(found, Line):
            parts.insert(0, Span(base + start, newline + 1 - start, found))
            newline = start - 1  # this byte should have been one
    return [Span(base + begin, newline + 1 - begin, _judge(data, number, begin, newline, base)), *parts]


def _starts(data: bytes, number: int, begin: int, end: int, base: int) -> list[int]:
    """Where, behind `begin`, something begins as a line does that was written for that place.

    In somebody's payload an object follows one of a few bytes; behind those it is believed to be the payload's.
    """
    return [
        match.start()
        for match in _FRAME.finditer(data, begin + 1, end)
        if (int(match[1]), int(match[2])) == (number, base + match.start())
        and data[match.start() - 1] not in _BEFORE_OBJECTS
    ]


def _judge(data: bytes, number: int, begin: int, newline: int, base: int = 0) -> Line | BadLine:
    if newline - begin >= MAX_RECORD:
        return BadLine("is longer than a record can be")
    line = decode(data[begin:newline])
    if isinstance(line, Line) and line.at != (number, base + begin):
        return BadLine("was written for another place")
    return line


def _add_hole(holes: list[Hole], hole: Hole) -> None:
    last = holes[-1] if holes else None
    if last and last.segment == hole.segment and last.offset + last.length == hole.offset:
        holes[-1] = Hole(hole.segment, last.offset, last.length + hole.length, last.reason)
    else:
        holes.append(hole)
