"""The monitor: one more supervised child, for what faces the network. It has no key and no access to the journal."""

__all__ = ["Front"]

import errno
import logging
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable

from captchad.ipc.channel import Channel, Message
from captchad.ipc.loop import Loop
from captchad.model.clock import Clock
from captchad.model.logevents import Event, fields
from captchad.supervisor.core.decide import FORK_S
from captchad.supervisor.process import Child, reap, send_signal
from captchad.supervisor.template import Template

MONITOR_RESTART_S = 5.0


class Front:
    """Keeps the monitor on the address that the configuration names. `tick` is called about once a second.

    The socket is bound here, so that a port that cannot be had is known, and stays when the monitor dies.
    """

    def __init__(
        self,
        template: Template,
        loop: Loop,
        clock: Clock,
        own_fault: Callable[[str, str], None],
        template_hangs: Callable[[], None],
        log: logging.Logger,
    ) -> None:
        """`own_fault(reason, key)` is told of a port that cannot be had although no monitor of ours can have it,
        `template_hangs()` of an order not done.
        """
        self._template = template
        self._loop = loop
        self._clock = clock
        self._own_fault = own_fault
        self._template_hangs = template_hangs
        self._log = log
        self.problem = ""  # why there is no monitor where the configuration wants one, in words
        self._address: tuple[str, int] | None = None
        self._log_settings: Message = {}
        self._listener: socket.socket | None = None
        self._child: Child | None = None
        self._children: set[int] = set()  # pids, until they are reaped
        self._ordered = 0  # monitors that the template has not answered for yet
        self._channel: Channel | None = None
        self._restart_at: float | None = None
        self._ordered_at = 0.0
        self._closed = False

    def configure(self, address: tuple[str, int] | None, log_settings: Message) -> None:
        """Listen there from now on; None: nowhere. `log_settings`: the monitor's `log_level` and `log_format`."""
        if log_settings != self._log_settings:
            self._log_settings = log_settings
            self.inform({"m": "config", **log_settings})
        if address == self._address:
            return
        self._end()
        self._address, self.problem = address, ""
        self._open()

    @property
    def listening(self) -> bool:
        """Whether there is a monitor to inform."""
        return self._channel is not None

    @property
    def pids(self) -> set[int]:
        """The monitor, and those before it that were not reaped yet."""
        return self._children

    def inform(self, message: Message) -> None:
        """Send a message to the monitor, if there is one."""
        if self._channel is not None:
            self._channel.send(message)

    def tick(self) -> None:
        """Try again what has failed."""
        now = self._clock.monotonic()
        if self._closed:
            return
        if self._restart_at is not None and now >= self._restart_at:
            self._open()
        elif self._channel is not None and self._child is None and now >= self._ordered_at + FORK_S:
            self._template_hangs()  # what it owes has failed then
        elif self._child is not None and now >= self._ordered_at + MONITOR_RESTART_S:
            self._is_back()

    def close(self) -> None:
        """The monitor goes, and the port is free."""
        self._closed = True
        self._end()

    def _open(self) -> None:
        self._restart_at = None
        if self._address is None or not self._listen(*self._address) or self._listener is None:
            return
        try:
            ours, theirs = multiprocessing.Pipe()
            with ours, theirs:
                self._channel = channel = Channel(os.dup(ours.fileno()))
                self._ordered_at = self._clock.monotonic()
                fds = [theirs.fileno(), self._listener.fileno()]
                self._ordered += 1
                order = {"what": "monitor", **self._log_settings}
                self._template.order(order, fds, lambda got: self._forked(channel, got))
        except OSError as error:
            self._fail(f"monitor: {error.strerror}; trying again")

    def _listen(self, host: str, port: int) -> bool:
        if self._listener is None:
            try:
                self._listener = _listen(host, port)
            except OSError as error:
                self._restart_at = self._clock.monotonic() + MONITOR_RESTART_S
                if error.errno == errno.EADDRINUSE and self._ours_may_listen:
                    return False  # tried again when they are gone
                self._own_fault(f"http.listen {host}:{port}: {error.strerror}", "http.listen")
                self._fail(f"http.listen {host}:{port}: {error.strerror}; running without it, trying again")
        return self._listener is not None

    @property
    def _ours_may_listen(self) -> bool:
        """Whether a monitor may still have an earlier listener: one that is dying, or is forked only now."""
        return bool(self._children) or self._ordered > 0

    def _go_on(self) -> None:
        """One of ours is gone: what it may have kept from us is tried again."""
        if self._address is not None and self._listener is None and not self._closed and not self._ours_may_listen:
            self._open()

    def _fail(self, text: str) -> None:
        """Say it once, however often it is tried again."""
        if text != self.problem:
            self.problem = text
            self._log.error(text, extra=fields(Event.MONITOR_FAILED))
        self._restart_at = self._clock.monotonic() + MONITOR_RESTART_S

    def _forked(self, channel: Channel, got: int | OSError) -> None:
        self._ordered -= 1
        try:
            if isinstance(got, OSError):
                raise got
            child = Child.of(got)
        except OSError as error:
            if channel is self._channel:
                self._drop_channel()
                self._fail(f"monitor: cannot fork: {error.strerror}; trying again")
            self._go_on()
            return
        if channel is self._channel:
            self._child = child
        else:
            send_signal(child, signal.SIGKILL)  # nobody wants it any more
        self._children.add(child.pid)
        self._loop.watch(child.pidfd, readable=lambda: self._died(child))

    def _is_back(self) -> None:
        """Not as soon as it is forked: one that dies at once would come and go, and be said to, for ever."""
        if self.problem:
            self._log.info(f"monitor: it is back, after: {self.problem}", extra=fields(Event.MONITOR_BACK))
            self.problem = ""

    def _died(self, child: Child) -> None:
        code = reap(child)
        self._children.discard(child.pid)
        self._loop.unwatch(child.pidfd)
        child.close()
        if self._child is child:
            self._child = None
            self._drop_channel()
            self._fail(f"monitor died (status {code}); restarted in {MONITOR_RESTART_S:g} s")
        self._go_on()

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _end(self) -> None:
        self._restart_at = None
        self._drop_channel()
        if self._child is not None:
            send_signal(self._child, signal.SIGKILL)
            self._child = None  # reaped when its pidfd says that it is dead
        if self._listener is not None:
            self._listener.close()
            self._listener = None


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    return listener
