"""A worker and what it talks to, turned by one thread: the test is the parent at one end and the provider at the other.

Nothing here sleeps; `until` serves both ends until a condition holds. A test process without threads may fork safely.
"""

import json
import os
import re
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from captchad.ipc.channel import Channel, Message
from captchad.journal.sidefile import SideReport, read_side_file
from captchad.model.clock import SystemClock
from captchad.supervisor.process import Child, reap
from captchad.worker import caller, main
from tests.support.fork import fork_child

KEY = "k3y/of+the=account"
NAME = "prov"
LOG = {"log_level": "info", "log_format": "plain"}
PATIENCE_S = 30.0

#: Submits that the worker runs at once, and as many polls.
THREADS = 16


class Request:
    """One HTTP request that waits for its answer."""

    def __init__(self, sock: socket.socket, path: str, fields: dict[str, str]) -> None:
        self._sock = sock
        self.path = path
        self.fields = fields

    def answer(self, request: object, *, status: int = 1) -> None:
        """Answer in the protocol's JSON form."""
        self.raw(json.dumps({"status": status, "request": request}).encode())

    def raw(self, body: bytes, head: bytes = b"HTTP/1.1 200 OK") -> None:
        self._sock.setblocking(True)
        self._sock.sendall(head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        self._sock.setblocking(False)


class Provider:
    """Takes connections and requests; `reply` may answer one at once, else it stays in `held`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listener.setblocking(False)
        self._buffers: dict[socket.socket, bytes] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.held: list[Request] = []
        self.seen: list[Request] = []
        self.reply: Callable[[Request], bool] = lambda request: False

    def fileno(self) -> int:
        return self._selector.fileno()

    def pending(self) -> bool:
        """Whether a client has knocked that was not let in yet."""
        return bool(select.select([self._listener], [], [], 0)[0])

    @property
    def open(self) -> int:
        """Connections that no side has closed."""
        return len(self._buffers)

    def count(self, path: str) -> int:
        return sum(request.path == path for request in self.seen)

    def serve(self) -> None:
        for key, _ in self._selector.select(0):
            if key.fileobj is self._listener:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                self.connections += 1
                self._buffers[sock] = b""
                self._selector.register(sock, selectors.EVENT_READ)
            else:
                self._read(key.fileobj)

    def close(self) -> None:
        for sock in (*self._buffers, self._listener):
            sock.close()
        self._selector.close()

    def _read(self, sock: socket.socket) -> None:
        try:
            chunk = sock.recv(1 << 16)
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            self._selector.unregister(sock)
            del self._buffers[sock]
            sock.close()
            return
        self._buffers[sock] += chunk
        head, blank, body = self._buffers[sock].partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        size = int(length[1]) if length else 0
        if not blank or len(body) < size:
            return
        self._buffers[sock] = b""
        target = urlsplit(head.split(b" ")[1].decode())
        fields = parse_qs(target.query) | parse_qs(body.decode())
        request = Request(sock, target.path, {name: values[0] for name, values in fields.items()})
        self.seen.append(request)
        if not self.reply(request):
            self.held.append(request)


class Rig:
    """One real worker and its two ends."""

    def __init__(self, journal: Path, child: Child, channel: Channel, provider: Provider, side: Path) -> None:
        self.journal = journal
        self.child = child
        self.channel = channel
        self.provider = provider
        self.side = side
        self.messages: list[Message] = []
        self.reading = True
        self.left = False
        self.exit: int | None = None

    # The parent's end.

    def tell(self, m: str, **fields: object) -> None:
        self.channel.send({"m": m, **fields})

    def configure(
        self,
        *,
        submit_s: float = 20.0,
        poll_s: float = 20.0,
        heartbeat_s: float = 0.1,
        batch: bool = False,
        **keys: str,
    ) -> None:
        """`keys` by their ids; without any, KEY is `k`."""
        keys = keys or {"k": KEY}
        there = {name: [self.provider.url, key] for name, key in keys.items()}
        settings = {"keys": there, "submit_s": submit_s, "poll_timeout_s": poll_s}
        settings["batch"] = batch
        self.tell("config", providers={NAME: settings}, heartbeat_s=heartbeat_s, **LOG)

    def submit(self, n: int, *, lease_s: float = 60.0, provider: str = NAME, key: str = "k", **fields: str) -> None:
        self.tell("submit", n=n, provider=provider, key=key, fields={"task": str(n), **fields}, lease_s=lease_s)

    def poll(self, n: int, *, cid: str = "", first_in_s: float = 0.0, every_s: float = 0.05, key: str = "k") -> None:
        timing = {"first_in_s": first_in_s, "gaps_s": [], "every_s": every_s}
        self.tell("poll", n=n, provider=NAME, key=key, cid=cid or str(1000 + n), **timing)

    def got(self, m: str, n: int | None = None) -> list[Message]:
        return [each for each in self.messages if each["m"] == m and (n is None or each["n"] == n)]

    def outcomes(self) -> dict[int, str]:
        return {each["n"]: each["o"] for each in self.got("out")}

    def beat(self) -> Message:
        """A heartbeat that was sent after this call."""
        had = len(self.got("beat"))
        self.until(lambda: len(self.got("beat")) > had)
        return self.got("beat")[-1]

    def leave(self) -> None:
        """Be gone, as a killed parent is."""
        self.channel.close()
        self.left = True
        self.reading = False

    # Both ends.

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Serve both ends until `condition` holds."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"did not happen: {what or condition}; messages: {self.messages[-20:]}")
            self.turn()

    def turn(self) -> None:
        ends = [self.provider.fileno(), *([self.channel.fd] if self.reading else [])]
        if self.exit is None:
            ends.append(self.child.pidfd)
        ready = select.select(ends, [], [], 0.02)[0]
        self.provider.serve()
        if not self.left:
            self.channel.flush()
        if self.reading and self.channel.fd in ready:
            self.messages += self.channel.receive()
            self.reading = not self.channel.gone
        if self.exit is None and self.child.pidfd in ready:
            self.exit = reap(self.child)

    def for_seconds(self, seconds: float) -> None:
        """Serve both ends for a while, to see that something does not happen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn()

    # What the worker has left.

    def report(self) -> SideReport:
        """The side file of a worker that is dead."""
        report = read_side_file(self.side)
        assert report is not None, "the worker lives"
        return report

    def last_words(self) -> list[dict]:
        """The outcomes in a side file that is whole."""
        report = self.report()
        assert report.ended
        return report.outcomes


@contextmanager
def rig(
    tmp_path: Path,
    *,
    client: type | None = None,
    stack_fd: int = 2,
    configure: bool = True,
    threads: int = THREADS,
) -> Iterator[Rig]:
    """A worker that has beaten once and has its configuration. `client` stands in for the provider's client."""
    journal = tmp_path / "journal"
    (journal / "workers").mkdir(parents=True)
    provider = Provider()

    def body(channel_fd: int) -> int:
        # pytest's own streams are closed in this process, and their numbers may be used again.
        sys.stdout, sys.stderr = (open(fd, "w", closefd=False) for fd in (1, 2))  # noqa: SIM115 - for life
        if client is not None:
            caller.ProviderClient = client
        main.run(channel_fd, journal, 3, 7, SystemClock(), threads=threads, stack_fd=stack_fd)

    child, channel = fork_child(body, keep=[stack_fd])
    made = Rig(journal, child, channel, provider, journal / "workers" / "3-7.jsonl")
    try:
        made.until(lambda: made.got("beat"), "the first heartbeat")
        if configure:
            made.configure()
        yield made
    finally:
        if made.exit is None:
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
            reap(child)
        os.close(child.pidfd)
        if not made.left:
            channel.close()
        provider.close()
