"""How these tests talk to a sandbox: polite calls, raw bytes, pictures."""

__all__ = ["KEY", "PAGE", "Client", "png", "raw", "until"]

import socket
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import requests

from tests.support.sandbox import Sandbox

T = TypeVar("T")

KEY = Sandbox.key
PAGE = "https://example.com/login"


class Client:
    """Calls of the protocol over one keep-alive connection."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.session = requests.Session()

    def submit(self, sitekey: str = "site", **fields: Any) -> str:
        """Submit a turnstile (or what `fields` say). Returns the text answer."""
        found = {"key": KEY, "method": "turnstile", "sitekey": sitekey, "pageurl": PAGE} | fields
        return self.get("/in.php", **{name: value for name, value in found.items() if value is not None}).text

    def create(self, sitekey: str = "site", **fields: Any) -> str:
        """Submit, and return the id."""
        answer = self.submit(sitekey, **fields)
        assert answer.startswith("OK|"), answer
        return answer[3:]

    def res(self, action: str, captcha_id: str | None = None, **fields: Any) -> str:
        """Ask res.php. Returns the text answer."""
        return self.get("/res.php", **{"key": KEY, "action": action, "id": captcha_id} | fields).text

    def get(self, path: str, **fields: Any) -> requests.Response:
        """GET with the fields in the query."""
        return self.session.get(self.sandbox.url + path, params=fields, timeout=30, allow_redirects=False)

    def post(self, path: str, **options: Any) -> requests.Response:
        """POST, as `requests` has it."""
        return self.session.post(self.sandbox.url + path, timeout=30, allow_redirects=False, **options)


def raw(sandbox: Sandbox, *pieces: bytes, timeout: float = 30.0) -> bytes:
    """Send bytes on a new connection. Returns all that comes back until the other side closes."""
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=timeout) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def until(probe: Callable[[], T], timeout: float = 20.0) -> T:
    """The first true value of `probe`. Raises AssertionError when there is none in time."""
    deadline = time.monotonic() + timeout
    while not (value := probe()):
        assert time.monotonic() < deadline, value
        time.sleep(0.01)
    return value


def png(width: int = 60, height: int = 20) -> bytes:
    """A true PNG, grey, of more than 100 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((x * y) % 256 for x in range(width)) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
