"""HTTP/1.1 for the sandbox: an incremental parser, and a connection that can deliver an answer badly on purpose.

Keep-alive, pipelining (requests of a connection are answered one after another, in order), Content-Length and chunked
bodies, `Expect: 100-continue`. A request whose framing is wrong gets a 4xx or 501 and the connection is closed.
"""

__all__ = [
    "BODY_LIMIT",
    "HEAD_LIMIT",
    "Application",
    "Connection",
    "Delivery",
    "HttpError",
    "Reply",
    "Request",
    "RequestParser",
]

import asyncio
import re
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Protocol

from captchad.model.errors import FixInput

#: Longest request line and headers together, in bytes. Some clients put a whole image into the query string.
HEAD_LIMIT = 256 * 1024
#: Longest body, in bytes.
BODY_LIMIT = 32 * 1024 * 1024
#: Unread bytes of pipelined requests at which a connection stops reading.
_BACKLOG = 1024 * 1024
_CHUNK_LINE_LIMIT = 4096

_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) (\S+) HTTP/1\.([01])", re.ASCII)
_HEADER_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEX = re.compile(rb"[0-9A-Fa-f]{1,16}")


class HttpError(FixInput):
    """A request that breaks the protocol; answered with `status`, then the connection is closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One whole request. Header names are in lower case; `query` is still encoded."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    keep_alive: bool
    peer: str  # IP address of the other side
    nth: int = 1  # counts the requests of a connection


class Delivery(Enum):
    """How a reply reaches the client."""

    PLAIN = auto()
    RESET = auto()  # TCP reset, nothing sent
    CLOSE = auto()  # orderly close, nothing sent
    HANG = auto()  # nothing sent, connection kept until the client gives up
    SLOW_HEADERS = auto()  # the head a byte at a time
    DRIP = auto()  # the body a byte at a time
    CUT = auto()  # half of the promised body, then close


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer and the way to deliver it. `delay_s` passes before its first byte, `pace_s` between slow bytes."""

    body: bytes
    content_type: str = "text/html; charset=utf-8"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    delivery: Delivery = Delivery.PLAIN
    delay_s: float = 0.0
    pace_s: float = 0.0
    close: bool = False

    def head(self, *, keep_alive: bool) -> bytes:
        """The status line and headers as they go on the wire."""
        extra = "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        connection = "keep-alive" if keep_alive else "close"
        return (
            f"HTTP/1.1 {self.status} {_reason(self.status)}\r\nServer: captchad-sandbox\r\n"
            f"Content-Type: {self.content_type}\r\nContent-Length: {len(self.body)}\r\n"
            f"Connection: {connection}\r\n{extra}\r\n"
        ).encode("latin-1")


class Application(Protocol):
    """What a connection serves."""

    def handle(self, request: Request, respond: Callable[[Reply], None]) -> None:
        """Answer one request by calling `respond` once, now or later."""


@dataclass(frozen=True, slots=True)
class _Head:
    method: str
    target: str
    headers: Mapping[str, str]
    keep_alive: bool
    length: int  # -1: chunked
    expects_continue: bool


class RequestParser:
    """Cuts a byte stream into requests. `next` raises HttpError once; after that the stream is of no more use."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._body = bytearray()
        self._chunk_left = 0
        self._in_trailer = False
        self._continue_due = False
        self._count = 0

    @property
    def buffered(self) -> int:
        """Bytes fed and not yet part of a request."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take bytes from the socket."""
        self._buffer += data

    def take_continue(self) -> bool:
        """True once for each request that waits for `100 Continue` before it sends its body."""
        due, self._continue_due = self._continue_due, False
        return due

    def next(self) -> Request | None:
        """The next whole request, or None until more bytes are fed."""
        if self._head is None:
            self._head = self._parse_head()
            if self._head is None:
                return None
            self._continue_due = self._head.expects_continue and not self._buffer
        head = self._head
        body = self._take_chunks() if head.length < 0 else self._take_length(head.length)
        if body is None:
            return None
        self._head = None
        self._continue_due = False
        self._count += 1
        path, _, query = head.target.partition("?")
        return Request(head.method, path, query, head.headers, body, head.keep_alive, self._peer, self._count)

    def _parse_head(self) -> _Head | None:
        while self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 and len(self._buffer) <= HEAD_LIMIT:
            return None
        if end < 0 or end > HEAD_LIMIT:
            raise HttpError(431, "request head too large")
        first, *lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        match = _REQUEST_LINE.fullmatch(first)
        if match is None:
            raise HttpError(400, "malformed request line")
        method, target, minor = match.groups()
        headers = _headers(lines)
        connection = headers.get("connection", "").lower()
        keep_alive = "close" not in connection if minor == b"1" else "keep-alive" in connection
        return _Head(
            method.decode("ascii"),
            _strip_origin(target.decode("latin-1")),
            headers,
            keep_alive,
            _body_length(headers),
            minor == b"1" and headers.get("expect", "").lower() == "100-continue",
        )

    def _take_length(self, length: int) -> bytes | None:
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    def _take_chunks(self) -> bytes | None:
        while not self._in_trailer:
            if self._chunk_left:
                # The CRLF after the data counts as part of the chunk and is cut off with it.
                if len(self._buffer) < self._chunk_left:
                    return None
                if self._buffer[self._chunk_left - 2 : self._chunk_left] != b"\r\n":
                    raise HttpError(400, "malformed chunk")
                self._body += self._buffer[: self._chunk_left - 2]
                del self._buffer[: self._chunk_left]
                self._chunk_left = 0
            line = self._take_line()
            if line is None:
                return None
            self._start_chunk(line)
        return self._take_trailer()

    def _start_chunk(self, line: bytes) -> None:
        digits = line.partition(b";")[0].strip()
        if _HEX.fullmatch(digits) is None:
            raise HttpError(400, "malformed chunk size")
        size = int(digits, 16)
        if len(self._body) + size > BODY_LIMIT:
            raise HttpError(413, "body too large")
        if size:
            self._chunk_left = size + 2
        else:
            self._in_trailer = True

    def _take_trailer(self) -> bytes | None:
        while (line := self._take_line()) is not None:
            if not line:
                body = bytes(self._body)
                self._body.clear()
                self._in_trailer = False
                return body
        return None

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n", 0, _CHUNK_LINE_LIMIT)
        if end < 0:
            if len(self._buffer) >= _CHUNK_LINE_LIMIT:
                raise HttpError(400, "chunk line too long")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line


class Connection(asyncio.Protocol):
    """One client's connection. All of it runs in the event loop's thread."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = RequestParser("")
        self._request: Request | None = None  # being answered
        self._pumping = False
        self._hung = False
        self._paused = False
        self._eof = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"not a stream transport: {transport!r}")
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._parser = RequestParser(peer[0] if peer else "")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        if self._request is None:
            self._pump()
        elif self._parser.buffered > _BACKLOG and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        # A client may close its side and still wait for the answer that is under way. `_pump` closes after it.
        self._eof = True
        return self._request is not None and not self._hung

    def _pump(self) -> None:
        self._pumping = True
        try:
            while self._request is None and self._transport is not None and not self._transport.is_closing():
                request = self._next_request()
                if request is None:
                    break
                self._request = request
                self._application.handle(request, self._respond)
        finally:
            self._pumping = False
        if self._request is not None or self._transport is None:
            return
        if self._eof:
            self._transport.close()
        elif self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _next_request(self) -> Request | None:
        try:
            request = self._parser.next()
        except HttpError as error:
            self._refuse(error)
            return None
        if self._parser.take_continue() and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return request

    def _refuse(self, error: HttpError) -> None:
        if self._transport is not None:
            reply = Reply(str(error).encode(), "text/plain", error.status)
            self._transport.write(reply.head(keep_alive=False) + reply.body)
            self._transport.close()

    def _respond(self, reply: Reply) -> None:
        if reply.delay_s > 0.0:
            self._loop.call_later(reply.delay_s, self._play, reply)
        else:
            self._play(reply)

    def _play(self, reply: Reply) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or self._request is None:
            return
        head = reply.head(keep_alive=self._request.keep_alive and not reply.close)
        match reply.delivery:
            case Delivery.PLAIN:
                transport.write(head + reply.body)
                self._finish(reply)
            case Delivery.RESET:
                _linger_zero(transport)
                transport.abort()
            case Delivery.CLOSE:
                transport.close()
            case Delivery.HANG:
                self._hung = True
            case Delivery.CUT:
                transport.write(head + reply.body[: len(reply.body) // 2])
                transport.close()
            case Delivery.SLOW_HEADERS:
                self._trickle(iter(_single_bytes(head)), reply.body, reply)
            case Delivery.DRIP:
                transport.write(head)
                self._trickle(iter(_single_bytes(reply.body)), b"", reply)

    def _trickle(self, pieces: Iterator[bytes], rest: bytes, reply: Reply) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        piece = next(pieces, None)
        if piece is None:
            transport.write(rest)
            self._finish(reply)
            return
        transport.write(piece)
        self._loop.call_later(reply.pace_s, self._trickle, pieces, rest, reply)

    def _finish(self, reply: Reply) -> None:
        request, self._request = self._request, None
        if self._transport is not None and (reply.close or request is None or not request.keep_alive):
            self._transport.close()
        elif not self._pumping:
            self._pump()


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _single_bytes(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def _linger_zero(transport: asyncio.Transport) -> None:
    """Make the close a TCP reset: the kernel then drops what is unsent and sends RST."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _strip_origin(target: str) -> str:
    """`http://host/path` (as sent to a proxy) as `/path`."""
    if target.startswith("/"):
        return target
    _, scheme, rest = target.partition("://")
    return "/" + rest.partition("/")[2] if scheme else "/" + target


def _headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or _HEADER_NAME.fullmatch(name) is None:
            raise HttpError(400, "malformed header")
        key, text = name.decode("ascii").lower(), value.decode("latin-1").strip()
        if key == "content-length" and headers.get(key, text) != text:
            raise HttpError(400, "two different Content-Length headers")
        headers[key] = text
    return headers


def _body_length(headers: Mapping[str, str]) -> int:
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if length is not None:
            raise HttpError(400, "both Content-Length and Transfer-Encoding")
        if coding.lower() != "chunked":
            raise HttpError(501, "unknown transfer coding")
        return -1
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit()) or len(length) > 18:
        raise HttpError(400, "malformed Content-Length")
    if int(length) > BODY_LIMIT:
        raise HttpError(413, "body too large")
    return int(length)
