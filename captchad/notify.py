"""systemd's notification protocol: readiness, status, reload, stop and watchdog, one datagram a message.

It stands on the sdnotify package, whose defects are handled here: the package encodes as latin-1, blocks when systemd's
queue is full, connects once in its life, swallows every exception and leaks its socket when it cannot connect.

Failures: no call blocks and none raises. A message that could not be sent is counted in `failures`. READY, RELOADING
and STOPPING must not be lost, so the last of them is sent again before the next message of any kind; a lost STATUS or
WATCHDOG is not repeated. May be called by the parent's one thread only.
"""

__all__ = ["Notify"]

import socket
from collections.abc import MutableMapping

from sdnotify import SystemdNotifier

from captchad.model.clock import Clock

#: systemd drops a datagram above 4,096 bytes whole; the rest is room for the fields beside the text.
_STATUS_BYTES = 2048
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class _Notifier(SystemdNotifier):  # type: ignore[misc]  # the package has no types
    """sdnotify's sender on a socket that never blocks."""

    def __init__(self, address: str) -> None:
        """Connect to `address`. Raises OSError."""
        # Not the package's constructor: it reads the environment, blocks, and leaks the socket if connecting fails.
        self.debug = True  # raise, do not swallow
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self.socket.setblocking(False)
            self.socket.connect("\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            self.socket.close()
            raise

    def send(self, message: str) -> None:
        """Send `message` as UTF-8. Raises OSError; BlockingIOError when systemd's queue is full."""
        # The package encodes as latin-1, which turns these characters back into the very bytes.
        self.notify(message.encode().decode("latin-1"))


class Notify:
    """What the daemon tells systemd. Each call returns whether the message has been handed over (or nobody listens)."""

    def __init__(self, environ: MutableMapping[str, str], clock: Clock, pid: int) -> None:
        """Read the protocol's variables from `environ`; `pid` is the process that systemd watches. Opens nothing."""
        self._environ = environ
        self._clock = clock
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._notifier: _Notifier | None = None
        self._owed = ""
        #: Whether somebody listens. Only paths and abstract sockets; `vsock:` is for virtual machines.
        self.enabled = self._address.startswith(("/", "@"))
        #: Seconds within which systemd wants a `watchdog()`; None when it watches no one, or another process.
        self.watchdog_s = _watchdog_s(environ, pid) if self.enabled else None
        #: Messages that could not be sent, ever.
        self.failures = 0

    def ready(self, status: str) -> bool:
        """The start, or a reload, is over."""
        return self._state(f"READY=1\n{_status(status)}")

    def status(self, text: str) -> bool:
        """One line for `systemctl status`; line ends and control characters become spaces, a long text is cut."""
        return self._send(_status(text))

    def reloading(self) -> bool:
        """A reload begins; `ready` must follow, also when it fails."""
        # One datagram: systemd 253 and later take the state only together with the time.
        return self._state(f"RELOADING=1\nMONOTONIC_USEC={int(self._clock.monotonic() * 1e6)}")

    def stopping(self) -> bool:
        """The stop begins. It is final."""
        return self._state("STOPPING=1")

    def extend_timeout(self, seconds: float) -> bool:
        """A start or stop goes on: allow it `seconds` from now. Send it again within that time."""
        return self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def watchdog(self) -> bool:
        """The daemon is healthy. Only its main loop may say so, and only when that is true."""
        return self._send("WATCHDOG=1")

    def errno(self, number: int) -> bool:
        """The start failed with this errno."""
        return self._send(f"ERRNO={number}")

    def clear_for_children(self) -> None:
        """Remove the protocol's variables from the environment, so that no child speaks for the daemon.

        This object goes on working: it has read them.
        """
        for name in _VARIABLES:
            self._environ.pop(name, None)

    def close(self) -> None:
        """Close the socket. The next message opens it again."""
        if self._notifier is not None:
            self._notifier.socket.close()
            self._notifier = None

    def _state(self, message: str) -> bool:
        """Send a message that must arrive. A newer state takes the place of one that is still owed."""
        self._owed = message
        return self._pay() if self.enabled else True

    def _send(self, message: str) -> bool:
        """Send what is owed, then `message`."""
        if not self.enabled:
            return True
        return self._pay() and self._try(message)

    def _pay(self) -> bool:
        if self._owed and not self._try(self._owed):
            return False
        self._owed = ""
        return True

    def _try(self, message: str) -> bool:
        try:
            self._transmit(message)
        except OSError:
            self.failures += 1
            return False
        return True

    def _transmit(self, message: str) -> None:
        """Send on the open socket; if its other end is gone, on a new one. Raises OSError."""
        if self._notifier is not None:
            try:
                self._notifier.send(message)
            except (
                OSError
            ):  # a full queue is full for a new socket, too: trying both is cheaper than telling them apart
                self.close()
            else:
                return
        self._notifier = _Notifier(self._address)
        self._notifier.send(message)


def _watchdog_s(environ: MutableMapping[str, str], pid: int) -> float | None:
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    usec = environ.get("WATCHDOG_USEC", "")
    return int(usec) / 1e6 if usec.isascii() and usec.isdigit() and int(usec) > 0 else None


def _status(text: str) -> str:
    # isprintable is false for line ends, control characters, NUL and lone surrogates: each would spoil the datagram.
    line = "".join(char if char.isprintable() else " " for char in text)
    return "STATUS=" + line.encode()[:_STATUS_BYTES].decode(errors="ignore")
