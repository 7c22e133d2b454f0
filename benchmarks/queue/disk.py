"""What the disk gives: a record of usual size and its sync, in files of three kinds."""

__all__ = ["describe_disk"]

import os
import time
from collections.abc import Callable
from pathlib import Path

from captchad.journal.osio import Os

_SYNCS = 500
_RECORD = b"x" * 550
_ROOM = 2 * _SYNCS * len(_RECORD)

_KINDS: dict[str, Callable[[int], None]] = {
    "a file that grows": lambda fd: None,
    "one that grows into reserved space, as a segment does": lambda fd: Os().fallocate(fd, 0, _ROOM),
    "one that has its length already": lambda fd: os.posix_fallocate(fd, 0, _ROOM),
}


def describe_disk(directory: Path) -> str:
    """p50 and p99 for each kind, a line each."""
    return "\n".join(f"fdatasync of {len(_RECORD)} bytes in {kind}: {_measure(directory, kind)}" for kind in _KINDS)


def _measure(directory: Path, kind: str) -> str:
    path = directory / "probe"
    took = []
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        _KINDS[kind](fd)
        os.fsync(fd)
        for number in range(_SYNCS):
            start = time.perf_counter()
            os.pwrite(fd, _RECORD, number * len(_RECORD))
            os.fdatasync(fd)
            took.append(time.perf_counter() - start)
    finally:
        os.close(fd)
        path.unlink()
    took.sort()
    return f"p50 {took[_SYNCS // 2] * 1e6:.0f} µs, p99 {took[_SYNCS * 99 // 100] * 1e6:.0f} µs"
