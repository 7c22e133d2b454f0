"""A full disk under load: intake stops, nothing accepted is lost, everybody is told, and it goes on by itself."""

import json
import os
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=True)
    assert os.path.ismount(disk)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def _fill(path: Path) -> None:
    """Take every byte that is left."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def _status_lines(sock: socket.socket) -> str:
    said = b""
    with suppress(BlockingIOError):
        while True:
            said += sock.recv(65536) + b"\n"
    return said.decode()


@pytest.mark.root
def test_a_full_disk_stops_intake_loses_nothing_and_heals(small_disk: Path, tmp_path: Path) -> None:
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(small_disk.parent / "n"))
    notify.setblocking(False)
    overrides = {"provider": {"first_poll_s": 0.5, "poll_s": 0.3}, "queue": {"segment_mb": 1}}
    environ = {"NOTIFY_SOCKET": str(small_disk.parent / "n")}
    with Sandbox(scenario="[solve]\nseconds = [2.0, 4.0]\n") as sandbox:
        daemon = Daemon(small_disk, sandbox, overrides, environ)
        daemon.log_file = tmp_path / "log"
        with daemon:
            _run(daemon, sandbox, small_disk, notify)
    notify.close()


def _run(daemon: Daemon, sandbox: Sandbox, disk: Path, notify: socket.socket) -> None:
    incoming = daemon.spool_dir / "incoming"
    (incoming / ".late").write_text("".join(json.dumps(task) + "\n" for task in _tasks("b", 50)))
    daemon.drop(_tasks("a", 150))
    eventually(lambda: sandbox.totals()["created"] >= 100)
    _fill(disk / "filler")

    # Told everywhere: status, STATUS=, log, health.
    eventually(lambda: _problem(daemon))
    said: list[str] = []
    eventually(lambda: said.append(_status_lines(notify)) or "disk is full" in "".join(said))
    assert "disk is full" in daemon.log()
    assert daemon.status()["daemon"]["mode"] in ("degraded", "emergency")
    assert daemon.ctl("health").returncode in (1, 2)

    # What is dropped now (a rename: it needs no room) stays in the spool; what is paid for is fetched.
    (incoming / ".late").rename(incoming / "late.jsonl")
    eventually(lambda: daemon.status()["queue"]["in_flight"] == 0)
    assert daemon.status()["queue"]["accepted_total"] == 150
    assert daemon.status()["queue"]["solved_total"] == sandbox.totals()["created"]
    assert (incoming / "late.jsonl").exists()

    (disk / "filler").unlink()
    results = daemon.wait_results(200)
    assert {result["status"] for result in results.values()} == {"solved"}
    charges = Counter(captcha["fields"]["googlekey"] for captcha in sandbox.captchas())
    assert set(charges.values()) == {1}
    eventually(lambda: not _problem(daemon))
    assert "there is room again" in daemon.log()


@pytest.mark.root
def test_a_start_on_a_full_disk_is_ready_without_intake_and_heals(small_disk: Path, tmp_path: Path) -> None:
    with Sandbox(scenario="[solve]\nseconds = 2.0\n") as sandbox:
        daemon = Daemon(small_disk, sandbox)
        daemon.log_file = tmp_path / "log"
        with daemon:
            first = daemon.drop(_tasks("a", 20))
            eventually(lambda: sandbox.totals()["created"] == 20)
            incoming = daemon.spool_dir / "incoming"
            (incoming / ".late").write_text("".join(json.dumps(task) + "\n" for task in _tasks("b", 10)))
            daemon.kill()
            _fill(small_disk / "filler")

            daemon.start()
            (incoming / ".late").rename(incoming / "late.jsonl")
            eventually(lambda: daemon.status()["queue"]["in_flight"] == 0)
            assert daemon.status()["daemon"]["mode"] in ("degraded", "emergency")
            assert _problem(daemon)
            assert daemon.status()["queue"]["accepted_total"] == 20

            (small_disk / "filler").unlink()
            results = daemon.wait_results(len(first) + 10)
            assert {result["status"] for result in results.values()} == {"solved"}
            assert sandbox.totals()["created"] == 30


def _tasks(prefix: str, number: int) -> list[dict[str, str]]:
    return [
        {"id": f"{prefix}{index}", "sitekey": f"{prefix}-k{index}", "pageurl": "https://example.com/"}
        for index in range(number)
    ]


def _problem(daemon: Daemon) -> bool:
    return any("disk is full" in line or "takes no write" in line for line in daemon.status()["daemon"]["problems"])
