"""The monitor as a process: a real pipe, real connections, real signals."""

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import time
from multiprocessing import Pipe
from pathlib import Path

import pytest

from captchad.ipc.channel import Channel
from captchad.model.clock import SystemClock
from captchad.monitor import http as monitor_http
from captchad.monitor.serve import serve

SNAPSHOT = {
    "m": "snapshot",
    "status": {"schema": 1, "source": "live", "age_s": 0.0, "daemon": {"pid": 7, "state": "running"}},
    "health": {
        "live": True,
        "ready": True,
        "checks": {"workers": {"status": "pass", "output": "4 of 4"}, "provider": {"status": "warn", "output": "slow"}},
    },
    "metrics": [["captchad_tasks", "gauge", "Tasks.", [[{"state": "ready"}, 3]]]],
}


class ShiftedClock(SystemClock):
    """A clock that only the test moves, from outside: each byte in a pipe is a second.

    However long a test takes, a snapshot grows stale and a client slow when the test says so.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._now_s = super().monotonic()

    def monotonic(self) -> float:
        with contextlib.suppress(BlockingIOError):
            self._now_s += len(os.read(self._fd, 4096))
        return self._now_s


class Monitor:
    """A forked monitor and the parent's ends of what it holds."""

    def __init__(self) -> None:
        ours, theirs = Pipe()
        clock_fd, self._clock_fd = os.pipe()
        os.set_blocking(clock_fd, False)
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        # As the parent does: forked with signals blocked.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                ours.close()
                code = serve(listener, theirs.fileno(), ShiftedClock(clock_fd))
            finally:
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        listener.close()
        os.close(clock_fd)
        self._pipe = ours
        self.channel = Channel(ours.fileno())

    def advance(self, seconds: int) -> None:
        os.write(self._clock_fd, b"s" * seconds)

    def send(self, **changes) -> None:
        """A snapshot; returns when the monitor has taken it (it answers in the order of its events)."""
        assert self.channel.send(SNAPSHOT | changes)
        marker = changes.get("status", SNAPSHOT["status"])["daemon"]["pid"]
        end = time.monotonic() + 20
        while time.monotonic() < end:
            code, _, body = self.get("/status")
            if code == 200 and json.loads(body)["daemon"]["pid"] == marker:
                return
        raise AssertionError("the snapshot was not taken")

    def get(self, target: str, method: str = "GET", **more):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, target, **more)
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()
        finally:
            connection.close()

    def raw(self, sent: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as sock:
            got = b""
            # Who is one too many may be reset while it sends.
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                sock.sendall(sent)
                while chunk := sock.recv(1 << 16):
                    got += chunk
            return got

    def end(self) -> int:
        """Close the pipe as a dying parent does; returns the monitor's exit code."""
        if self._pipe.closed:
            return 0
        self._pipe.close()
        os.close(self._clock_fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def monitor():
    found = Monitor()
    yield found
    found.end()


def test_before_the_first_snapshot_nothing_is_well(monitor):
    for target in ("/health", "/health/ready", "/livez", "/readyz", "/metrics", "/status"):
        code, _, body = monitor.get(target)
        assert code == 503, target
        assert "no snapshot" in body
    assert monitor.get("/")[0] == 200


def test_a_good_snapshot(monitor):
    monitor.send()
    code, headers, body = monitor.get("/health")
    assert (code, headers["Content-Type"]) == (200, "application/health+json")
    assert json.loads(body)["status"] == "warn"
    assert json.loads(body)["checks"]["workers"] == [{"status": "pass", "output": "4 of 4"}]
    assert monitor.get("/health/ready")[0] == 200
    assert monitor.get("/livez")[::2] == (200, "ok\n")
    assert monitor.get("/readyz")[::2] == (200, "ok\n")
    code, _, body = monitor.get("/readyz?verbose")
    assert body == "[+]workers pass 4 of 4\n[+]provider warn slow\nreadyz check passed\n"
    code, headers, body = monitor.get("/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'captchad_tasks{state="ready"} 3\n' in body
    assert monitor.get("/")[1]["Content-Security-Policy"].startswith("default-src 'none'")


def test_a_daemon_that_is_not_ready(monitor):
    monitor.send(health=SNAPSHOT["health"] | {"ready": False})
    assert monitor.get("/readyz")[0] == 503
    assert monitor.get("/health/ready")[0] == 503
    assert monitor.get("/health")[0] == 503
    assert monitor.get("/livez")[0] == 200


def test_a_failed_check_fails_health(monitor):
    monitor.send(health=SNAPSHOT["health"] | {"checks": {"solve_rate": {"status": "fail", "output": "10 %"}}})
    code, _, body = monitor.get("/health")
    assert (code, json.loads(body)["output"]) == (503, "solve_rate: 10 %")


def test_a_stale_snapshot_fails_health_and_a_new_one_heals_it(monitor):
    monitor.send()
    monitor.advance(6)
    for target in ("/health", "/health/ready", "/livez", "/readyz"):
        code, _, body = monitor.get(target)
        assert code == 503
        assert "stale" in body
    assert json.loads(monitor.get("/status")[2])["age_s"] >= 6
    assert monitor.get("/metrics")[0] == 200
    monitor.send(status={"daemon": {"pid": 8}})
    assert monitor.get("/health")[0] == 200


def test_head_has_the_headers_alone(monitor):
    monitor.send()
    code, headers, body = monitor.get("/health", "HEAD")
    assert (code, body) == (200, "")
    assert int(headers["Content-Length"]) > 0
    assert monitor.raw(b"HEAD /livez HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(monitor, method):
    code, headers, _ = monitor.get("/health", method, body=b"x" * 200_000)
    assert (code, headers["Allow"]) == (405, "GET, HEAD")


def test_a_body_is_read_away_so_that_no_reset_destroys_the_answer(monitor):
    with socket.create_connection(("127.0.0.1", monitor.port), timeout=20) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        sock.sendall(b"x" * 100_000)
        poller = select.poll()
        poller.register(sock, 0)  # errors and resets alone
        assert poller.poll(300) == []
    assert answer.startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize(
    "target", ["/nothing", "/../etc/passwd", "/%2e%2e/etc/passwd", "//health", "/health/", "/status/x"]
)
def test_there_is_nothing_else(monitor, target):
    assert monitor.raw(f"GET {target} HTTP/1.1\r\n\r\n".encode()).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET /health\r\n\r\n", 400),
        (b"GET http://other/ HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/2.0\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\xff\xfe \x00 \r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * (monitor_http.MAX_HEAD + 1), 431),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * (monitor_http.MAX_HEAD + 1) + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_request_gets_an_error(monitor, sent, code):
    assert monitor.raw(sent).startswith(b"HTTP/1.1 %d " % code)


def test_a_slow_client_holds_nobody_up_and_is_dropped(monitor):
    monitor.send()
    with socket.create_connection(("127.0.0.1", monitor.port), timeout=20) as slow:
        slow.sendall(b"GET /health HT")
        assert monitor.get("/livez")[0] == 200
        monitor.advance(int(monitor_http.CLIENT_S) + 1)
        monitor.get("/livez")  # an event, so that the monitor looks at the moved clock
        assert slow.recv(1) == b""


def test_a_connection_too_many_is_told_so(monitor):
    clients = [socket.create_connection(("127.0.0.1", monitor.port)) for _ in range(monitor_http.MAX_CLIENTS)]
    assert monitor.raw(b"").startswith(b"HTTP/1.1 503 ")
    for client in clients:
        client.close()
    end = time.monotonic() + 20
    while b" 404 " not in monitor.raw(b"GET /x HTTP/1.1\r\n\r\n"):
        assert time.monotonic() < end


def test_signals_do_not_end_it_but_the_parents_end_does(monitor):
    monitor.send()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(monitor.pid, number)
    assert monitor.get("/livez")[0] == 200
    assert monitor.end() == 0


def test_it_sleeps_while_nothing_happens(monitor):
    """A stretch longer than any tick in which it was never scheduled."""
    monitor.send()
    status = Path(f"/proc/{monitor.pid}/status")

    def switches() -> str:
        return next(line for line in status.read_text().splitlines() if line.startswith("voluntary_ctxt_switches"))

    end = time.monotonic() + 20
    before, calm_since = switches(), time.monotonic()
    while time.monotonic() - calm_since < 1.5:
        assert time.monotonic() < end, "it never came to rest"
        time.sleep(0.1)  # this is the measured span, not a wait for something
        if switches() != before:
            before, calm_since = switches(), time.monotonic()
