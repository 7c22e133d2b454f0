"""The seam: every system call that touches the state directory goes through one object, and tests pass another.

Each method is one system call and raises OSError as the kernel gave it. Nothing here retries, except for EINTR.
"""

__all__ = [
    "NO_SPACE",
    "UNSUPPORTED",
    "Os",
    "errno_name",
    "error_text",
    "make_directory",
    "read_file",
    "read_path",
    "sync_directory",
    "write_all",
]

import ctypes
import errno
import fcntl
import os
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

#: What a full disk, or a full quota, says.
NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

#: What a file system says that knows no fallocate.
UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EFBIG})

_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
_STATFS_BYTES = 256  # more than struct statfs has on any machine


def errno_name(error: OSError) -> str:
    """`ENOSPC` for what the kernel calls 28."""
    return errno.errorcode.get(error.errno or 0, f"errno {error.errno}")


def error_text(error: OSError) -> str:
    """`ENOSPC (No space left on device)`. Without the path: it is said elsewhere."""
    return f"{errno_name(error)} ({error.strerror or error})"


@cache
def _libc() -> ctypes.CDLL:
    """Loaded once, by the parent: making it anew would cost every forked worker a millisecond and its pages."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]  # off_t is a long
    libc.fstatfs.argtypes = [ctypes.c_int, ctypes.c_void_p]
    return libc


class Os:
    """The kernel's calls, as they are."""

    def open(self, path: Path, flags: int, mode: int = 0o640) -> int:
        """A new descriptor. It is never inherited by another program."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        os.close(fd)

    def read(self, fd: int, size: int) -> bytes:
        return os.read(fd, size)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """How many bytes were written; fewer than `data` has is no error."""
        return os.write(fd, data)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def mkdir(self, path: Path, mode: int = 0o750) -> None:
        path.mkdir(mode)

    def listdir(self, path: Path) -> list[str]:
        return os.listdir(path)

    def stat(self, path: Path) -> os.stat_result:
        return path.stat()

    def fstat(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def ftruncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def flock(self, fd: int, operation: int) -> None:
        fcntl.flock(fd, operation)

    def fallocate(self, fd: int, offset: int, size: int) -> None:
        """Reserve blocks for `size` bytes at `offset`. The file's length stays what it is."""
        while _libc().fallocate(fd, _KEEP_SIZE, offset, size) != 0:
            _raise_unless_interrupted()

    def drop_cache(self, fd: int) -> None:
        """Have the next read come from the disk. Pages that were never synced stay."""
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def free_bytes(self, fd: int) -> int:
        """What is free on the file system of `fd` for a process like this."""
        found = os.fstatvfs(fd)
        return found.f_bavail * found.f_frsize

    def filesystem(self, fd: int) -> int:
        """The magic number of the file system of `fd`."""
        buffer = ctypes.create_string_buffer(_STATFS_BYTES)
        while _libc().fstatfs(fd, buffer) != 0:
            _raise_unless_interrupted()
        # f_type is the first member, a long on every machine that has 64 bits but s390x.
        return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF

    def sleep(self, seconds: float) -> None:
        """Wait between two tries for a lock."""
        time.sleep(seconds)


def _raise_unless_interrupted() -> None:
    number = ctypes.get_errno()
    if number != errno.EINTR:
        raise OSError(number, os.strerror(number))


def write_all(osio: Os, fd: int, data: bytes) -> None:
    """Write the whole of `data`, in as many calls as it takes. Raises OSError; then any part may be written."""
    done = osio.write(fd, data)
    view = memoryview(data)
    while done < len(data):
        count = osio.write(fd, view[done:])
        if count <= 0:
            raise OSError(errno.EIO, "write() wrote nothing")
        done += count


def read_file(osio: Os, fd: int, size: int, begin: int = 0) -> bytes:
    """What `fd` has from offset `begin` to `size`."""
    parts: list[bytes] = []
    offset = begin
    while offset < size:
        part = osio.pread(fd, min(size - offset, 1 << 24), offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def sync_directory(osio: Os, path: Path) -> None:
    """Make the names in `path` durable. Raises OSError."""
    fd = osio.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        osio.fsync(fd)
    finally:
        osio.close(fd)


def read_path(osio: Os, path: Path, size: int, begin: int = 0) -> bytes:
    """What the file at `path` has from offset `begin` to `size`. Raises OSError."""
    fd = osio.open(path, os.O_RDONLY)
    try:
        return read_file(osio, fd, size, begin)
    finally:
        osio.close(fd)


def make_directory(osio: Os, path: Path) -> None:
    """Make `path` and what is missing above it; the name of `path` is durable on return. Raises OSError."""
    missing = [path]
    while not _exists(osio, missing[-1].parent):
        missing.append(missing[-1].parent)
    for each in reversed(missing):
        with suppress(FileExistsError):
            osio.mkdir(each)
        # Also when it was there: whoever made it may have been killed before its sync.
        sync_directory(osio, each.parent)


def _exists(osio: Os, path: Path) -> bool:
    try:
        osio.stat(path)
    except FileNotFoundError:
        return False
    return True
