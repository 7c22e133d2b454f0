"""Connections that know their deadline, how much of the request has left, and how to be ended by another thread."""

__all__ = ["MAX_BODY", "PIECE", "Adapter", "Call", "Wire"]

import contextlib
import functools
import http.client
import io
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager

from captchad.model.clock import Clock
from captchad.provider.resolver import Resolver, StopError, words

#: Bytes of an answer's body. Answers are short; more than this is an attack or a fault.
MAX_BODY = 4 << 20

#: Bytes of status line and headers, and of what chunked encoding adds.
MAX_OVERHEAD = 1 << 20

#: Bytes of one read or write.
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
    in_head: bool = False  # status line or headers are being read
    surplus: bool = False  # more came than the answer
    aborted: bool = False
    trouble: str = ""  # the first thing that went wrong, in words fit for a log


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
            raise self.fail("aborted")
        left = self.call.deadline - self.clock.monotonic()
        if left <= 0:
            raise self.fail("deadline passed")
        return min(left, MAX_LEFT_S)

    def fail(self, trouble: str) -> StopError:
        """Note why the call fails, unless something went wrong before; gives the exception to raise."""
        self.call.trouble = self.call.trouble or trouble
        return StopError(trouble)

    def failed(self, stage: str, error: OSError) -> StopError:
        """The same for what the system said; an expired time-out is the call's deadline."""
        self.left()
        return self.fail(f"{stage}: {words(error)}")

    def connect(self, host: str, port: int) -> tuple[socket.socket, socket.socket]:
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
            sock.settimeout(self.left())
            before = self.call.sent
            # When TLS fails in the middle of a record, nobody can say what of it went out.
            self.call.sent = before or isinstance(sock, ssl.SSLSocket)
            try:
                taken = sock.send(rest[:PIECE])
            except (BrokenPipeError, ConnectionResetError) as error:
                if before:
                    raise  # urllib3 looks whether the server has said why it closes
                raise self.failed("send", error) from None
            except OSError as error:
                raise self.failed("send", error) from None
            self.call.sent = True
            rest = rest[taken:]

    def receive(self, sock: socket.socket, file: io.RawIOBase, buffer: Any) -> int:
        """One read. Raises StopError when the deadline or the size limit is passed."""
        sock.settimeout(self.left())
        try:
            count = file.readinto(buffer) or 0
        except OSError as error:
            raise self.failed("receive", error) from None
        if self.call.aborted:
            raise self.fail("aborted")  # what looks like the end of the answer is ours
        if not count and self.call.in_head:
            # http.client takes the end of the stream for the end of the headers.
            raise self.fail("receive: closed without a whole answer")
        self.call.received += count
        if self.call.received > MAX_BODY + MAX_OVERHEAD:
            raise self.fail("the answer is too big")
        return count


class _Reader(io.RawIOBase):
    """The incoming side of a connection, for one answer."""

    def __init__(self, wire: Wire, sock: socket.socket) -> None:
        super().__init__()
        self._wire = wire
        self._sock = sock
        self._file = sock.makefile("rb", buffering=0)
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return 0 if self.ended else self._wire.receive(self._sock, self._file, buffer)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class _Buffer(io.BufferedReader):
    """The same with a buffer, which tells at its end whether something is left in it."""

    def __init__(self, wire: Wire, reader: _Reader) -> None:
        super().__init__(reader)
        self._wire = wire
        self._reader = reader

    def close(self) -> None:
        if not self.closed:
            self._reader.ended = True  # so that peek reads nothing more
            self._wire.call.surplus = bool(self.peek(1))
        super().close()


class _Source:
    """What http.client takes for a socket: all that it asks for is a file."""

    def __init__(self, wire: Wire, sock: socket.socket) -> None:
        self._wire = wire
        self._sock = sock

    def makefile(self, mode: str) -> io.BufferedReader:
        return _Buffer(self._wire, _Reader(self._wire, self._sock))


class _Connection(HTTPConnection):
    """A connection that asks the wire for everything that touches the network."""

    def __init__(self, *args: Any, wire: Wire, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.wire = wire
        self.idle_since = 0.0
        self._handle: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        sock, self._handle = self.wire.connect(self._dns_host, self.port)
        return sock

    def response_class(self, sock: socket.socket, *args: Any, **kwargs: Any) -> http.client.HTTPResponse:  # type: ignore[override]  # a method fits where http.client calls the attribute
        return http.client.HTTPResponse(_Source(self.wire, sock), *args, **kwargs)  # type: ignore[arg-type]  # it only calls makefile

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        self.wire.attach(self._handle)
        self.wire.send(self.sock, data)

    def getresponse(self) -> Any:
        self.wire.call.in_head = True
        try:
            return super().getresponse()
        except http.client.HTTPException as error:
            self.wire.fail(f"receive: not HTTP ({type(error).__name__})")
            raise
        finally:
            self.wire.call.in_head = False

    def close(self) -> None:
        super().close()
        if self._handle is not None:
            self.wire.retire(self._handle)
            self._handle = None

    def trusted(self) -> bool:
        """Whether the next request may use this open connection."""
        if self.wire.clock.monotonic() - self.idle_since > self.wire.call.max_idle_s:
            return False
        # Bytes that nobody asked for would be taken for the next answer. urllib3 looks for them in the socket only.
        return not (isinstance(self.sock, ssl.SSLSocket) and self.sock.pending())


class _TlsConnection(_Connection, HTTPSConnection):
    """The same over TLS; the context verifies certificate and host name.

    urllib3's own connect is not used: version 1 cannot verify an address with a context that checks names.
    """

    def __init__(self, *args: Any, ssl_context: ssl.SSLContext, **kwargs: Any) -> None:
        super().__init__(*args, ssl_context=ssl_context, **kwargs)
        self._context = ssl_context

    def connect(self) -> None:
        sock = self._new_conn()
        try:
            self.sock = self._context.wrap_socket(sock, server_hostname=self.host.strip("[]"))
        except OSError as error:
            sock.close()
            raise self.wire.failed("tls", error) from None
        except ValueError:
            sock.close()
            raise self.wire.fail("tls: not a host name") from None
        self.is_verified = True


class _PoolRules:
    """For a pool: which connection is used again."""

    wire: Wire

    def _get_conn(self, timeout: float | None = None) -> Any:
        # urllib3 has closed it already if it was dropped by the server, or if bytes wait in it.
        connection = super()._get_conn(timeout)  # type: ignore[misc]  # mixed into urllib3's pools
        if connection.sock is not None and not connection.trusted():
            connection.close()
        return connection

    def _put_conn(self, connection: Any) -> None:
        if connection is not None:
            if self.wire.call.surplus:
                connection.close()  # who knows which question its next answer belongs to
            connection.idle_since = self.wire.clock.monotonic()
        super()._put_conn(connection)  # type: ignore[misc]  # mixed into urllib3's pools


class _Pool(_PoolRules, HTTPConnectionPool):
    def __init__(self, *args: Any, wire: Wire, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.wire = wire
        self.ConnectionCls = functools.partial(_Connection, wire=wire)  # type: ignore[assignment]  # it is only called


class _TlsPool(_PoolRules, HTTPSConnectionPool):
    def __init__(self, *args: Any, wire: Wire, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.wire = wire
        self.ConnectionCls = functools.partial(_TlsConnection, wire=wire)  # type: ignore[assignment]  # it is only called


class Adapter(HTTPAdapter):
    """requests' adapter over our pools, with one TLS context for all of a process's connections."""

    def __init__(self, wire: Wire, ca_file: str | None) -> None:
        self._wire = wire
        self._ca_file = ca_file
        self._pools: dict[str, Any] = {}
        super().__init__(pool_connections=4, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        self.poolmanager = PoolManager(num_pools=connections, maxsize=maxsize, block=block, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": functools.partial(_Pool, wire=self._wire),
            "https": functools.partial(_TlsPool, wire=self._wire),
        }

    def get_connection_with_tls_context(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        return self.get_connection(request.url or "")

    def get_connection(self, url: str | bytes, proxies: Mapping[str, str] | None = None) -> Any:
        """The pool for `url`. Older versions of requests call this one, newer ones the one above."""
        base = str(url).partition("?")[0]
        pool = self._pools.get(base)
        if pool is None:
            tls = {"ssl_context": _tls_context(self._ca_file)} if base.startswith("https:") else {}
            pool = self._pools[base] = self.poolmanager.connection_from_url(base, pool_kwargs=tls)
        return pool

    def close(self) -> None:
        """Close all connections. urllib3 leaves that to the garbage collector."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        super().close()

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the context verifies. The inherited one makes each connection load the bundle again (10 ms)."""


@functools.lru_cache(maxsize=4)
def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file or DEFAULT_CA_BUNDLE_PATH)
    context.set_alpn_protocols(["http/1.1"])
    return context
