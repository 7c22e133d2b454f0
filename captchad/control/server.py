"""The daemon's end of the control socket, as a part of the parent's loop: it never waits for a client.

A client sends one line and gets one line (`captchad.control.wire`). Whoever may open the socket may use every verb: the
socket is made with mode 0660, so that is root, the daemon's user and the socket's group. A client must keep its side
open until it has the answer.

Bounds: a request of MAX_REQUEST bytes, an answer of MAX_ANSWER, 64 clients at a time (the next is told so and closed),
10 s to send the request and 10 s to take the answer. Only a deferred answer may take as long as it takes.
"""

__all__ = ["CLIENT_S", "MAX_CLIENTS", "MAX_PATH_BYTES", "ControlServer", "Handler", "Pending", "Reply", "Request"]

import contextlib
import errno
import json
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captchad.control.wire import MAX_ANSWER, MAX_REQUEST, Answer, encode, refuse
from captchad.ipc.loop import Loop, Timer
from captchad.model.clock import Clock
from captchad.model.errors import CaptchadError, LockHeld, NeedsOperator
from captchad.model.logevents import Event, fields

MAX_CLIENTS = 64

#: Time for a client to send its line, and again to take the answer.
CLIENT_S = 10.0

#: Of the control socket's path. The kernel takes 107, and it is made beside its place first.
MAX_PATH_BYTES = 107 - len(".new")

_ACCEPTS_PER_TURN = 16
_BACKLOG = 128
_CHUNK = 1 << 16
_PEER = struct.Struct("3i")

#: How long nobody is accepted when the process has no descriptor left; the listener stays readable meanwhile.
_NO_DESCRIPTOR_PAUSE_S = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """One question, and who asks (as the kernel says)."""

    verb: str
    args: dict[str, Any]
    uid: int
    gid: int
    pid: int


class Pending:
    """An answer that comes later. The handler returns it, keeps it, and calls `resolve` once."""

    __slots__ = ("_answer", "_deliver")

    def __init__(self) -> None:
        self._answer: Answer | None = None
        self._deliver: Callable[[Answer], None] | None = None

    def resolve(self, answer: Answer) -> None:
        """Send `answer` (made with `wire.ok` or `wire.refuse`). The second answer to one question is dropped."""
        if self._answer is not None:
            return
        self._answer = answer
        if self._deliver is not None:
            self._deliver(answer)

    def deliver_to(self, deliver: Callable[[Answer], None]) -> None:
        """Call `deliver` with the answer: now if it is there, else as soon as it is. The server calls this."""
        self._deliver = deliver
        if self._answer is not None:
            deliver(self._answer)


Reply = Answer | Pending
Handler = Callable[[Request], Reply]


class ControlServer:
    """Listens at `path` from `start` to `close`. `handler` answers at once or returns a Pending.

    A CaptchadError that the handler raises is the answer "no"; any other exception is logged, and the client told so:
    a fault in one verb must not end the daemon.
    """

    def __init__(self, path: Path, loop: Loop, handler: Handler, *, clock: Clock) -> None:
        self.path = path
        self.loop = loop
        self.handler = handler
        self.clock = clock
        self.clients: set[_Client] = set()
        self._listener: socket.socket | None = None
        self._identity: tuple[int, int] | None = None

    def start(self) -> None:
        """Bind and listen. Raises LockHeld when a live daemon answers there, NeedsOperator when nothing can."""
        if len(bytes(self.path)) > MAX_PATH_BYTES:
            raise NeedsOperator(f"{self.path} is too long for a socket", hint="set a shorter daemon.runtime_dir")
        _clear_stale(self.path)
        self._listener = self._bind()
        self.loop.watch(self._listener.fileno(), readable=self._accept)

    def fileno(self) -> int:
        """The listening descriptor, for whoever closes what a child inherited; -1 when closed."""
        return -1 if self._listener is None else self._listener.fileno()

    def close(self) -> None:
        """Drop all clients and remove the socket, unless somebody else's stands there by now."""
        for client in tuple(self.clients):
            client.close()
        if self._listener is None:
            return
        self.loop.unwatch(self._listener.fileno())
        self._listener.close()
        self._listener = None
        if _identity(self.path) == self._identity:
            self.path.unlink()

    def answer(self, request: Request) -> Reply:
        """The handler's reply, whatever it does."""
        try:
            return self.handler(request)
        except CaptchadError as error:
            return refuse(str(error), hint=error.hint)
        except Exception as error:  # noqa: BLE001 - a fault in one verb must not end the daemon; it is logged with its stack
            _log.exception("the control verb %r failed", request.verb, extra=fields(Event.INTERNAL_ERROR))
            return refuse(f"internal error ({type(error).__name__})", hint="the daemon's log has the details")

    def _bind(self) -> socket.socket:
        """A listening socket that appears at `path` with its mode already set."""
        new = self.path.with_name(self.path.name + ".new")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            listener.bind(str(new))
            new.chmod(0o660)
            listener.listen(_BACKLOG)
            self._identity = _identity(new)
            new.rename(self.path)
        except OSError as error:
            listener.close()
            raise NeedsOperator(
                f"cannot listen at {self.path} ({error.strerror})", hint="look at daemon.runtime_dir and its owner"
            ) from error
        return listener

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            if self._listener is None:
                return
            try:
                sock, _address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                self._pause()
                return
            self._take(sock)

    def _take(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if len(self.clients) < MAX_CLIENTS:
            self.clients.add(_Client(self, sock))
            return
        # Whoever left meanwhile needs no answer.
        with sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.send(encode(refuse("too many callers at the same time", hint="try again in a few seconds")))

    def _pause(self) -> None:
        """Stop accepting for a moment: without a descriptor the loop would only spin."""
        if self._listener is not None:
            self.loop.unwatch(self._listener.fileno())
            self.loop.call_later(_NO_DESCRIPTOR_PAUSE_S, self._resume)

    def _resume(self) -> None:
        if self._listener is not None:
            self.loop.watch(self._listener.fileno(), readable=self._accept)


class _Client:
    """One connection: reads a line, has it answered, writes the answer, ends."""

    def __init__(self, server: ControlServer, sock: socket.socket) -> None:
        self._server = server
        self._sock = sock
        self._in = bytearray()
        self._out = memoryview(b"")
        self._asked = False
        self._timer: Timer | None = server.loop.call_later(CLIENT_S, self.close)
        server.loop.watch(sock.fileno(), readable=self._read)

    def close(self) -> None:
        """Drop the connection; a Pending that is answered later goes nowhere."""
        if self not in self._server.clients:
            return
        self._server.clients.discard(self)
        self._stop_timer()
        self._server.loop.unwatch(self._sock.fileno())
        self._sock.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read(self) -> None:
        try:
            chunk = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            self.close()
        elif not self._asked:
            self._in += chunk
            self._look_for_line()

    def _look_for_line(self) -> None:
        line, newline, _ = self._in.partition(b"\n")
        if len(line) > MAX_REQUEST:
            self._asked = True
            self._send(refuse(f"a request may have {MAX_REQUEST} bytes"))
        elif newline:
            self._asked = True
            self._in.clear()
            self._ask(bytes(line))

    def _ask(self, line: bytes) -> None:
        self._stop_timer()
        request = _parse(line, self._sock)
        if request is None:
            self._send(refuse('not a request: one line {"verb": "…", "args": {…}} is expected'))
            return
        reply = self._server.answer(request)
        if isinstance(reply, Pending):
            reply.deliver_to(self._send)
        else:
            self._send(reply)

    def _send(self, answer: Answer) -> None:
        if self not in self._server.clients:
            return
        body = encode(answer)
        if len(body) > MAX_ANSWER:
            body = encode(refuse("the answer is too long", hint="ask for less with --limit"))
        self._out = memoryview(body)
        self._stop_timer()
        self._timer = self._server.loop.call_later(CLIENT_S, self.close)
        self._write()

    def _write(self) -> None:
        try:
            self._out = self._out[self._sock.send(self._out) :]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self.close()
            return
        if self._out:
            self._server.loop.watch(self._sock.fileno(), readable=self._read, writable=self._write)
        else:
            self.close()


def _parse(line: bytes, sock: socket.socket) -> Request | None:
    """The request on `line`, or None when it is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    verb, args = message.get("verb"), message.get("args", {})
    if not isinstance(verb, str) or not isinstance(args, dict):
        return None
    pid, uid, gid = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return Request(verb, args, uid, gid, pid)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _clear_stale(path: Path) -> None:
    """See that `path` may be taken: nothing there, or a socket that nobody listens at any more."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise NeedsOperator(f"{path} is there and is no socket", hint="move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return  # the rename in `_bind` takes its place
        except BlockingIOError:
            pass  # its backlog is full: somebody listens
    raise LockHeld(f"another daemon answers at {path}", hint="stop it first, or set another daemon.runtime_dir")
