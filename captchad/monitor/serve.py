"""The body of the monitor process: takes snapshots from the parent's pipe, answers HTTP, ends with the parent."""

__all__ = ["serve"]

import faulthandler
import json
import signal
import socket
from http import HTTPStatus
from typing import Any

from captchad.ipc.channel import Channel
from captchad.ipc.loop import Loop
from captchad.logs import set_logging
from captchad.model.clock import Clock
from captchad.monitor import metrics, page
from captchad.monitor.health import Health, judge
from captchad.monitor.http import Page, Server

_JSON = "application/json"
_HEALTH = "application/health+json"
_TEXT = "text/plain; charset=utf-8"
_HTML = "text/html; charset=utf-8"


def serve(listen_socket: socket.socket, channel_fd: int, clock: Clock) -> int:
    """Serve until the channel ends; returns the exit code. Call it in a fresh child, with one thread.

    Ignores SIGTERM, SIGINT and SIGHUP: the parent ends it by closing the pipe. SIGUSR2 writes the stack to stderr.
    """
    _own_signals()
    loop = Loop(clock)
    monitor = Monitor(clock)
    channel = Channel(channel_fd)
    server = Server(listen_socket, loop, monitor.respond)
    loop.watch(channel.fd, readable=lambda: monitor.take(channel.receive()))
    while not channel.gone:
        loop.turn()
    server.close()
    loop.close()
    return 0


def _own_signals() -> None:
    """Undo what was inherited from the parent, then let signals through again."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class Monitor:
    """The last snapshot, and the pages made from it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._snapshot: dict[str, Any] = {}
        self._taken_at: float | None = None
        self._pages = {
            "/": self._index,
            "/health": self._health,
            "/health/ready": self._ready,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/status": self._status,
        }

    def take(self, messages: list[dict[str, Any]]) -> None:
        """Keep the newest snapshot among `messages`, and log as they say."""
        for message in messages:
            if message.get("m") == "config":
                set_logging(message["log_level"], message["log_format"])
            elif message.get("m") == "snapshot":
                self._snapshot = message
                self._taken_at = self._clock.monotonic()

    def respond(self, path: str, query: str) -> Page:
        """The page at exactly `path`; there are no files behind it."""
        make = self._pages.get(path)
        if make is None:
            return Page(HTTPStatus.NOT_FOUND, _TEXT, "".join(f"{name}\n" for name in self._pages).encode())
        return make(query)

    @property
    def age_s(self) -> float | None:
        """Seconds since the last snapshot; None before the first."""
        return None if self._taken_at is None else self._clock.monotonic() - self._taken_at

    def _judge(self) -> Health:
        return judge(self._snapshot.get("health"), self.age_s)

    def _index(self, query: str) -> Page:
        del query
        health = self._judge()
        text = page.render(self._snapshot.get("status", {}), health, self.age_s)
        return Page(HTTPStatus.OK, _HTML, text.encode(), page.HEADERS)

    def _health(self, query: str) -> Page:
        del query
        health = self._judge()
        return Page(_code(health.status != "fail"), _HEALTH, _dump(health.body()))

    def _ready(self, query: str) -> Page:
        del query
        health = self._judge()
        return Page(_code(health.ready), _HEALTH, _dump(health.body() | {"status": "pass" if health.ready else "fail"}))

    def _livez(self, query: str) -> Page:
        health = self._judge()
        return _probe("livez", health.live, health, query)

    def _readyz(self, query: str) -> Page:
        health = self._judge()
        return _probe("readyz", health.ready, health, query)

    def _metrics(self, query: str) -> Page:
        del query
        age_s = self.age_s
        if age_s is None:
            return Page(HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, b"no snapshot from the daemon yet\n")
        about = ["captchad_snapshot_age_seconds", "gauge", "Age of the numbers on this page.", [[{}, age_s]]]
        text = metrics.render([*self._snapshot.get("metrics", []), about])
        return Page(HTTPStatus.OK, metrics.CONTENT_TYPE, text.encode())

    def _status(self, query: str) -> Page:
        del query
        age_s = self.age_s
        if age_s is None:
            return Page(HTTPStatus.SERVICE_UNAVAILABLE, _JSON, _dump({"error": "no snapshot from the daemon yet"}))
        return Page(HTTPStatus.OK, _JSON, _dump({**self._snapshot.get("status", {}), "age_s": round(age_s, 3)}))


def _probe(name: str, good: bool, health: Health, query: str) -> Page:
    """Plain text for probes; with `?verbose` a line for each check, `[+]` for what passes, `[-]` for what does not."""
    lines = []
    if "verbose" in query.split("&"):
        for check, found in health.checks.items():
            status = found.get("status")
            mark = "-" if status == "fail" else "+"
            lines.append(f"[{mark}]{check} {status} {found.get('output', '')}".rstrip())
    lines.append("ok" if good and not lines else f"{name} check {'passed' if good else 'failed: ' + health.output}")
    return Page(_code(good), _TEXT, "".join(f"{line}\n" for line in lines).encode())


def _code(good: bool) -> HTTPStatus:
    return HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE


def _dump(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
