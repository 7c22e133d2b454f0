"""Reads one HTTP/1.1 answer: strict wherever a doubt could pass one answer for another, lenient elsewhere.

By hand, because http.client puts every head through the email parser, which takes several times as long as the call
itself, and because it lets things pass that must not: the end of the stream for the end of the headers, and half an
answer, or chunks that nobody has taken apart, for a whole one. Rules and their sources:

    interim answers   1xx are skipped, 101 is a fault: nobody asked for another protocol (RFC 9110, 15.2)
    body              none for 204 and 304, else chunks, else Content-Length, else up to the close (RFC 9112, 6.3)
    both of them      the chunks count, and the connection is not used again (RFC 9112, 6.1)
    a doubt           lengths that differ or are no number, another transfer coding than chunked: a fault (6.1, 6.3)
    lines             LF alone ends one, a folded one belongs to the one before, one without a colon is skipped (2.2)

Limits: MAX_LINE, MAX_HEADERS and MAX_BODY here, all bytes of a call in captchad.provider.wire.
"""

__all__ = ["MAX_BODY", "TOO_BIG", "Answer", "read_answer"]

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from captchad.provider.resolver import StopError

#: Bytes of an answer's body. Answers are short; more than this is an attack or a fault.
MAX_BODY = 4 << 20

#: Bytes of one line, and lines of one head or trailer; as in http.client.
MAX_LINE = 1 << 16
MAX_HEADERS = 100

#: The reason of an answer beyond any limit of bytes.
TOO_BIG = "the answer is too big"

_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) +([1-9][0-9]{2})(?: .*)?")
_DECIMAL = re.compile(rb"[0-9]+")
_HEX = re.compile(rb"[0-9A-Fa-f]{1,16}")
_BLANK = (0x20, 0x09)

_NO_BODY = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. The body is at most MAX_BODY bytes; `keep`: its connection may serve another request."""

    status: int
    content_type: str
    body: bytes = field(repr=False)
    keep: bool


def read_answer(receive: Callable[[], bytes]) -> Answer:
    """The answer in the bytes that `receive` gives, b"" at their end.

    Raises StopError, in words fit for a log, for what is no whole answer, and whatever `receive` raises.
    """
    stream = _Stream(receive)
    while True:
        minor, status = _status(stream.line())
        headers = _headers(stream)
        if status >= 200:
            break
        if status == 101:
            raise _not_http("another protocol")
    body, framed = _body(stream, status, headers)
    keep = framed and not stream.surplus and _stays_open(minor, headers.get(b"connection", b""))
    return Answer(status, headers.get(b"content-type", b"").decode("latin-1"), body, keep)


class _Cut(StopError):
    """The stream ended too early."""


class _Stream:
    """What has been received, and how much of it has been read."""

    def __init__(self, receive: Callable[[], bytes]) -> None:
        self._receive = receive
        self._data = bytearray()
        self._at = 0

    @property
    def surplus(self) -> bool:
        """More came than was read: who knows what question it answers."""
        return self._at < len(self._data)

    def line(self) -> bytes:
        """The next line without its end."""
        end = self._data.find(b"\n", self._at)
        while end < 0 and len(self._data) - self._at <= MAX_LINE:
            searched = len(self._data)
            self._more()
            end = self._data.find(b"\n", searched)
        if end < 0 or end - self._at > MAX_LINE:
            raise _not_http("a long line")
        line = bytes(self._data[self._at : end])
        self._at = end + 1
        return line.removesuffix(b"\r")

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        end = self._at + size
        while len(self._data) < end:
            self._more()
        data = bytes(self._data[self._at : end])
        self._at = end
        return data

    def rest(self) -> bytes:
        """All up to the end of the stream."""
        while piece := self._receive():
            self._data += piece
            if len(self._data) - self._at > MAX_BODY:
                raise StopError(TOO_BIG)
        return self.exactly(len(self._data) - self._at)

    def _more(self) -> None:
        piece = self._receive()
        if not piece:
            raise _Cut("receive: closed without a whole answer")
        self._data += piece


def _not_http(what: str) -> StopError:
    return StopError(f"receive: not HTTP ({what})")


def _status(line: bytes) -> tuple[int, int]:
    """The minor version and the status."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise _not_http("status line")
    return int(match[1]), int(match[2])


def _headers(stream: _Stream) -> dict[bytes, bytes]:
    """The headers up to the empty line, names in lower case, repeated ones joined by commas."""
    headers: dict[bytes, bytes] = {}
    name = b""
    for _ in range(MAX_HEADERS + 1):
        line = stream.line()
        if not line:
            return headers
        if line[0] in _BLANK:
            if name:
                headers[name] += b" " + line.strip()
            continue
        name, colon, value = line.partition(b":")
        name = name.strip().lower() if colon else b""
        if name:
            headers[name] = headers[name] + b", " + value.strip() if name in headers else value.strip()
    raise _not_http("too many headers")


def _body(stream: _Stream, status: int, headers: dict[bytes, bytes]) -> tuple[bytes, bool]:
    """The body, and whether its end was told by something better than the close."""
    if status in _NO_BODY:
        return b"", True
    codings = _items(headers.get(b"transfer-encoding", b"").lower()) - {b"identity"}
    if codings:
        if codings != {b"chunked"}:
            raise _not_http("transfer coding")
        body, whole = _chunks(stream)
        return body, whole and b"content-length" not in headers
    if b"content-length" in headers:
        return stream.exactly(_length(headers[b"content-length"])), True
    return stream.rest(), False


def _items(value: bytes) -> set[bytes]:
    return {item.strip() for item in value.split(b",")} - {b""}


def _length(value: bytes) -> int:
    """What Content-Length says; the same number may be said several times."""
    numbers = _items(value)
    if len(numbers) != 1 or _DECIMAL.fullmatch(number := numbers.pop()) is None:
        raise _not_http("content length")
    # Python does not turn thousands of digits into a number.
    if len(number) > 16 or int(number) > MAX_BODY:
        raise StopError(TOO_BIG)
    return int(number)


def _chunks(stream: _Stream) -> tuple[bytes, bool]:
    """The chunks as one, and whether the trailer came as well."""
    body = bytearray()
    while size := _chunk_size(stream.line()):
        if len(body) + size > MAX_BODY:
            raise StopError(TOO_BIG)
        body += stream.exactly(size)
        if stream.line():
            raise _not_http("chunk")
    try:
        _headers(stream)
    except _Cut:
        return bytes(body), False  # with the last chunk the body was whole
    return bytes(body), True


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if _HEX.fullmatch(digits) is None:
        raise _not_http("chunk")
    return int(digits, 16)


def _stays_open(minor: int, connection: bytes) -> bool:
    """Whether the server will take another request on this connection."""
    said = connection.lower()
    return b"close" not in said if minor else b"keep-alive" in said
