"""Run a command under a systemd of its own (tests/support/run-systemd.sh), from a test."""

__all__ = ["NEEDS", "ROOT", "SCRIPT", "boot"]

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "tests" / "support" / "run-systemd.sh"
_UNABLE = 69
#: What the script and the system's Python need. Tests that use `boot` are marked `root` and `debian(*NEEDS)`.
NEEDS = (
    "mount",
    "python3-psutil",
    "python3-requests",
    "python3-sdnotify",
    "python3-tomli-w",
    "systemd",
    "util-linux",
)


def boot(
    command: Sequence[str],
    *,
    share: Path,
    options: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    timeout: float,
) -> subprocess.CompletedProcess[str]:
    """Run `command` as root inside, with `share` the one directory whose changes stay. Skips where none can boot."""
    done = subprocess.run(
        ["timeout", "--kill-after=10", str(timeout), str(SCRIPT), *options, "--bind", str(share), *command],
        cwd=ROOT,
        env={**os.environ, **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == _UNABLE:
        pytest.skip(done.stderr.strip())
    return done
