"""A daemon that is only a control socket: the real server in a forked process, with canned answers."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from captchad.control.server import ControlServer, Pending, Reply, Request
from captchad.control.wire import ok
from captchad.ipc.loop import Loop
from captchad.model.clock import SystemClock
from captchad.model.errors import FixInput


def handle(request: Request, loop: Loop) -> Reply:
    """`echo` answers at once, `later` in a moment, `never` not at all; `die` takes the daemon with it, `no` refuses."""
    match request.verb:
        case "echo":
            return ok({"args": request.args, "uid": request.uid, "gid": request.gid, "pid": request.pid})
        case "long":
            return ok({"text": "x" * request.args["bytes"]})
        case "later":
            pending = Pending()
            loop.call_later(0.2, lambda: pending.resolve(ok({"after": True})))
            return pending
        case "already":
            pending = Pending()
            pending.resolve(ok({"after": False}))
            pending.resolve(ok({"after": "the second answer"}))
            return pending
        case "never":
            return Pending()
        case "die":
            os._exit(1)
        case "no":
            raise FixInput("that is wrong", hint="do it right")
        case _:
            raise RuntimeError("the secret of this bug")


@contextmanager
def forked(body: Callable[[], None]) -> Iterator[int]:
    """Run `body` in a child; yields its pid and ends it by SIGKILL."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextmanager
def control_daemon(path: Path, handler: Callable[[Request, Loop], Reply] = handle) -> Iterator[int]:
    """A process that answers at `path`; yields its pid once it listens."""
    readable, writable = os.pipe()

    def body() -> None:
        loop = Loop(SystemClock())
        server = ControlServer(path, loop, lambda request: handler(request, loop), clock=SystemClock())
        server.start()
        os.write(writable, b"!")
        while True:
            loop.turn()

    with forked(body) as pid:
        os.close(writable)
        try:
            started = os.read(readable, 1)
        finally:
            os.close(readable)
        if not started:
            raise RuntimeError("the stub daemon did not start")
        yield pid
