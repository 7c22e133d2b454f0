"""tests/support/run-systemd.sh itself: the tests that stand on it are worth what it is worth."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.harness import eventually
from tests.support.systemd import NEEDS, SCRIPT, boot

pytestmark = [pytest.mark.root, pytest.mark.debian(*NEEDS)]


def test_it_passes_on_status_and_output(tmp_path):
    done = boot(["bash", "-c", "cat /proc/1/comm; systemctl is-system-running; exit 7"], share=tmp_path, timeout=100)

    assert (done.returncode, done.stdout) == (7, "systemd\nrunning\n")


def test_only_the_shared_directory_keeps_what_is_written(tmp_path):
    kept, gone = tmp_path / "kept", Path(f"/etc/captchad-test-{os.getpid()}")
    done = boot(["bash", "-euc", f"echo a >{kept}; echo b >{gone}; cat {gone}"], share=tmp_path, timeout=100)

    assert (done.returncode, done.stdout) == (0, "b\n")
    assert kept.read_text() == "a\n"
    assert not gone.exists()


def test_the_machines_own_settings_are_out_of_reach(tmp_path):
    before = Path("/proc/sys/vm/swappiness").read_text()
    done = boot(["bash", "-c", "echo 7 >/proc/sys/vm/swappiness"], share=tmp_path, timeout=100)

    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
    assert Path("/proc/sys/vm/swappiness").read_text() == before


def test_a_killed_boot_leaves_nothing_behind(tmp_path):
    started = tmp_path / "started"
    command = [str(SCRIPT), "--bind", str(tmp_path), "bash", "-c", f"touch {started}; exec sleep 1000"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as script:
        eventually(started.exists)
        assert cgroups(script.pid)
        script.terminate()
        assert script.wait(20) == 128 + signal.SIGTERM
    assert not cgroups(script.pid)


def cgroups(pid: int) -> list[Path]:
    """The cgroups of the boot that the script with this pid has made."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"]
    return [found for mount in mounts for found in Path(mount).glob(f"captchad-test.{pid}")]
