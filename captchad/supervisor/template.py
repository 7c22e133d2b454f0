"""The template: a small process from which all others are forked.

A fork copies the page tables of the process that forks, and stops it meanwhile: 100 to 250 ms for a parent that holds a
million tasks. So the parent forks the template once, before it has read a configuration or a journal, and orders its
children there. The template has no key, no lock and no task; it waits, forks, and tells the pid.

A child is forked by a process between that goes at once. It is handed to the nearest living ancestor that asked for
orphans: the parent (`become_subreaper`), which so learns of its death, reaps it, and keeps it when the template dies.
A template that has died is made anew by `posix_spawn`, which copies nothing: it takes the time of the imports, during
which the parent goes on.

Orders and answers are packets on a `socketpair`; an order brings the descriptors that its child is to have. The parent
never waits: an order that the socket does not take has failed.
"""

__all__ = ["SOCKET_FD", "Body", "Template", "serve"]

import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from captchad.supervisor.process import Child, be_child, reap, send_signal

Order = dict[str, Any]

#: Runs in a child: what was ordered, and the descriptors that came with it. Returns the exit status.
Body = Callable[[Order, Sequence[int]], int]

#: Told what became of an order: the pid of a child that is ours, or why there is none.
Done = Callable[[int | OSError], None]

#: Where a template that is made by `posix_spawn` finds its socket.
SOCKET_FD = 3

_PACKET = 1 << 16
_FDS_MOST = 4


class Template:
    """The parent's side. Has to be told when `fd` is readable; `gone` then says whether the template is there."""

    def __init__(self, body: Body, module: str) -> None:
        """Fork it here and now: the caller is still small, and has one thread. Raises OSError.

        `module` is run by Python when it has to be made anew; it calls `serve(SOCKET_FD, body)`.
        """
        self._module = module
        self._waiting: dict[int, Done] = {}
        self._last = 0
        ours, theirs = _pair()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                be_child(partial(serve, theirs.fileno(), body), [theirs.fileno()])
        finally:
            # Only the parent comes here: the child leaves by os._exit.
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self._socket, self.child = ours, Child.of(pid)
        self.gone = False

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    @property
    def owes(self) -> bool:
        """Whether an order was not answered yet."""
        return bool(self._waiting)

    def order(self, order: Order, fds: Sequence[int], done: Done) -> None:
        """Have a child forked that does `order` with `fds`, which stay the caller's. `done` is told, now or later."""
        self._last += 1
        self._waiting[self._last] = done
        try:
            socket.send_fds(self._socket, [json.dumps([self._last, order]).encode()], list(fds))
        except OSError as error:
            self._tell(self._last, error)

    def receive(self) -> None:
        """Take the answers that are there, and tell those who wait for them."""
        while not self.gone:
            try:
                packet = self._socket.recv(_PACKET)
            except BlockingIOError:
                return
            except ConnectionResetError:
                packet = b""
            if not packet:
                self.gone = True
                return
            number, pid, code = json.loads(packet)
            self._tell(number, OSError(code, os.strerror(code)) if code else pid)

    def _tell(self, number: int, what: int | OSError) -> None:
        done = self._waiting.pop(number, None)
        if done is not None:
            done(what)

    def bury(self) -> int:
        """End the template, and fail what it owes. Returns how it ended. Nothing of it is left but `renew`."""
        self.gone = True
        send_signal(self.child, signal.SIGKILL)
        code = reap(self.child)
        self.child.close()
        self._socket.close()
        waiting, self._waiting = self._waiting, {}
        for done in waiting.values():
            done(OSError(errno.ECHILD, "the template died"))
        return code

    def renew(self) -> None:
        """Make another one. Raises OSError (EAGAIN, ENOMEM, EMFILE)."""
        ours, theirs = _pair()
        try:
            pid = os.posix_spawn(
                sys.executable,
                # -P: no module is looked for in the directory that happens to be ours.
                [sys.executable, "-P", "-m", self._module],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), SOCKET_FD)],
                setsigmask=signal.valid_signals(),
            )
            self.child = Child.of(pid)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket, self.gone = ours, False


def _pair() -> tuple[socket.socket, socket.socket]:
    """Ours does not block."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def serve(fd: int, body: Body) -> int:
    """Be the template on the socket `fd`, all signals blocked, until the parent is gone. Returns the exit status."""
    with socket.socket(fileno=fd) as orders:
        orders.setblocking(True)
        while True:
            try:
                packet, fds, _, _ = socket.recv_fds(orders, _PACKET, _FDS_MOST)
            except ConnectionResetError:
                return 0
            if not packet:
                return 0
            number, order = json.loads(packet)
            pid, code = _fork(partial(body, order, fds), fds)
            for each in fds:
                os.close(each)
            try:
                orders.send(json.dumps([number, pid, code]).encode())
            except (BrokenPipeError, ConnectionResetError):
                return 0


def _fork(body: Callable[[], int], fds: Sequence[int]) -> tuple[int, int]:
    """The pid of a child that is handed to our parent; or 0, and the error's number."""
    try:
        readable, writable = os.pipe()
        between = os.fork()
    except OSError as error:
        return 0, error.errno or errno.EAGAIN
    if between == 0:
        _fork_and_go(body, fds, writable)
    os.close(writable)
    said = os.read(readable, _PACKET)
    os.close(readable)
    os.waitpid(between, 0)  # when it is gone, its child is our parent's
    pid, code = json.loads(said) if said else (0, errno.EAGAIN)
    return pid, code


def _fork_and_go(body: Callable[[], int], fds: Sequence[int], writable: int) -> None:
    said = [0, errno.EAGAIN]
    try:
        pid = os.fork()
        if pid == 0:
            be_child(body, fds)
        said = [pid, 0]
    except OSError as error:
        said = [0, error.errno or errno.EAGAIN]
    finally:
        os.write(writable, json.dumps(said).encode())
        os._exit(0)
