"""captchad.notify against real datagram sockets, as systemd would hold them."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from captchad.model.clock import SystemClock
from captchad.notify import Notify

PID = 4711


@contextmanager
def listener(address: str) -> Iterator[socket.socket]:
    """A notification socket at `address` (a path, or `@name`)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + address[1:] if address.startswith("@") else address)
        sock.setblocking(False)
        yield sock


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@captchad-test-{os.getpid()}-{tmp_path.name}"


@pytest.fixture
def notify() -> Iterator[object]:
    """Makes notifiers and closes them."""
    made: list[Notify] = []

    def make(address: str, **environ: str) -> Notify:
        made.append(Notify({"NOTIFY_SOCKET": address, **environ}, SystemClock(), PID))
        return made[-1]

    yield make
    for each in made:
        each.close()


def drain(sock: socket.socket) -> list[str]:
    """All datagrams that wait, decoded as UTF-8."""
    found = []
    while True:
        try:
            found.append(sock.recv(8192).decode())
        except BlockingIOError:
            return found


def test_every_message_is_one_datagram_in_the_protocols_words(address, notify):
    with listener(address) as systemd:
        told = notify(address)
        before = time.monotonic_ns() // 1000
        assert told.reloading()
        after = time.monotonic_ns() // 1000
        assert told.ready("4 workers")
        assert told.status("3 queued")
        assert told.extend_timeout(2.5)
        assert told.watchdog()
        assert told.errno(28)
        assert told.stopping()
        reloading, *others = drain(systemd)

    first, _, usec = reloading.partition("\nMONOTONIC_USEC=")
    assert first == "RELOADING=1"
    assert before - 1 <= int(usec) <= after
    assert others == [
        "READY=1\nSTATUS=4 workers",
        "STATUS=3 queued",
        "EXTEND_TIMEOUT_USEC=2500000",
        "WATCHDOG=1",
        "ERRNO=28",
        "STOPPING=1",
    ]
    assert told.failures == 0


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("é → 日本", "é → 日本"),
        ("a\nREADY=1\r\nb\0c\x1b[1m", "a READY=1  b c [1m"),
        ("lone \udce9 surrogate", "lone   surrogate"),
        ("é" * 5000, "é" * 1024),
        ("x" + "é" * 5000, "x" + "é" * 1023),
    ],
)
def test_a_status_is_one_line_of_utf8_that_fits(tmp_path, notify, text, line):
    address = str(tmp_path / "notify")
    with listener(address) as systemd:
        assert notify(address).status(text)
        assert drain(systemd) == [f"STATUS={line}"]


def test_a_full_queue_neither_blocks_nor_raises_and_the_state_is_sent_later(tmp_path, notify):
    address = str(tmp_path / "notify")
    with listener(address) as systemd:
        told = notify(address)
        queued = 0
        while told.watchdog():
            queued += 1
        assert queued > 0
        assert told.failures == 1
        assert not told.ready("up")
        assert not told.status("still full")
        assert told.failures == 3

        assert drain(systemd) == ["WATCHDOG=1"] * queued
        assert told.watchdog()
        assert drain(systemd) == ["READY=1\nSTATUS=up", "WATCHDOG=1"]
        assert told.watchdog()
        assert drain(systemd) == ["WATCHDOG=1"]


def test_only_the_newest_state_is_owed(tmp_path, notify):
    address = str(tmp_path / "notify")
    with listener(address) as systemd:
        told = notify(address)
        while told.watchdog():
            pass
        assert not told.ready("up")
        assert not told.stopping()
        drain(systemd)
        assert told.status("bye")
        assert drain(systemd) == ["STOPPING=1", "STATUS=bye"]


def test_a_socket_that_was_made_anew_is_found(tmp_path, notify):
    address = str(tmp_path / "notify")
    with listener(address) as systemd:
        told = notify(address)
        assert told.status("first")
        assert drain(systemd) == ["STATUS=first"]
    assert not told.status("nobody hears it")
    assert told.failures == 1
    Path(address).unlink()
    assert not told.status("nobody is there")
    with listener(address) as systemd:
        assert told.status("second")
        assert drain(systemd) == ["STATUS=second"]
    assert told.failures == 2


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative"])
def test_without_a_listener_all_is_well(notify, address):
    told = notify(address, WATCHDOG_USEC="2000000")
    assert not told.enabled
    assert told.watchdog_s is None
    assert told.ready("up")
    assert told.watchdog()
    assert told.failures == 0


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(PID)}, 2.5),
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_ours_only_if_systemd_says_so(tmp_path, notify, environ, seconds):
    assert notify(str(tmp_path / "notify"), **environ).watchdog_s == seconds


def test_children_do_not_inherit_the_protocol_and_the_daemon_goes_on(tmp_path):
    address = str(tmp_path / "notify")
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(PID), "PATH": "/bin"}
    with listener(address) as systemd:
        told = Notify(environ, SystemClock(), PID)
        told.clear_for_children()
        told.clear_for_children()
        assert environ == {"PATH": "/bin"}
        assert told.watchdog_s == 1.0
        assert told.watchdog()
        assert drain(systemd) == ["WATCHDOG=1"]
        told.close()
