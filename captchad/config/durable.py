"""Small files that a power cut leaves as they were or as they are to be, never in between.

On return the change is on disk. When a call raises or the process dies in it, there is what was before or what is to
be, whole in either case. All raise OSError.
"""

__all__ = ["remove", "write"]

import os
from pathlib import Path


def write(path: Path, data: bytes, *, mode: int = 0o640, directory_mode: int = 0o750) -> None:
    """Replace `path` by `data`, whole or not at all, with `mode` whatever the umask; directories above it are made."""
    _make_directory(path.parent, directory_mode)
    aside = path.with_name(f".{path.name}.tmp")
    aside.unlink(missing_ok=True)  # of a writer that was killed
    try:
        _write_new(aside, data, mode)
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)  # it takes room on a disk that may be full
        raise
    _sync_directory(path.parent)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as stream:
        os.fchmod(fd, mode)
        stream.write(data)
        stream.flush()
        os.fsync(fd)


def remove(path: Path) -> None:
    """Remove `path` for good; nothing happens if it is not there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    _sync_directory(path.parent)


def _make_directory(directory: Path, mode: int) -> None:
    """Make it and what is above it, each entry synced."""
    if directory.is_dir():
        return
    _make_directory(directory.parent, mode)
    directory.mkdir(mode=mode, exist_ok=True)
    _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
