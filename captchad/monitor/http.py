"""A small HTTP server as a part of a loop: GET and HEAD, one request a connection, nobody waits for a slow client.

Bounds: a head of 8 KiB; 64 connections (the next gets 503, or a reset if it has begun to send); 10 s from the
connection to the last byte of the answer. A body that a client sends is read and thrown away: a reset could destroy the
answer.
Without a client it has no timer and no wake-up.
"""

__all__ = ["CLIENT_S", "MAX_CLIENTS", "MAX_HEAD", "Page", "Respond", "Server"]

import contextlib
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from captchad.ipc.loop import Loop

CLIENT_S = 10.0
MAX_CLIENTS = 64
MAX_HEAD = 8 << 10

_ACCEPTS_PER_TURN = 16
_CHUNK = 1 << 16

#: So much of an unwanted body is read away, then the connection ends anyway.
_MAX_THROWN_AWAY = 1 << 20

_NO_DESCRIPTOR_PAUSE_S = 1.0

_GONE = (BrokenPipeError, ConnectionResetError)


@dataclass(frozen=True, slots=True)
class Page:
    """An answer."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


#: Makes the page for a path and a query (both as sent, without the `?`).
Respond = Callable[[str, str], Page]


class Server:
    """Answers on `listener`, which must listen already and stays the caller's."""

    def __init__(self, listener: socket.socket, loop: Loop, respond: Respond) -> None:
        self.loop = loop
        self.respond = respond
        self.clients: set[_Client] = set()
        self._listener = listener
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Drop every client and stop accepting."""
        self.loop.unwatch(self._listener.fileno())
        for client in tuple(self.clients):
            client.close()

    def _listen(self) -> None:
        self.loop.watch(self._listener.fileno(), readable=self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, _address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                # Without a descriptor the loop would only spin: wait for a client to end.
                self.loop.unwatch(self._listener.fileno())
                self.loop.call_later(_NO_DESCRIPTOR_PAUSE_S, self._listen)
                return
            self._take(sock)

    def _take(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if len(self.clients) < MAX_CLIENTS:
            self.clients.add(_Client(self, sock))
            return
        with sock, contextlib.suppress(*_GONE):
            sock.send(_encode(_plain(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections"), head_only=False))


class _Client:
    """One connection: reads a head, writes an answer, then waits for the other side to close."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self._server = server
        self._sock = sock
        self._in = bytearray()
        self._out = memoryview(b"")
        self._thrown_away = 0
        self._timer = server.loop.call_later(CLIENT_S, self.close)
        server.loop.watch(sock.fileno(), readable=self._read)

    def close(self) -> None:
        if self not in self._server.clients:
            return
        self._server.clients.discard(self)
        self._timer.cancel()
        self._server.loop.unwatch(self._sock.fileno())
        self._sock.close()

    def _read(self) -> None:
        chunk = self._receive()
        if chunk is None:
            return
        if not chunk:
            self.close()
            return
        self._in += chunk
        end = self._in.find(b"\r\n\r\n")
        if end < 0 and len(self._in) <= MAX_HEAD:
            return
        if end < 0 or end > MAX_HEAD:
            self._send(_plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a head may have {MAX_HEAD} bytes"))
        else:
            self._answer(bytes(self._in[:end]))

    def _answer(self, head: bytes) -> None:
        parts = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(parts) != 3 or parts[2] not in ("HTTP/1.0", "HTTP/1.1") or not parts[1].startswith("/"):
            self._send(_plain(HTTPStatus.BAD_REQUEST, "not a request of HTTP/1.0 or 1.1"))
            return
        method, target, _version = parts
        if method not in ("GET", "HEAD"):
            page = _plain(HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD only", {"Allow": "GET, HEAD"})
            self._send(page)
            return
        path, _, query = target.partition("?")
        self._send(self._server.respond(path, query), head_only=method == "HEAD")

    def _send(self, page: Page, *, head_only: bool = False) -> None:
        self._out = memoryview(_encode(page, head_only=head_only))
        self._write()

    def _write(self) -> None:
        try:
            self._out = self._out[self._sock.send(self._out) :]
        except BlockingIOError:
            pass
        except _GONE:
            self.close()
            return
        if self._out:
            self._server.loop.watch(self._sock.fileno(), writable=self._write)
        else:
            self._linger()

    def _linger(self) -> None:
        """End our side, and read away what the client still sends: a reset now could destroy the answer."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            self.close()
            return
        self._server.loop.watch(self._sock.fileno(), readable=self._throw_away)

    def _throw_away(self) -> None:
        chunk = self._receive()
        if chunk is None:
            return
        self._thrown_away += len(chunk)
        if not chunk or self._thrown_away > _MAX_THROWN_AWAY:
            self.close()

    def _receive(self) -> bytes | None:
        """What came; empty at the end of the stream, None when there is nothing now."""
        try:
            return self._sock.recv(_CHUNK)
        except BlockingIOError:
            return None
        except OSError:  # reset, timed out, unreachable: the network has many words for an end
            return b""


def _plain(status: HTTPStatus, text: str, headers: dict[str, str] | None = None) -> Page:
    return Page(status, "text/plain; charset=utf-8", f"{text}\n".encode(), headers or {})


def _encode(page: Page, *, head_only: bool) -> bytes:
    headers = {
        "Content-Type": page.content_type,
        "Content-Length": str(len(page.body)),
        "Connection": "close",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        **page.headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {page.status.value} {page.status.phrase}\r\n{lines}\r\n".encode("latin-1")
    return head if head_only else head + page.body
