"""Records: one line of JSON each, checked before it is parsed. docs/journal.md describes the form for other readers.

    {"c":"1a2b3c4d","at":"00000001:0000000123","k":"kind","s":"00000001:0000000100",…fields…,"p":<payload>}

`c` is the checksum of what stands behind it; `at` is where the line stands, so that a line lost, doubled or moved is
seen; `s`, in the first record of a commit, is the end of what was synced before; `p` is the caller's raw JSON, found by
its position and never parsed here.
"""

__all__ = [
    "HEAD",
    "MAX_DEPTH",
    "MAX_RECORD",
    "REPAIR_HINT",
    "VERSION",
    "BadLine",
    "Bulk",
    "Draft",
    "Entry",
    "Line",
    "Place",
    "Record",
    "decode",
    "draft",
    "draft_encoded",
    "encode",
    "line_encoder",
    "record_at",
    "run_pattern",
    "take_run",
    "undo",
]

import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from captchad.model.compact import to_json
from captchad.model.errors import JournalDamaged, RecordTooLarge

#: The form of what is written here. A reader refuses a greater one.
VERSION: Final = 1

#: Bytes of a line with its newline. An image of 1 MB in base64 fits.
MAX_RECORD: Final = 2 << 20

#: How deep fields may nest. Far below the recursion limit, so that what was written can be read from any stack.
MAX_DEPTH: Final = 64

REPAIR_HINT: Final = "see what is left with `captchactl journal verify`, then run `captchactl journal repair`"

#: The kind of the first line of a segment.
HEAD: Final = "head"

# Neither 0 nor all ones: with those, zeros or nothing at all would have a plausible sum.
_SEED = 0x63617074
_RESERVED = frozenset({"c", "at", "k", "s", "p"})
_KIND = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_words: dict[str, bytes] = {}  # the kinds that were checked
_START = re.compile(
    rb'\{"c":"([0-9a-f]{8})","at":"([0-9]{8}):([0-9]{10})","k":"([A-Za-z0-9_.-]{1,32})"'
    rb'(?:,"s":"([0-9]{8}):([0-9]{10})")?'
)
_CHECKED_FROM = len('{"c":"00000000",')
_PAYLOAD = b',"p":'
# What the frame of a line takes at most, with `s` and the newline, but without kind, fields, payload and last brace.
_FRAME = len('{"c":"00000000","at":"00000000:0000000000","k":"","s":"00000000:0000000000"\n')


@dataclass(slots=True)
class Entry:
    """Where a record stands. All zero until it is committed; moves when it is written anew into another segment."""

    segment: int = 0
    offset: int = 0
    length: int = 0  # with the newline


class Record:
    """A record as it is read. What was not asked for is not taken out of its line."""

    __slots__ = ("_fields", "_line", "_start", "kind", "offset", "segment")

    def __init__(self, kind: str, line: bytes, start: int, segment: int, offset: int) -> None:
        self.kind = kind
        self.segment = segment  #: where it stands
        self.offset = offset
        self._line = line  # without the newline
        self._start = start  # where the caller's own fields begin
        self._fields: dict[str, Any] | None = None

    @property
    def length(self) -> int:
        """Bytes with the newline."""
        return len(self._line) + 1

    @property
    def entry(self) -> Entry:
        """Where it stands, as an object of its own."""
        return Entry(self.segment, self.offset, self.length)

    def match(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """Match the bytes of the caller's own fields, and what follows them, from their first comma on."""
        return pattern.match(self._line, self._start)

    @property
    def fields(self) -> dict[str, Any]:
        """The caller's own fields. Raises JournalDamaged, but not if they were parsed when the record was read."""
        if self._fields is None:
            split = self._line.find(_PAYLOAD, self._start)
            self._fields = _decode_fields(self._line[self._start : split if split >= 0 else -1])
            if self._fields is None:
                raise JournalDamaged(f"the fields of a record of kind {self.kind} are not JSON", hint=REPAIR_HINT)
        return self._fields

    @property
    def payload(self) -> bytes | None:
        """Its raw JSON."""
        split = self._line.find(_PAYLOAD, self._start)
        return self._line[split + len(_PAYLOAD) : -1] if split >= 0 else None


class Place(NamedTuple):
    """A position in the journal."""

    segment: int
    offset: int


class Draft(NamedTuple):
    """A record that is ready but for its place: `kind` and `rest` are pieces of the line."""

    kind: bytes
    rest: bytes


class Line(NamedTuple):
    """A good line."""

    at: Place
    kind: str
    synced: Place | None
    fields: dict[str, Any]
    payload: bytes | None


class Bulk(NamedTuple):
    """Takes runs of like records when a journal is read, before they are made into objects.

    `take` gets the two groups of `pattern`, segment, offset and length. It answers False to leave a record to others.
    """

    pattern: re.Pattern[bytes]
    take: Callable[[bytes, bytes, int, int, int], bool]


class BadLine(NamedTuple):
    """Bytes that are no line of ours, and why."""

    reason: str


def draft(kind: str, fields: Mapping[str, Any], payload: bytes | None = None) -> Draft:
    """Make a record ready to be encoded.

    Raises RecordTooLarge beyond MAX_RECORD bytes or MAX_DEPTH levels; ValueError for a kind or field name that is not
    allowed, a number that JSON has not, or a payload that is empty or not on one line; TypeError for what is not JSON.
    """
    if not _RESERVED.isdisjoint(fields):
        raise ValueError(f"reserved field names: {', '.join(sorted(_RESERVED.intersection(fields)))}")
    return draft_encoded(kind, _encode_fields(kind, fields), payload)


def draft_encoded(kind: str, fields: bytes, payload: bytes | None = None) -> Draft:
    """The same for fields that are JSON already: `,"name":value,…`, ASCII, flat. That is not checked here."""
    word = _words.get(kind)
    if word is None:
        if _KIND.fullmatch(kind) is None:
            raise ValueError(f"not a kind of record: {kind!r}")
        word = _words[kind] = kind.encode("ascii")
    if payload is None:
        rest = fields + b"}"
    elif not payload or b"\n" in payload or b"\0" in payload:
        raise ValueError("a payload is one JSON value on one line")
    else:
        rest = b"".join((fields, _PAYLOAD, payload, b"}"))
    if _FRAME + len(word) + len(rest) > MAX_RECORD:
        size = _FRAME + len(word) + len(rest)
        raise RecordTooLarge(f"a record of kind {kind} has {size} bytes, {MAX_RECORD} is the limit")
    return Draft(word, rest)


def encode(ready: Draft, at: Place, synced: Place | None = None) -> bytes:
    """The line of a record that will stand at `at`, with its newline."""
    return line_encoder(at.segment)(ready, at.offset, synced)


def line_encoder(segment: int) -> Callable[[Draft, int, Place | None], bytes]:
    """What `encode` does for records of one segment: it gets a record, its offset, and what is synced."""
    frame = b'"at":"%08d:%%010d","k":"%%b"' % segment
    crc32 = zlib.crc32

    def encode_at(ready: Draft, offset: int, synced: Place | None) -> bytes:
        kind, rest = ready
        start = frame % (offset, kind)
        if synced is not None:
            start += b',"s":"%08d:%010d"' % synced
        return b'{"c":"%08x",%b%b\n' % (crc32(rest, crc32(start, _SEED)), start, rest)

    return encode_at


def take_run(data: bytes, begin: int, end: int, base: Place, bulk: Bulk) -> int:
    """Give a run of like records to `bulk`, and return where it ends: at a line that is not good, or not like them.

    `data` is what stands from `base` on; the run begins at `begin`. This is what `record_at` does, unrolled: a million
    records are read in this way before the daemon can work.
    """
    segment = base.segment
    word = b"%08d" % segment
    match, take, find, crc32 = bulk.pattern.match, bulk.take, data.find, zlib.crc32
    while begin < end:
        newline = find(b"\n", begin, end)
        found = match(data, begin, newline) if newline >= 0 else None
        if found is None:
            break
        checksum, number, place, first, second = found.groups()
        offset = base.offset + begin
        if crc32(data[begin + _CHECKED_FROM : newline], _SEED) != int(checksum, 16):
            break
        if int(place) != offset or number != word or not take(first, second, segment, offset, newline + 1 - begin):
            break
        begin = newline + 1
    return begin


def run_pattern(kind: str, fields: bytes) -> re.Pattern[bytes]:
    """The pattern of a `Bulk` for records of one kind; `fields` matches their first fields and has two groups."""
    start = _START.pattern.replace(b"([A-Za-z0-9_.-]{1,32})", kind.encode("ascii"))
    return re.compile(start.replace(b'"([0-9]{8}):([0-9]{10})")?', b'"[0-9]{8}:[0-9]{10}")?') + fields)


def decode(line: bytes) -> Line | BadLine:
    """What a line says; `line` has no newline. Never raises, whatever the bytes."""
    match = _START.match(line)
    if match is None:
        return BadLine("does not begin as a record does")
    if zlib.crc32(memoryview(line)[_CHECKED_FROM:], _SEED) != int(match[1], 16):
        return BadLine("the checksum does not fit")
    split = line.find(_PAYLOAD, match.end())
    fields = _decode_fields(line[match.end() : split] if split >= 0 else line[match.end() : -1])
    if fields is None or line[-1:] != b"}":
        return BadLine("the checksum fits, but the fields are not JSON")
    return Line(
        Place(int(match[2]), int(match[3])),
        match[4].decode("ascii"),
        Place(int(match[5]), int(match[6])) if match[5] else None,
        fields,
        line[split + len(_PAYLOAD) : -1] if split >= 0 else None,
    )


def record_at(data: bytes, begin: int, end: int, at: Place, lazy: frozenset[str] = frozenset()) -> Record | None:
    """The record in `data` from `begin` to the newline at `end`, if it is good and was written for `at`.

    Says the same as `decode` does, but not what is wrong; kinds in `lazy` are not parsed. Never raises.
    """
    line = data[begin:end]
    match = _START.match(line)
    if match is None or end - begin >= MAX_RECORD:
        return None
    checksum, segment, offset, kind = match.group(1, 2, 3, 4)
    if zlib.crc32(line[_CHECKED_FROM:], _SEED) != int(checksum, 16):
        return None
    if int(offset) != at.offset or int(segment) != at.segment or line[-1:] != b"}":
        return None
    record = Record(kind.decode("ascii"), line, match.end(), at.segment, at.offset)
    if record.kind not in lazy:
        try:
            _ = record.fields
        except JournalDamaged:
            return None
    return record


def undo(line: bytes) -> Draft:
    """What `encode` has made a line of. Raises ValueError for what is none."""
    match = _START.match(line)
    if match is None:
        raise ValueError("not a line that was encoded")
    return Draft(match[4], line[match.end() : -1])


def _encode_fields(kind: str, fields: Mapping[str, Any]) -> bytes:
    if not fields:
        return b""
    try:
        text = to_json(fields if isinstance(fields, dict) else dict(fields))
    except RecursionError:
        raise RecordTooLarge(f"a record of kind {kind} nests too deep") from None
    if text.count("{") + text.count("[") > MAX_DEPTH and _depth(fields) > MAX_DEPTH:
        raise RecordTooLarge(f"a record of kind {kind} nests deeper than {MAX_DEPTH} levels")
    # A nested key "p" would look like the payload. Written as an escape it is the same key to every JSON reader. Inside
    # a string these bytes cannot stand: its quotes are escaped.
    return b"," + text[1:-1].replace(',"p":', ',"\\u0070":').encode("ascii")


def _decode_fields(text: bytes) -> dict[str, Any] | None:
    """The fields in `text`, which is empty or begins with a comma; None if it is neither."""
    if not text:
        return {}
    if text[:1] != b",":
        return None
    try:
        found = json.loads("{" + text[1:].decode("utf-8") + "}")
    except (ValueError, RecursionError):  # not UTF-8 is a ValueError too
        return None
    return found if isinstance(found, dict) else None


def _depth(value: Any) -> int:
    """How many objects and arrays enclose the innermost one, itself included. Without recursion."""
    deepest = 0
    level = [value]
    while level := [inner for outer in level for inner in _inside(outer)]:
        deepest += 1
    return deepest


def _inside(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []
