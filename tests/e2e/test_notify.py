"""What systemd is told, and when: readiness that is earned, reloads, a line that says what is wrong, failed starts."""

import errno
import os
import re
import signal
from pathlib import Path

import pytest

from tests.support.broken import NO_WORKER
from tests.support.harness import Daemon, eventually
from tests.support.listener import Listener
from tests.support.sandbox import Sandbox


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, str]:
    """An environment in which workers boot only when the file that it names is gone."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_WORKER)
    return {"PYTHONPATH": str(tmp_path / "site"), "BROKEN": str(tmp_path / "broken")}


def is_ready(message: str) -> bool:
    return "READY=1" in message.splitlines()


def test_a_reload_before_it_is_ready_does_not_tell_that_it_is(tmp_path: Path, broken: dict[str, str]) -> None:
    Path(broken["BROKEN"]).touch()
    with Listener(tmp_path / "notify") as systemd, Sandbox() as sandbox:
        daemon = Daemon(tmp_path, sandbox, {"daemon": {"probation_s": 60.0}}, environ=broken | systemd.environ)
        try:
            daemon.start(wait=False)
            eventually(lambda: (daemon.status() or {}).get("daemon", {}).get("state") == "starting")
            daemon.write_config({"policy": {"allowed_hosts": ["example.com", "-"]}})
            assert daemon.ctl("reload").returncode == 0
            assert not any(map(is_ready, systemd.heard()))
            Path(broken["BROKEN"]).unlink()
            daemon.wait_ready()
            eventually(lambda: any(map(is_ready, systemd.heard())))
        finally:
            daemon.__exit__(None, None, None)
        assert sum(map(is_ready, systemd.heard())) == 1


def test_a_configuration_with_which_no_worker_boots_is_rolled_back_at_a_start(
    tmp_path: Path, broken: dict[str, str]
) -> None:
    with (
        Listener(tmp_path / "notify") as systemd,
        Sandbox() as sandbox,
        Daemon(tmp_path, sandbox, environ=broken | systemd.environ) as daemon,
    ):
        eventually(lambda: daemon.status()["daemon"]["config"]["probation_s"] is None)
        daemon.stop()
        daemon.write_config({"supervision": {"threads": 5}})
        Path(broken["BROKEN"]).touch()
        daemon.start(wait=False)
        wanted = "rolled back: workers cannot boot; undone: supervision.threads"
        eventually(lambda: wanted == ((daemon.status() or {}).get("daemon", {}).get("config", {}).get("problem")), 60)
        Path(broken["BROKEN"]).unlink()
        daemon.wait_ready(60)
        eventually(lambda: any(is_ready(each) and wanted in each for each in systemd.heard()))
        daemon.restart()
        assert "was rejected: workers cannot boot" in daemon.status()["daemon"]["config"]["problem"]


def test_pings_come_in_time_however_rare_heartbeats_are(tmp_path: Path) -> None:
    overrides = {"supervision": {"heartbeat_s": 60.0, "stall_s": 600.0}}
    with (
        Listener(tmp_path / "notify") as systemd,
        Sandbox() as sandbox,
        Daemon(tmp_path, sandbox, overrides, environ=systemd.environ | {"WATCHDOG_USEC": "2000000"}),
    ):
        # Half a heartbeat apart they would take a minute, and the watchdog strikes after two seconds.
        eventually(lambda: systemd.heard().count("WATCHDOG=1") > 2)


def _kill_workers(daemon: Daemon) -> None:
    for pid in daemon.worker_pids():
        os.kill(pid, signal.SIGKILL)


def _problem(daemon: Daemon) -> str | None:
    return str(found) if (found := daemon.status()["daemon"]["config"]["problem"]) else None


def test_what_failed_before_a_reload_is_not_held_against_it(tmp_path: Path, broken: dict[str, str]) -> None:
    overrides = {"supervision": {"restart_max_delay_s": 5.0}}
    with Sandbox() as sandbox, Daemon(tmp_path, sandbox, overrides, environ=broken) as daemon:
        eventually(lambda: daemon.status()["daemon"]["config"]["probation_s"] is None)
        Path(broken["BROKEN"]).touch()
        _kill_workers(daemon)
        eventually(lambda: daemon.log().count("[death boot_failed]") >= 8, 30)  # the next try is some ticks away
        Path(broken["BROKEN"]).unlink()
        daemon.write_config({"supervision": {"boot_s": 60.0}, "daemon": {"probation_s": 60.0}})
        assert daemon.ctl("reload").returncode == 0
        eventually(lambda: daemon.status()["workers"]["alive"] == 2, 30)
        assert _problem(daemon) is None


def test_a_disk_that_takes_no_side_file_is_not_held_against_a_configuration(
    tmp_path: Path, broken: dict[str, str]
) -> None:
    with Sandbox() as sandbox, Daemon(tmp_path, sandbox, environ=broken) as daemon:
        eventually(lambda: daemon.status()["daemon"]["config"]["probation_s"] is None)
        daemon.write_config({"supervision": {"boot_s": 60.0}, "daemon": {"probation_s": 60.0}})
        assert daemon.ctl("reload").returncode == 0
        Path(broken["BROKEN"]).write_text("disk")
        _kill_workers(daemon)
        eventually(lambda: daemon.log().count("exit status 74") >= 8, 30)
        assert _problem(daemon) is None
        assert "[death boot_failed]" not in daemon.log()
        Path(broken["BROKEN"]).unlink()
        eventually(lambda: daemon.status()["workers"]["alive"] == 2, 30)
        assert _problem(daemon) is None


def test_the_line_says_mode_workers_and_how_long_the_oldest_waits(tmp_path: Path) -> None:
    overrides = {"provider": {"methods": ["turnstile"]}}
    with (
        Listener(tmp_path / "notify") as systemd,
        Sandbox() as sandbox,
        Daemon(tmp_path, sandbox, overrides, environ=systemd.environ) as daemon,
    ):
        daemon.drop([{"id": "a", "sitekey": "a", "pageurl": "https://example.com/"}])
        wanted = re.compile(r"STATUS=normal: 2/2 workers, 1 queued \(oldest [1-9]\d* s\), 0 in flight, 0 dead; ")
        eventually(lambda: any(map(wanted.match, systemd.heard())))
        assert daemon.ctl("reload").returncode == 0
        told = [each for each in systemd.heard() if each.startswith("RELOADING=1\nMONOTONIC_USEC=")]
        assert len(told) == 1
        assert is_ready(systemd.heard()[systemd.heard().index(told[0]) + 1])


@pytest.mark.parametrize(
    ("text", "code", "number"),
    [("[daemon]\nworkers = 'x'\n", 78, errno.EINVAL), (None, 75, errno.ENOTDIR)],
    ids=["an invalid file", "a directory that is a file"],
)
def test_a_start_that_fails_says_why(tmp_path: Path, text: str | None, code: int, number: int) -> None:
    with Listener(tmp_path / "notify") as systemd, Sandbox() as sandbox:
        daemon = Daemon(tmp_path, sandbox, environ=systemd.environ)
        if text is None:
            (tmp_path / "file").write_text("")
            daemon.write_config({"daemon": {"state_dir": str(tmp_path / "file" / "state")}})
        else:
            daemon.config_file.write_text(text)
        try:
            daemon.start(wait=False)
            assert daemon.process is not None
            assert daemon.process.wait(30) == code
        finally:
            daemon.__exit__(None, None, None)
        assert systemd.heard()[-2].startswith("STATUS=not started: ")
        assert systemd.heard()[-1] == f"ERRNO={number}"


def test_a_start_that_waits_for_the_journal_says_so_at_once(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    with Listener(tmp_path / "notify") as systemd, Sandbox() as sandbox, Daemon(tmp_path, sandbox) as first:
        overrides = {"daemon": {"state_dir": str(first.state_dir)}}
        second = Daemon(tmp_path / "second", sandbox, overrides, environ=systemd.environ)
        wanted = f"waiting 10 s at most: {first.state_dir / 'journal'} is locked by process {first.pid}"
        try:
            second.start(wait=False)
            eventually(lambda: f"STATUS={wanted}" in systemd.heard())
            assert second.running
            assert f"WARNING {wanted}\n" in second.log()
            first.kill()
            second.wait_ready()
            heard = systemd.heard()
            assert "STATUS=replaying the journal" in heard[heard.index(f"STATUS={wanted}") :]
        finally:
            second.__exit__(None, None, None)
