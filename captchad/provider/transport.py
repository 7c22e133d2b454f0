"""One HTTP request at a time, with one deadline over all of it, that ends as exactly one of three things.

    Response  an HTTP answer came, whole
    NotSent   not one byte of the request was handed to the network: name, connection or TLS failed
    Lost      at least one byte was, and no whole answer came

A submit that is NotSent costs nothing and may be repeated; one that is Lost may be paid for. Therefore our own
connections note the moment of the first byte; urllib3's exceptions do not tell it. Nothing is retried, no redirect is
followed, no cookie is kept, no proxy or netrc is read from the environment, and no compression is asked for, so an
answer cannot grow in our hands.

Outcomes are values. No exception leaves this module, because those of requests carry the URL, and with it the key.
Reasons are made of our own words and the operating system's.

A Transport belongs to one thread; only `deadline` and `abort` may be used by others. Neither importing this module
nor making a Transport or a Resolver makes a thread or a socket: both are made in a child after a fork.
"""

__all__ = ["Lost", "NotSent", "Resolver", "Response", "Transport", "scrub"]

import http.client
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError

from captchad import __version__
from captchad.model.clock import Clock, SystemClock
from captchad.provider.resolver import Resolver, process_resolver
from captchad.provider.wire import MAX_BODY, PIECE, Adapter, Wire

#: A connection idle for longer is not trusted with a submit: a server that closes it meanwhile makes the submit Lost.
SUBMIT_IDLE_S = 1.0

#: A poll is harmless to repeat, so an older connection is worth a try.
POLL_IDLE_S = 60.0

_HEADERS = {
    "User-Agent": f"captchad/{__version__}",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Connection": "keep-alive",
}
_FORM_HEADERS = _HEADERS | {"Content-Type": "application/x-www-form-urlencoded"}

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


class Transport:
    """HTTP for one thread. `ca_file`: certificates to trust instead of the installed bundle."""

    def __init__(
        self, resolver: Resolver | None = None, *, ca_file: str | None = None, clock: Clock | None = None
    ) -> None:
        clock = clock or SystemClock()
        self._wire = Wire(resolver or process_resolver(os.getpid()), clock)
        self._ca_file = ca_file
        self._adapter: HTTPAdapter | None = None
        self._addresses: dict[str, str] = {}

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
        """Close all connections."""
        if self._adapter is not None:
            self._adapter.close()
            self._adapter = None

    def _call(
        self, method: str, url: str, fields: Mapping[str, str], deadline: float, max_idle_s: float
    ) -> Response | NotSent | Lost:
        call = self._wire.begin(deadline, max_idle_s)
        try:
            return self._exchange(method, url, _form(fields))
        except (requests.RequestException, HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            # The names of exceptions are safe to show, their messages are not.
            reason = call.trouble or f"http: {type(error).__name__}"
            return Lost(reason) if call.sent else NotSent(reason)
        finally:
            self._wire.end()

    def _exchange(self, method: str, url: str, form: str) -> Response:
        adapter = self._adapter = self._adapter or self._open()
        # Made by hand: a Session would go through cookies, redirects and the environment first, at twice the cost.
        request = requests.PreparedRequest()
        request.method = method
        if method == "GET":
            request.url = f"{self._address(url)}?{form}"
            request.headers = CaseInsensitiveDict(_HEADERS)
        else:
            request.url = self._address(url)
            request.body = form.encode("ascii")
            request.headers = CaseInsensitiveDict(_FORM_HEADERS, **{"Content-Length": str(len(request.body))})
        with adapter.send(request, stream=True, timeout=self._wire.left()) as answer:
            return Response(answer.status_code, answer.headers.get("Content-Type") or "", self._body(answer))

    def _address(self, url: str) -> str:
        """`url` as requests would send it; there are only a few, so each is checked once. Raises ValueError."""
        known = self._addresses.get(url)
        if known is None:
            prepared = requests.PreparedRequest()
            prepared.prepare_url(url, None)
            known = self._addresses[url] = str(prepared.url)
        return known

    def _body(self, answer: requests.Response) -> bytes:
        """All of the body. Raises StopError when it is too big, or shorter than announced."""
        pieces, size = [], 0
        while piece := answer.raw.read(PIECE, decode_content=False):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BODY:
                raise self._wire.fail("the answer is too big")
        # urllib3 2 looks at this by itself, urllib3 1 does not: half a text answer could pass for a shorter id.
        announced = answer.headers.get("Content-Length", "")
        if announced.isdecimal() and size < int(announced) and not answer.raw.chunked:
            raise self._wire.fail("the answer is cut short")
        return b"".join(pieces)

    def _open(self) -> HTTPAdapter:
        _silence_urllib3()
        return Adapter(self._wire, self._ca_file)


def _form(fields: Mapping[str, str]) -> str:
    """`fields` as a form. Raises UnicodeEncodeError for half a surrogate pair."""
    return "&".join(f"{quote_plus(name)}={_quoted(value)}" for name, value in fields.items())


def _quoted(value: str) -> str:
    # Images are long and in base64, for which quote_plus takes 30 times as long.
    if len(value) > 256 and _BASE64.fullmatch(value):
        return value.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    return quote_plus(value)


def _silence_urllib3() -> None:
    """Stop urllib3's own log: it shows whole URLs, at WARNING for answers with odd headers."""
    for name in ("urllib3.connection", "urllib3.connectionpool", "urllib3.response", "urllib3.util.retry"):
        logging.getLogger(name).disabled = True
