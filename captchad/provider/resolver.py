"""Finds the addresses of names, with a deadline of its own, and says in words what the system said."""

__all__ = ["STARVED", "Addresses", "Lookup", "Resolver", "StopError", "process_resolver", "words"]

import errno
import functools
import math
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from captchad.model.clock import Clock, SystemClock

#: How long the addresses of a name are used without asking again.
CACHE_S = 60.0

#: While the name servers fail, known addresses are used for this long: captchas that are paid for must be polled.
STALE_S = 3600.0

#: How long a call waits for a fresh answer when it has an old one.
REFRESH_WAIT_S = 1.0

#: Addresses of one name that are tried.
MAX_ADDRESSES = 8

#: Stands in a reason when this machine had nothing left for the call: the provider has nothing to do with it.
STARVED = "out of resources here"

_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})

#: Addresses as getaddrinfo gives them, and what finds them for a name and a port.
Addresses = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]]
Lookup = Callable[[str, int], Addresses]


class StopError(OSError):
    """Ends a call from within. Its message is in our own words, or the system's: fit for a log."""


class Resolver:
    """Finds the addresses of names, never beyond a deadline. Shared by the threads of a process.

    The system's getaddrinfo cannot be interrupted: with silent name servers it blocks for 10 s or more, whatever the
    socket's time-out. It therefore runs in a daemon thread of its own, one for each name that is being looked up, and
    whoever needs the name waits only until its own deadline. Addresses are kept for CACHE_S, in an outage for STALE_S.
    """

    def __init__(self, lookup: Lookup | None = None, clock: Clock | None = None) -> None:
        self._lookup = lookup or _getaddrinfo
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int], tuple[float, Addresses]] = {}
        self._running: dict[tuple[str, int], _Search] = {}

    def resolve(self, host: str, port: int, deadline: float, wake: threading.Event) -> Addresses:
        """At least one address, by monotonic `deadline`. Setting `wake` ends the wait. Raises OSError."""
        literal = _literal(host, port)
        if literal:
            return literal
        now = self._clock.monotonic()
        with self._lock:
            found_at, addresses = self._known.get((host, port), (-math.inf, ()))
            age = now - found_at
            if age < CACHE_S:
                return addresses
            search = self._running.get((host, port)) or self._start(host, port)
            search.waiting.append(wake)
        usable = age < STALE_S
        wake.wait(max(0.0, min(deadline - now, REFRESH_WAIT_S if usable else math.inf, threading.TIMEOUT_MAX)))
        with self._lock:
            search.waiting.remove(wake)
        if search.addresses:
            return search.addresses
        if usable:
            return addresses
        raise StopError(search.trouble or "no answer")

    def _start(self, host: str, port: int) -> "_Search":
        """Look the name up in a new thread; the caller has the lock."""
        search = _Search()
        thread = threading.Thread(target=self._run, args=(search, host, port), name="captchad-resolve", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            raise StopError(f"{STARVED}: no thread can be started") from None
        self._running[host, port] = search
        return search

    def _run(self, search: "_Search", host: str, port: int) -> None:
        addresses: Addresses = ()
        trouble = "no address"
        try:
            addresses = self._lookup(host, port)[:MAX_ADDRESSES]
        except OSError as error:
            trouble = words(error)
        except UnicodeError:  # too long, or empty labels: raised by the idna codec
            trouble = "not a name"
        with self._lock:
            search.addresses, search.trouble = addresses, trouble
            if addresses:
                self._known[host, port] = (self._clock.monotonic(), addresses)
            self._running.pop((host, port), None)
            for event in search.waiting:
                event.set()


@dataclass(slots=True)
class _Search:
    """One lookup that runs, and who waits for it."""

    waiting: list[threading.Event] = field(default_factory=list)
    addresses: Addresses = ()
    trouble: str = ""


def _getaddrinfo(host: str, port: int) -> Addresses:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _literal(host: str, port: int) -> Addresses:
    """The address if `host` is one, else nothing. Asks no server."""
    try:
        return socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return ()


@functools.lru_cache(maxsize=1)
def process_resolver(pid: int) -> Resolver:
    """The resolver that the threads of process `pid` share. A child must not go on with its parent's lock."""
    return Resolver()


def words(error: OSError) -> str:
    """What went wrong, in the system's words; nothing of it comes from us or the other side."""
    match error:
        case StopError():
            return str(error)
        case ssl.SSLCertVerificationError():
            return str(error.verify_message)
        case ssl.SSLError() if error.reason:
            return str(error.reason).lower().replace("_", " ")
        case TimeoutError():
            return "timed out"
        case _ if error.errno in _SHORT:
            return f"{STARVED}: {str(error.strerror).lower()}"
        case _ if error.strerror:
            return str(error.strerror).lower()
    return type(error).__name__
