"""Processor time of one HTTP call of a worker, by transport.

    python -m benchmarks.calls [--tls] [--rounds 5] [--calls 250] [--threads 16] [--only captchad,urllib3] [--json FILE]

A client process with 16 threads, each with its own connection, calls a keep-alive HTTP server in another process: half
of the calls are submits (a form by POST), half are polls (GET). Measured is the processor time of the client process,
all threads, user and system. Every answer is looked at. Contenders take turns, each in a fresh process; ratios to the
bare http.client are those of the same round, since a shared machine is now fast, now slow.

    captchad        captchad.provider.transport.Transport, with all that it guarantees
    requests        a requests.Session for each thread
    urllib3         a urllib3 pool for each thread
    http.client     a standard HTTPConnection for each thread: the reference
    sockets         sendall, recv, split at the empty line: what threads and the system cost; no deadline, no checks
    asyncio         the same as streams in one thread, as many at once
"""

__all__ = ["main"]

import argparse
import asyncio
import http.client
import json
import platform
import re
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import requests
import urllib3

from captchad.provider.transport import Response, Transport
from tests.provider.hostile import CERTIFICATE

REFERENCE = "http.client"

SUBMIT = {
    "method": "userrecaptcha",
    "googlekey": "6LfW6wATAAAAAHLqO2pb8bDBahxlMxNdo9g947u9",
    "pageurl": "https://example.com/login?next=%2Faccount&lang=en",
    "key": "0123456789abcdef0123456789abcdef",
    "json": "1",
}
POLL = {"key": SUBMIT["key"], "action": "get", "id": "2122988149", "json": "1"}
ANSWERS = {"/in.php": b'{"status":1,"request":"2122988149"}', "/res.php": b'{"status":0,"request":"CAPCHA_NOT_READY"}'}
FORM_TYPE = {"Content-Type": "application/x-www-form-urlencoded"}

#: One call of the path with the fields, by POST or GET: gives the body.
Call = Callable[[str, dict[str, str], bool], bytes]


# --- server -----------------------------------------------------------------------------------------------------------


class _Server(asyncio.Protocol):
    """Answers each request with the heads that a provider behind nginx sends."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end]
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._data) < whole:
                return
            self._data = self._data[whole:]
            body = ANSWERS[head.split(b" ", 2)[1].partition(b"?")[0].decode()]
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sun, 22 Nov 2026 14:00:00 GMT\r\n"
                b"Content-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\nConnection: keep-alive\r\n"
                b"Vary: Accept-Encoding\r\nX-Request-Id: 7f3c2a90e1\r\n\r\n" % len(body) + body
            )


async def _serve(tls: bool) -> None:
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
    server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0, ssl=context, backlog=512)
    print(f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


# --- contenders -------------------------------------------------------------------------------------------------------


def _context(url: str) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=str(CERTIFICATE)) if url.startswith("https:") else None


def _captchad(url: str) -> Call:
    transport = Transport(ca_file=str(CERTIFICATE))

    def call(path: str, fields: dict[str, str], post: bool) -> bytes:
        send = transport.post_form if post else transport.get
        got = send(url + path, fields, time.monotonic() + 30.0)
        if not isinstance(got, Response):
            raise TypeError(got)
        return got.body

    return call


def _requests(url: str) -> Call:
    session = requests.Session()
    options = {"timeout": 30.0, "allow_redirects": False, "verify": str(CERTIFICATE)}

    def call(path: str, fields: dict[str, str], post: bool) -> bytes:
        if post:
            return session.post(url + path, data=fields, **options).content
        return session.get(url + path, params=fields, **options).content

    return call


def _urllib3(url: str) -> Call:
    tls = {"ssl_context": _context(url)} if url.startswith("https:") else {}
    pool = urllib3.connection_from_url(url, maxsize=1, retries=False, timeout=30.0, **tls)

    def call(path: str, fields: dict[str, str], post: bool) -> bytes:
        if post:
            return pool.urlopen("POST", path, body=urlencode(fields), headers=FORM_TYPE).data
        return pool.urlopen("GET", f"{path}?{urlencode(fields)}").data

    return call


def _http_client(url: str) -> Call:
    place = urlsplit(url)
    if place.scheme == "https":
        connection = http.client.HTTPSConnection(place.hostname, place.port, timeout=30.0, context=_context(url))
    else:
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30.0)

    def call(path: str, fields: dict[str, str], post: bool) -> bytes:
        if post:
            connection.request("POST", path, urlencode(fields), FORM_TYPE)
        else:
            connection.request("GET", f"{path}?{urlencode(fields)}")
        return connection.getresponse().read()

    return call


def _request(place: str, path: str, fields: dict[str, str], post: bool) -> bytes:
    form = urlencode(fields)
    if not post:
        return f"GET {path}?{form} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {place}\r\nContent-Type: {FORM_TYPE['Content-Type']}\r\n"
    return f"{head}Content-Length: {len(form)}\r\n\r\n{form}".encode()


def _sockets(url: str) -> Call:
    place = urlsplit(url)
    sock = socket.create_connection((place.hostname, place.port))
    context = _context(url)
    if context:
        sock = context.wrap_socket(sock, server_hostname=place.hostname)

    def call(path: str, fields: dict[str, str], post: bool) -> bytes:
        sock.sendall(_request(place.netloc, path, fields, post))
        return sock.recv(65536).partition(b"\r\n\r\n")[2]

    return call


CONTENDERS = {
    "captchad": _captchad,
    "requests": _requests,
    "urllib3": _urllib3,
    "http.client": _http_client,
    "sockets": _sockets,
}
ASYNCIO = "asyncio"


# --- client -----------------------------------------------------------------------------------------------------------


def _plan(calls: int) -> list[tuple[str, dict[str, str], bool]]:
    return [("/in.php", SUBMIT, True), ("/res.php", POLL, False)] * (calls // 2)


def _run_threads(name: str, url: str, threads: int, calls: int) -> dict[str, float]:
    """Processor seconds a call, and calls a second, without the first two calls of each thread and its connect."""
    ready, go, end = threading.Barrier(threads + 1), threading.Event(), threading.Barrier(threads + 1)

    def work() -> None:
        call = CONTENDERS[name](url)
        for path, fields, post in _plan(2):
            call(path, fields, post)
        ready.wait()
        go.wait()
        for path, fields, post in _plan(calls):
            if call(path, fields, post) != ANSWERS[path]:
                raise ValueError(f"a wrong answer from {path}")
        end.wait()

    for _ in range(threads):
        threading.Thread(target=work, daemon=True).start()
    ready.wait(60.0)
    cpu, wall = time.process_time(), time.monotonic()
    go.set()
    end.wait(600.0)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    return {"cpu_s": cpu / (threads * calls), "calls_per_s": threads * calls / wall}


async def _run_asyncio(url: str, threads: int, calls: int) -> dict[str, float]:
    place = urlsplit(url)
    context = _context(url)
    streams = [await asyncio.open_connection(place.hostname, place.port, ssl=context) for _ in range(threads)]

    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        for path, fields, post in _plan(number):
            writer.write(_request(place.netloc, path, fields, post))
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            if await reader.readexactly(int(length[1])) != ANSWERS[path]:
                raise ValueError(f"a wrong answer from {path}")

    await asyncio.gather(*(work(*stream, 2) for stream in streams))
    cpu, wall = time.process_time(), time.monotonic()
    await asyncio.gather(*(work(*stream, calls) for stream in streams))
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    return {"cpu_s": cpu / (threads * calls), "calls_per_s": threads * calls / wall}


# --- report -----------------------------------------------------------------------------------------------------------


def _measure(name: str, url: str, threads: int, calls: int) -> dict[str, float]:
    """One contender in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.calls", "--client", name, "--url", url]
    command += ["--threads", str(threads), "--calls", str(calls)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def table(rounds: Sequence[dict[str, dict[str, float]]]) -> str:
    """Medians over the rounds as a Markdown table; the ratio is the median of those within a round."""
    out = ["| transport | processor time a call | ratio to http.client | calls a second |", "|---|--:|--:|--:|"]
    for name in rounds[0]:
        cpu = statistics.median(each[name]["cpu_s"] for each in rounds) * 1e3
        ratio = statistics.median(each[name]["cpu_s"] / each[REFERENCE]["cpu_s"] for each in rounds)
        rate = statistics.median(each[name]["calls_per_s"] for each in rounds)
        out.append(f"| {name} | {cpu:.3f} ms | {ratio:.2f} | {rate:,.0f} |")
    return "\n".join(out)


def main() -> int:
    """Run all contenders by turns, print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.calls")
    parser.add_argument("--rounds", type=int, default=5, help="each contender runs so often (default: 5)")
    parser.add_argument("--threads", type=int, default=16, help="threads of the client (default: 16)")
    parser.add_argument("--calls", type=int, default=250, help="calls of each thread in a round (default: 250)")
    parser.add_argument("--only", default="", help="comma-separated contenders, beside http.client")
    parser.add_argument("--tls", action="store_true", help="HTTPS, as with a real provider")
    parser.add_argument("--json", type=Path, help="write every round here")
    parser.add_argument("--server", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.server:
        asyncio.run(_serve(options.tls))
    elif options.client == ASYNCIO:
        print(json.dumps(asyncio.run(_run_asyncio(options.url, options.threads, options.calls))))
    elif options.client:
        print(json.dumps(_run_threads(options.client, options.url, options.threads, options.calls)))
    else:
        _report(options)
    return 0


def _report(options: argparse.Namespace) -> None:
    names = [*CONTENDERS, ASYNCIO]
    if options.only:
        names = [name for name in names if name in {REFERENCE, *options.only.split(",")}]
    command = [sys.executable, "-m", "benchmarks.calls", "--server", *(["--tls"] if options.tls else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            url = server.stdout.readline().decode().strip()
            rounds = [
                {name: _measure(name, url, options.threads, options.calls) for name in names}
                for _ in range(options.rounds)
            ]
        finally:
            server.terminate()
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, requests "
        f"{requests.__version__}, urllib3 {urllib3.__version__}, {options.threads} threads, {options.rounds} rounds\n"
    )
    print(table(rounds))
    if options.json:
        options.json.write_text(json.dumps(rounds, indent=2))


if __name__ == "__main__":
    sys.exit(main())
