"""Connections that know their deadline, how much of the request has left, and how to be ended by another thread.

Sockets do not block once they are connected: a thread tries first and polls only when it must wait. With many threads
each call of the system costs a fight for the interpreter's lock, and a time-out set on a socket doubles their number.
"""

__all__ = ["Call", "Connection", "Place", "Wire"]

import contextlib
import functools
import select
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import Any

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from captchad.model.clock import Clock
from captchad.provider.http1 import MAX_BODY, TOO_BIG, Answer, read_answer
from captchad.provider.resolver import Resolver, StopError, words

#: Bytes of status line and headers, and of what chunked encoding adds.
MAX_OVERHEAD = 1 << 20

#: Bytes of one read or write. More than a TLS record (16 KiB), so that none is left where poll cannot see it.
PIECE = 1 << 16

#: A longer time-out than this, in seconds, is none that the system takes.
MAX_LEFT_S = 86400.0


@dataclass(slots=True)
class Call:
    """The request in progress."""

    deadline: float
    max_idle_s: float
    sent: bool = False
    received: int = 0
    aborted: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """The other end of connections. `host` is a name or an address without brackets."""

    tls: bool
    host: str
    port: int


class Wire:
    """What a transport shares with its connections: the call in progress, its clock, and a handle to end it by."""

    def __init__(self, resolver: Resolver, clock: Clock) -> None:
        self.clock = clock
        self.call = Call(0.0, 0.0)
        self.busy = False
        self._resolver = resolver
        self._lock = threading.Lock()
        self._wake = threading.Event()
        # A duplicate of the socket in use. The socket itself may be closed, and its number used again, at the very
        # moment when another thread shuts it down; a duplicate is closed only under the lock.
        self._handle: socket.socket | None = None
        self._retired: list[socket.socket] = []

    def begin(self, deadline: float, max_idle_s: float) -> Call:
        with self._lock:
            self.call = Call(deadline, max_idle_s)
            self.busy = True
            self._wake.clear()
        return self.call

    def end(self) -> None:
        with self._lock:
            self.busy = False
            self._handle = None
            for handle in self._retired:
                handle.close()
            self._retired.clear()

    def abort(self, before: float) -> None:
        with self._lock:
            if not self.busy or self.call.deadline >= before:
                return
            self.call.aborted = True
            self._wake.set()
            if self._handle is not None:
                with contextlib.suppress(OSError):  # not connected any more: there is nothing to end
                    self._handle.shutdown(socket.SHUT_RDWR)

    def attach(self, handle: socket.socket | None) -> None:
        """This is the connection that the call uses now."""
        with self._lock:
            self._handle = handle

    def retire(self, handle: socket.socket) -> None:
        """The connection is closed; so is its handle, when the call that may be using it is over."""
        with self._lock:
            if self.busy:
                self._retired.append(handle)
            else:
                handle.close()

    def left(self) -> float:
        """Seconds that the call has left. Raises StopError when it has none."""
        if self.call.aborted:
            raise StopError("aborted")
        left = self.call.deadline - self.clock.monotonic()
        if left <= 0:
            raise StopError("deadline passed")
        return min(left, MAX_LEFT_S)

    def failed(self, stage: str, error: OSError) -> StopError:
        """What to raise for what the system said; an expired time-out is the call's deadline."""
        self.left()
        return StopError(f"{stage}: {words(error)}")

    def open(self, place: Place, ca_file: str | None) -> "Connection":
        """A new connection for the call in progress, over TLS if `place` says so. Raises StopError."""
        sock, handle = self._connected(place.host, place.port)
        try:
            if place.tls:
                sock = self._secured(sock, place.host, _tls_context(ca_file))
            sock.setblocking(False)
        except OSError:
            sock.close()
            self.retire(handle)
            raise
        return Connection(self, place, sock, handle)

    def _secured(self, sock: socket.socket, host: str, context: ssl.SSLContext) -> ssl.SSLSocket:
        """`sock` after the handshake; the context verifies certificate and host name."""
        try:
            return context.wrap_socket(sock, server_hostname=host)
        except OSError as error:
            raise self.failed("tls", error) from None
        except ValueError:
            raise StopError("tls: not a host name") from None

    def _connected(self, host: str, port: int) -> tuple[socket.socket, socket.socket]:
        """A connected socket and a duplicate of it. Each address gets its share of the time left."""
        try:
            addresses = self._resolver.resolve(host, port, self.call.deadline, self._wake)
        except OSError as error:
            raise self.failed("name", error) from None
        trouble: OSError = StopError("no address")
        for tried, address in enumerate(addresses):
            try:
                return self._connect(address, self.left() / (len(addresses) - tried))
            except OSError as error:
                trouble = error
        raise self.failed("connect", trouble)

    def _connect(self, address: tuple[Any, ...], timeout_s: float) -> tuple[socket.socket, socket.socket]:
        family, kind, protocol, _, place = address
        sock = socket.socket(family, kind, protocol)
        try:
            handle = sock.dup()
        except OSError:
            sock.close()
            raise
        self.attach(handle)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(timeout_s)
            sock.connect(place)
            sock.settimeout(self.left())  # bounds the whole TLS handshake, too
        except OSError:
            self.attach(None)
            handle.close()
            sock.close()
            raise
        return sock, handle

    def send(self, sock: socket.socket, data: bytes) -> None:
        """Hand all of `data` to the socket. From its first byte on the request counts as sent."""
        rest = memoryview(data)
        while rest:
            self.left()
            before = self.call.sent
            # When TLS fails in the middle of a record, nobody can say what of it went out.
            self.call.sent = before or isinstance(sock, ssl.SSLSocket)
            try:
                taken = sock.send(rest[:PIECE])
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait(sock, select.POLLOUT)
                continue
            except ssl.SSLWantReadError:
                self._wait(sock, select.POLLIN)
                continue
            except (BrokenPipeError, ConnectionResetError) as error:
                if before:
                    raise  # perhaps the server has said why it closes
                raise self.failed("send", error) from None
            except OSError as error:
                raise self.failed("send", error) from None
            self.call.sent = True
            rest = rest[taken:]

    def receive(self, sock: socket.socket) -> bytes:
        """The next bytes, b"" at their end. Raises StopError when the deadline or the size limit is passed."""
        while True:
            self._wait(sock, select.POLLIN)
            try:
                data = sock.recv(PIECE)
                break
            except (BlockingIOError, ssl.SSLWantReadError):
                continue
            except ssl.SSLWantWriteError:
                self._wait(sock, select.POLLOUT)
            except OSError as error:
                raise self.failed("receive", error) from None
        if self.call.aborted:
            raise StopError("aborted")  # what looks like the end of the answer is ours
        self.call.received += len(data)
        if self.call.received > MAX_BODY + MAX_OVERHEAD:
            raise StopError(TOO_BIG)
        return data

    def _wait(self, sock: socket.socket, event: int) -> None:
        """Wait until `sock` may be ready, for as long as the call has left."""
        poll = select.poll()
        poll.register(sock, event)
        poll.poll(self.left() * 1000)


class Connection:
    """An open connection, in the hands of the transport's thread."""

    def __init__(self, wire: Wire, place: Place, sock: socket.socket, handle: socket.socket) -> None:
        self.place = place
        self._wire = wire
        self._sock = sock
        self._handle = handle
        self._idle_since = 0.0

    def exchange(self, request: bytes) -> Answer:
        """Send `request` once, read its answer whole. Raises StopError."""
        self._wire.attach(self._handle)
        # A server that has had enough closes, and may have said why before.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._wire.send(self._sock, request)
        answer = read_answer(lambda: self._wire.receive(self._sock))
        self._idle_since = self._wire.clock.monotonic()
        return answer

    def trusted(self) -> bool:
        """Whether the call in progress may use this connection again: it is fresh enough, alive, and silent."""
        if self._wire.clock.monotonic() - self._idle_since > self._wire.call.max_idle_s:
            return False
        # Bytes that nobody asked for would be taken for the next answer.
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Close it; another thread's abort stays harmless."""
        self._sock.close()
        self._wire.retire(self._handle)


@functools.lru_cache(maxsize=4)
def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file or DEFAULT_CA_BUNDLE_PATH)
    context.set_alpn_protocols(["http/1.1"])
    return context
