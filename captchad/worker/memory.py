"""How much memory this process takes, for its heartbeats."""

__all__ = ["Memory"]

import os
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Memory:
    """Reads /proc. What cannot be read (a sandbox that hides it) counts as nothing, and limits nothing."""

    def __init__(self) -> None:
        self.every_s = 0.0  # how often private memory is asked for: the kernel walks all pages for it; 0: never
        self._private = 0
        self._asked_at = float("-inf")

    def rss_bytes(self) -> int:
        """All that is in memory, shared pages too."""
        try:
            return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
        except OSError:
            return 0

    def private_bytes(self, now: float) -> int:
        """What would be free if this process went, as it was at most `every_s` ago; 0 when nobody asks."""
        if self.every_s <= 0.0:
            return 0
        if now >= self._asked_at + self.every_s:
            self._asked_at = now
            self._private = _private_bytes()
        return self._private


def _private_bytes() -> int:
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) << 10
