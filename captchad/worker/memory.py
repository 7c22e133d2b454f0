"""How much memory this process takes, for its heartbeats."""

__all__ = ["Memory"]

import os

_PAGE = os.sysconf("SC_PAGE_SIZE")
_READ = os.O_RDONLY | os.O_CLOEXEC


class Memory:
    """Reads /proc. What cannot be read (a sandbox that hides it) counts as nothing, and limits nothing."""

    def __init__(self) -> None:
        self.every_s = 0.0  # how often private memory is asked for: the kernel walks all pages for it; 0: never
        self._statm = _open("/proc/self/statm")  # read with every heartbeat, so it stays open
        self._private = 0
        self._asked_at = float("-inf")

    def rss_bytes(self) -> int:
        """All that is in memory, shared pages too."""
        if self._statm is None:
            return 0
        return int(os.pread(self._statm, 128, 0).split()[1]) * _PAGE

    def private_bytes(self, now: float) -> int:
        """What would be free if this process went, as it was at most `every_s` ago; 0 when nobody asks."""
        if self.every_s <= 0.0:
            return 0
        if now >= self._asked_at + self.every_s:
            self._asked_at = now
            self._private = _private_bytes()
        return self._private


def _open(path: str) -> int | None:
    try:
        return os.open(path, _READ)
    except OSError:
        return None


def _private_bytes() -> int:
    fd = _open("/proc/self/smaps_rollup")
    if fd is None:
        return 0
    try:
        lines = os.read(fd, 1 << 14).splitlines()
    finally:
        os.close(fd)
    return sum(int(line.split()[1]) for line in lines if line.startswith(b"Private_")) << 10
