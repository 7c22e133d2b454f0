"""What the system says of itself: descriptors that a process may open, and memory that runs short. Linux alone.

A file that is not there (another cgroup version, a sandbox) says nothing: nothing is limited by what cannot be known.
"""

__all__ = ["Memory", "descriptor_limit", "raise_descriptor_limit"]

import os
import resource
from pathlib import Path

#: All tasks stood still for want of memory for this part of the last ten seconds, in percent.
PRESSURE_PERCENT = 10.0


def raise_descriptor_limit() -> None:
    """Use as many descriptors as we may: the soft limit is meant for programs that use `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int:
    """How many descriptors a process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft


class Memory:
    """Memory of our control group, version 2 or 1, and of the machine."""

    def __init__(self, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> None:
        self._pressure = proc / "pressure/memory"
        self._events = _events_file(proc, cgroups)
        self._killed = self._kills()

    def killed_one(self) -> bool:
        """Whether the kernel has killed a process of our group for its memory that no answer before this stands for.

        It may kill two at once, before anybody has asked about the first.
        """
        more = self._kills() > self._killed
        self._killed += more
        return more

    def short(self) -> bool:
        """Whether memory is under pressure."""
        for line in _lines(self._pressure):
            words = dict(word.partition("=")[::2] for word in line.split())
            if line.startswith("full ") and float(words.get("avg10", 0)) >= PRESSURE_PERCENT:
                return True
        return False

    def _kills(self) -> int:
        lines = _lines(self._events) if self._events else []
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def _events_file(proc: Path, cgroups: Path) -> Path | None:
    """Where our group's `oom_kill` is counted."""
    for line in _lines(proc / "self/cgroup"):
        number, controllers, path = line.split(":", 2)
        inner = path.lstrip("/")
        if "memory" in controllers.split(","):
            return _first(cgroups / "memory" / inner / "memory.oom_control", cgroups / "memory/memory.oom_control")
        if number == "0" and (found := _first(cgroups / inner / "memory.events")) is not None:
            return found
    return None


def _first(*paths: Path) -> Path | None:
    return next((path for path in paths if os.access(path, os.R_OK)), None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
