"""Whether the disks have room for new work.

Outcomes of paid captchas have the journal's reserve. New tasks have not: they are refused while they can still be
refused, and so are submits, because an answer that cannot be delivered goes stale and was paid for in vain.
"""

__all__ = ["LOW_BYTES", "LOW_INODES", "low_space"]

import os
from collections.abc import Iterable
from pathlib import Path

#: Less free space than this is a full disk: some thousand results need about as much.
LOW_BYTES = 1 << 20

LOW_INODES = 64


def low_space(directories: Iterable[Path]) -> str:
    """Why there is no room, naming the directory; "" when there is."""
    for directory in directories:
        try:
            found = os.statvfs(directory)
        except OSError as error:
            return f"{directory} cannot be looked at: {error.strerror}"
        if found.f_bavail * found.f_frsize < LOW_BYTES:
            return f"the disk is full: {found.f_bavail * found.f_frsize >> 10} KiB are free in {directory}"
        # File systems without a fixed number of inodes say 0 of 0.
        if found.f_files and found.f_favail < LOW_INODES:
            return f"the disk is full: {found.f_favail} inodes are free in {directory}"
    return ""
