"""One HTTP request at a time, with one deadline over all of it, that ends as exactly one of three things.

    Response  an HTTP answer came, whole
    NotSent   not one byte of the request was handed to the network: name, connection or TLS failed
    Lost      at least one byte was, and no whole answer came

A submit that is NotSent costs nothing and may be repeated; one that is Lost may be paid for. Therefore our own
connections note the moment of the first byte; no library tells it. Nothing is retried, no redirect is followed, no
cookie is kept, no proxy or netrc is read from the environment, and no compression is asked for, so an answer cannot
grow in our hands.

Submit and poll are what captchad lives from, so requests is not in their way: it reads the provider's address, once,
and names the certificates to trust, so that both are as its users know them (`make bench-calls` has the figures).

Outcomes are values. No exception leaves this module, because those of requests carry the URL, and with it the key.
Reasons are made of our own words and the operating system's.

A Transport belongs to one thread; only `deadline` and `abort` may be used by others. Neither importing this module
nor making a Transport or a Resolver makes a thread or a socket: both are made in a child after a fork.
"""

__all__ = ["Lost", "NotSent", "Resolver", "Response", "Transport", "scrub"]

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus, urlsplit

import requests

from captchad import __version__
from captchad.model.clock import Clock, SystemClock
from captchad.provider.resolver import Resolver, StopError, process_resolver
from captchad.provider.wire import Connection, Place, Wire

#: A connection idle for longer is not trusted with a submit: a server that closes it meanwhile makes the submit Lost.
SUBMIT_IDLE_S = 1.0

#: A poll is harmless to repeat, so an older connection is worth a try.
POLL_IDLE_S = 60.0

_HEADERS = (
    f"User-Agent: captchad/{__version__}\r\nAccept: */*\r\nAccept-Encoding: identity\r\nConnection: keep-alive\r\n"
)
_FORM_HEADERS = f"{_HEADERS}Content-Type: application/x-www-form-urlencoded\r\n"

#: What the first line of a request and its Host header cannot take.
_CONTROL = re.compile(r"[\x00-\x20\x7f]")

_BASE64 = re.compile(r"[A-Za-z0-9+/=]*")


@dataclass(frozen=True, slots=True)
class Response:
    """A whole HTTP answer. The body is at most MAX_BODY bytes, as they came."""

    status: int
    content_type: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class NotSent:
    """No byte of the request left this process."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The request, or a part of it, left this process, and no whole answer came."""

    reason: str


def scrub(text: str, secrets: Iterable[str]) -> str:
    """`text` with each secret, plain, quoted for a URL or as Python shows it, replaced by `***`."""
    forms = {
        form
        for secret in secrets
        if secret
        for form in (secret, quote(secret, safe=""), quote(secret), quote_plus(secret), repr(secret)[1:-1])
    }
    for form in sorted(forms, key=len, reverse=True):
        # Percent codes may be in either case; a key that differs only in case is no use to anybody, nor is its loss.
        text = re.sub(re.escape(form), "***", text, flags=re.IGNORECASE)
    return text


@dataclass(frozen=True, slots=True)
class _Address:
    """A URL taken apart for a request."""

    place: Place
    host: str  # the Host header
    target: str


class Transport:
    """HTTP for one thread, with one connection. `ca_file`: certificates to trust instead of the installed bundle."""

    def __init__(
        self, resolver: Resolver | None = None, *, ca_file: str | None = None, clock: Clock | None = None
    ) -> None:
        clock = clock or SystemClock()
        self._wire = Wire(resolver or process_resolver(os.getpid()), clock)
        self._ca_file = ca_file
        self._idle: Connection | None = None
        self._addresses: dict[str, _Address] = {}

    @property
    def deadline(self) -> float | None:
        """Monotonic deadline of the request in progress, None between requests."""
        call, busy = self._wire.call, self._wire.busy
        return call.deadline if busy else None

    def post_form(self, url: str, fields: Mapping[str, str], deadline: float) -> Response | NotSent | Lost:
        """POST `fields` as a form, on a connection that is new or was used within SUBMIT_IDLE_S and is alive."""
        return self._call("POST", url, fields, deadline, SUBMIT_IDLE_S)

    def get(self, url: str, params: Mapping[str, str], deadline: float) -> Response | NotSent | Lost:
        """GET `url` with `params`; may use an older connection."""
        return self._call("GET", url, params, deadline, POLL_IDLE_S)

    def abort(self, before: float = math.inf) -> None:
        """End the request in progress if its deadline is before `before`. For other threads."""
        self._wire.abort(before)

    def close(self) -> None:
        """Close the connection."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    def _call(
        self, method: str, url: str, fields: Mapping[str, str], deadline: float, max_idle_s: float
    ) -> Response | NotSent | Lost:
        call = self._wire.begin(deadline, max_idle_s)
        try:
            return self._exchange(method, url, _form(fields))
        except (OSError, ValueError) as error:
            # Ours have words; of all others the names are safe to show, the messages are not.
            reason = str(error) if isinstance(error, StopError) else f"http: {type(error).__name__}"
            return Lost(reason) if call.sent else NotSent(reason)
        finally:
            self._wire.end()

    def _exchange(self, method: str, url: str, form: str) -> Response:
        address = self._addresses.get(url)
        if address is None:
            address = self._addresses[url] = _address(url)
        request = _request(method, address, form)
        connection = self._take(address.place) or self._wire.open(address.place, self._ca_file)
        keep = False
        try:
            answer = connection.exchange(request)
            keep = answer.keep
        finally:
            if keep:
                self._idle = connection
            else:
                connection.close()
        return Response(answer.status, answer.content_type, answer.body)

    def _take(self, place: Place) -> Connection | None:
        """The idle connection, if it leads there and can be trusted; else it is closed."""
        connection, self._idle = self._idle, None
        if connection is None or (connection.place == place and connection.trusted()):
            return connection
        connection.close()
        return None


def _address(url: str) -> _Address:
    """`url` as requests would call it. Raises ValueError."""
    prepared = requests.PreparedRequest()
    prepared.prepare_url(url, None)
    parts = urlsplit(str(prepared.url))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an HTTP URL")
    usual = 443 if parts.scheme == "https" else 80
    port = usual if parts.port is None else parts.port
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if _CONTROL.search(host + target):
        raise ValueError("control characters in the URL")
    return _Address(
        Place(parts.scheme == "https", parts.hostname, port), host if port == usual else f"{host}:{port}", target
    )


def _request(method: str, address: _Address, form: str) -> bytes:
    """The whole request: one write, so that a server has all of it or nothing. Raises UnicodeEncodeError."""
    if method == "GET":
        query = f"?{form}" if form else ""
        return f"GET {address.target}{query} HTTP/1.1\r\nHost: {address.host}\r\n{_HEADERS}\r\n".encode("ascii")
    head = f"POST {address.target} HTTP/1.1\r\nHost: {address.host}\r\n{_FORM_HEADERS}"
    return f"{head}Content-Length: {len(form)}\r\n\r\n{form}".encode("ascii")


def _form(fields: Mapping[str, str]) -> str:
    """`fields` as a form. Raises UnicodeEncodeError for half a surrogate pair."""
    return "&".join(f"{quote_plus(name)}={_quoted(value)}" for name, value in fields.items())


def _quoted(value: str) -> str:
    # Images are long and in base64, for which quote_plus takes 30 times as long.
    if len(value) > 256 and _BASE64.fullmatch(value):
        return value.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    return quote_plus(value)
