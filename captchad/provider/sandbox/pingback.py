"""Callbacks: sends the answer of a captcha to the client's own server, once, twice or never, as the scenario says."""

__all__ = ["Courier", "host_of"]

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, quote_plus, urlsplit

from captchad.provider.sandbox.scenario import PingbackPlan

_PRINTABLE = re.compile(r"[!-~]+")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] 2[0-9][0-9]")


@dataclass(frozen=True, slots=True)
class _Parcel:
    url: SplitResult
    captcha_id: int
    code: str


class Courier:
    """Sends callbacks in the background. `done` hears of each of them: True if the other side took it with a 2xx."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def send(self, url: str, captcha_id: int, code: str, plan: PingbackPlan, done: Callable[[bool], None]) -> bool:
        """Send one callback. False: it will not be sent, because its host is not allowed or the URL is no good."""
        parts = _split(url)
        if parts is None or parts.hostname not in plan.hosts:
            return False
        task = asyncio.get_running_loop().create_task(self._carry(_Parcel(parts, captcha_id, code), plan, done))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return True

    async def _carry(self, parcel: _Parcel, plan: PingbackPlan, done: Callable[[bool], None]) -> None:
        await asyncio.sleep(plan.delay_s)
        try:
            taken = await asyncio.wait_for(_exchange(parcel, plan.verb), plan.timeout_s)
        except OSError:  # a timeout is one of these
            taken = False
        done(taken)


async def _exchange(parcel: _Parcel, verb: str) -> bool:
    url = parcel.url
    secure = url.scheme == "https"
    port = url.port or (443 if secure else 80)
    reader, writer = await asyncio.open_connection(url.hostname, port, ssl=secure or None)
    try:
        writer.write(_request(parcel, verb))
        await writer.drain()
        return _STATUS_LINE.match(await reader.readline()) is not None
    except ValueError:  # a line beyond the reader's limit
        return False
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _request(parcel: _Parcel, verb: str) -> bytes:
    form = f"id={parcel.captcha_id}&code={quote_plus(parcel.code)}"
    query, body = parcel.url.query, ""
    if verb == "GET":
        query = f"{query}&{form}" if query else form
    else:
        body = form
    target = (parcel.url.path or "/") + (f"?{query}" if query else "")
    return (
        f"{verb} {target} HTTP/1.1\r\nHost: {parcel.url.netloc.rpartition('@')[2]}\r\nConnection: close\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode("ascii")


def _split(url: str) -> SplitResult | None:
    """A URL that can be called, else None. What is not printable ASCII could break the request apart."""
    if _PRINTABLE.fullmatch(url) is None:
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None


def host_of(address: str) -> str:
    """The host of an address with or without a scheme, or ""."""
    try:
        return urlsplit(address if "://" in address else f"//{address}").hostname or ""
    except ValueError:
        return ""
