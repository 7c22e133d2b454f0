"""The preloaded library that counts syncs and can slow them down, and the few bytes that tell it how."""

__all__ = ["NO_SYNC_S", "VARIABLE", "SyncCounter", "build"]

import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path

#: For `slow_down`: nothing is synced.
NO_SYNC_S = -1.0

#: Names the shared file to the library.
VARIABLE = "CAPTCHAD_BENCH_SYNC"

_SOURCE = Path(__file__).with_name("slow_sync.c")
_FORM = struct.Struct("=qq")  # delay in nanoseconds, syncs so far


def build(directory: Path) -> Path | None:
    """Compile the library into `directory`; None when there is no gcc. Raises CalledProcessError."""
    if shutil.which("gcc") is None:
        return None
    library = directory / "slow_sync.so"
    subprocess.run(["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library), str(_SOURCE)], check=True)
    return library


class SyncCounter:
    """The shared file of one trial. Make it before the library's processes are started."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.write_bytes(_FORM.pack(0, 0))
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._map = mmap.mmap(fd, _FORM.size)
        os.close(fd)

    def slow_down(self, seconds: float) -> None:
        """From now on a sync takes at least so long; below zero nothing is synced."""
        self._map[:8] = struct.pack("=q", int(seconds * 1e9))

    @property
    def syncs(self) -> int:
        """Syncs so far, of all processes."""
        return int(_FORM.unpack(self._map[:])[1])
