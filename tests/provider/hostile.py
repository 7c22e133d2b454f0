"""Servers that misbehave: a real listening socket, and a script for each connection that it gets."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from captchad.model.clock import SystemClock
from captchad.provider.resolver import Resolver

#: A certificate for localhost and 127.0.0.1 with its key, for tests only.
CERTIFICATE = Path(__file__).with_name("localhost.pem")

#: How long a test waits for what must happen soon. Only a failing test waits so long.
PATIENCE_S = 60.0

KEY = "k3y+/=&0123456789abcdef012345678"

Script = Callable[["Peer"], None]


class FakeClock(SystemClock):
    """The machine's clock, some seconds ahead."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Peer:
    """The server's side of one connection."""

    def __init__(self, server: "Hostile", sock: socket.socket) -> None:
        self.server = server
        self.sock = sock

    def request(self) -> bytes:
        """The next request, head and body; b"" if the client has closed."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.sock.recv(65536)
            if not piece:
                return b""
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        while len(body) < length:
            body += self.sock.recv(65536)
        self.server.requests.append(head + b"\r\n\r\n" + body)
        self.server.arrived.set()
        return self.server.requests[-1]

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def wait(self) -> None:
        """Keep the connection open until the test is over."""
        self.server.over.wait(PATIENCE_S)


class Hostile:
    """Runs one script for each connection, the last one for all later ones. Collects what it was asked."""

    def __init__(self, *scripts: Script, tls: bool = False) -> None:
        self._scripts = scripts
        self._tls = tls
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self.arrived = threading.Event()
        self.closed = threading.Event()
        self.over = threading.Event()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed by its script
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def _start(self, run: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            self._open.append(sock)
            self._start(self._run, sock, script)

    def _run(self, sock: socket.socket, script: Script) -> None:
        with sock:
            try:
                if self._tls:
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                    context.load_cert_chain(CERTIFICATE)
                    with context.wrap_socket(sock, server_side=True) as secure:
                        script(Peer(self, secure))
                else:
                    script(Peer(self, sock))
            except OSError:
                pass  # the client has had enough of it, as it should
        self.closed.set()


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """An HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def answering(*answers: bytes) -> Script:
    """Answer one request after the other, the last answer for ever."""

    def script(peer: Peer) -> None:
        asked = 0
        while peer.request():
            peer.send(answers[min(asked, len(answers) - 1)])
            asked += 1

    return script


def soon(seconds: float = PATIENCE_S) -> float:
    """A deadline."""
    return time.monotonic() + seconds


def until(condition: Callable[[], bool]) -> None:
    """Wait for `condition`."""
    limit = soon()
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.002)


def names(table: dict[str, str]) -> Resolver:
    """A resolver that knows these names only."""

    def lookup(host: str, port: int):
        return socket.getaddrinfo(table[host], port, type=socket.SOCK_STREAM)

    return Resolver(lookup)
