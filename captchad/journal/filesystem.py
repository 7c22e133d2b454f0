"""Which file systems a journal may lie on: locks and syncs must do there what they say."""

__all__ = ["LOCAL_FILESYSTEMS", "demand_local"]

import os
from pathlib import Path
from typing import Final

from captchad.journal.osio import Os
from captchad.model.errors import UnsafeFilesystem

#: File systems on which flock and fdatasync do what the journal needs, by the magic number of statfs(2).
#: On tmpfs nothing outlives a power cut, and nobody expects it to. What lies under an overlay cannot be seen.
LOCAL_FILESYSTEMS: Final = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0xF2F52010: "f2fs",
    0x2FC12FC1: "zfs",
    0xCA451A4E: "bcachefs",
    0x794C7630: "overlayfs",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
}

_NETWORK = "its locks and syncs go over a network: two daemons may hold one lock, and what was synced may be lost"
_FUSE = "a program serves it (FUSE), which may say of locks and syncs what is not so"
_UNKNOWN = "whether its locks and syncs hold is not known"
_WEAK: Final = {
    0x6969: ("nfs", _NETWORK),
    0xFF534D42: ("cifs", _NETWORK),
    0xFE534D42: ("smb3", _NETWORK),
    0x517B: ("smb", _NETWORK),
    0x5346414F: ("afs", _NETWORK),
    0x00C36400: ("ceph", _NETWORK),
    0x01021997: ("9p", _NETWORK),
    0x65735546: ("fuse", _FUSE),
}


def demand_local(osio: Os, directory: Path) -> None:
    """Raise UnsafeFilesystem unless `directory` lies, or would be made, on a file system that is known to do.

    Writes nothing. Raises OSError.
    """
    while (fd := _open_directory(osio, directory)) is None:
        directory = directory.parent
    try:
        magic = osio.filesystem(fd)
    finally:
        osio.close(fd)
    if magic not in LOCAL_FILESYSTEMS:
        name, why = _WEAK.get(magic, (f"of type 0x{magic:x}", _UNKNOWN))
        raise UnsafeFilesystem(
            f"{directory} is on a file system that is not safe for a journal ({name}): {why}",
            hint="put daemon.state_dir on a local ext4 or XFS, or take the risk with daemon.allow_weak_fs = true",
        )


def _open_directory(osio: Os, path: Path) -> int | None:
    try:
        return osio.open(path, os.O_PATH | os.O_DIRECTORY)  # no right to list it is needed
    except FileNotFoundError:
        return None
