"""The Debian packages that some tests need: one list, for `make test` and for the skips in conftest.

    python3 tests/support/debian.py            installs what is missing, as root where apt-get is; else says what
    python3 tests/support/debian.py NAME...    the same for these, and fails if one is missing afterwards

It runs before the virtual environment is filled, so it needs the standard library only.
"""

__all__ = ["PACKAGES", "install", "missing"]

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_SYSTEM_PYTHON = Path("/usr/lib/python3/dist-packages")

#: Package name to what proves it: a program, or an absolute path. `@pytest.mark.debian("strace")` names them.
PACKAGES = {
    "debhelper": "dh",
    "dh-python": "dh_python3",
    "e2fsprogs": "mkfs.ext4",
    "fish": "fish",
    "gcc": "gcc",
    "go-md2man": "go-md2man",
    "libc6-dev": "/usr/include/unistd.h",
    "man-db": "man",
    "mount": "mount",
    "procps": "ps",
    "python3-psutil": f"{_SYSTEM_PYTHON}/psutil/__init__.py",
    "python3-requests": f"{_SYSTEM_PYTHON}/requests/__init__.py",
    "python3-sdnotify": f"{_SYSTEM_PYTHON}/sdnotify/__init__.py",
    "python3-tomli-w": f"{_SYSTEM_PYTHON}/tomli_w/__init__.py",
    # What it brings has the version of Python in its path: ask dpkg.
    "python3-venv": "/var/lib/dpkg/info/python3-venv.list",
    "strace": "strace",
    "systemd": "/lib/systemd/systemd",
    "util-linux": "unshare",
    "zsh": "zsh",
}


def missing(names: Iterable[str] = PACKAGES) -> list[str]:
    """Those of `names` that are not here. A name that is not in PACKAGES raises KeyError."""
    return [name for name in names if not _present(PACKAGES[name])]


def install(names: Iterable[str]) -> None:
    """Install `names` with apt-get. Raises CalledProcessError."""
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=500"]
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*apt, "update"], env=environ, check=True, stdin=subprocess.DEVNULL)
    subprocess.run(
        [*apt, "install", "--yes", "--no-install-recommends", "--no-upgrade", *names],
        env=environ,
        check=True,
        stdin=subprocess.DEVNULL,
    )


def _present(proof: str) -> bool:
    return Path(proof).exists() if proof.startswith("/") else shutil.which(proof, path=_PATH) is not None


def main(wanted: list[str]) -> int:
    """Install, or name, what is missing. 0 unless an installation failed, or a wanted one is not there."""
    names = missing(wanted or PACKAGES)
    if not names:
        return 0
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        consequence = "apt install them as root" if wanted else "the tests that need them are skipped"
        print(f"not installed, {consequence}: {' '.join(names)}", file=sys.stderr)
        return 1 if wanted else 0
    try:
        install(names)
    except subprocess.CalledProcessError as error:
        print(f"{' '.join(error.cmd)}: exit status {error.returncode}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
