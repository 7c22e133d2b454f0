"""A file of lines that is being written: one descriptor, how far it is synced, and the space reserved behind that."""

__all__ = ["AHEAD", "STEP", "LogFile"]

import errno
from pathlib import Path
from typing import Final

from captchad.journal.osio import NO_SPACE, UNSUPPORTED, Os, write_all

#: Bytes kept free ahead of the write position, beyond the reserve.
AHEAD: Final = 1 << 20

#: Bytes more than needed that one preallocation takes, so that the next commits need none.
STEP = 4 << 20

#: Seconds between two tries on a disk that had no room.
_RETRY_S = 1.0

# Blocks of a file that hold no data of it: the file system's own notes about where the others are.
_OVERHEAD = 64 << 10


class LogFile:
    """Owns `fd`, open for appending, once it is made (which may raise OSError, and then it does not).

    `synced` bytes are durable; up to `allocated` it cannot run out of space.
    """

    def __init__(self, osio: Os, path: Path, number: int, fd: int) -> None:
        self.path = path
        self.number = number
        self.fd = fd
        self.synced = 0
        self.allocated = 0
        self.poisoned = False  # a sync has failed, or somebody else wrote here: never touched again
        self.refused = False  # the disk had no room for the last preallocation
        self._osio = osio
        found = osio.fstat(fd)
        self._identity = (found.st_dev, found.st_ino)
        self._retry_at = float("-inf")
        self._can_allocate = True

    @property
    def room(self) -> int:
        """Bytes that can surely still be written."""
        return max(0, self.allocated - self.synced)

    def adopt(self, size: int) -> None:
        """Take over a file with `size` good and synced bytes, and what its last writer preallocated. Raises OSError."""
        self.synced = self.allocated = size
        behind = self._osio.fstat(self.fd).st_blocks * 512 - size - _OVERHEAD
        if behind > 0:
            self._allocate(behind)

    def check(self) -> None:
        """Raise OSError when the file is not what it was: gone, replaced, or written by somebody else."""
        there = self._osio.stat(self.path)
        if (there.st_dev, there.st_ino, there.st_size) != (*self._identity, self.synced):
            self.poisoned = True  # what is there is not ours: it is not cut off, either
            raise OSError(errno.ESTALE, "the file was replaced, or written by somebody else")

    def reserve(self, size: int, now: float) -> bool:
        """Have `size` bytes behind the write position preallocated. False when the disk has no room for them.

        After a refusal nothing is tried for a second. Raises OSError for anything but a lack of space.
        """
        if self.room >= size and self._can_allocate:
            return True
        if now < self._retry_at:
            return self.room >= size
        if not self._can_allocate:
            self._retry_at = now + _RETRY_S
            self.allocated = self.synced + self._osio.free_bytes(self.fd)
        elif not self.preallocate(size + STEP) and not self.preallocate(size):
            self._retry_at = now + _RETRY_S
        self.refused = self.room < size
        return not self.refused

    def preallocate(self, size: int) -> bool:
        """Preallocate so that `size` bytes are ahead. False when there is no room. Raises OSError for the rest."""
        wanted = size - self.room
        # A refused fallocate may have taken all the same what there was. So the disk is asked first.
        if wanted > self._osio.free_bytes(self.fd):
            return False
        return self._allocate(wanted)

    def put(self, data: bytes, *, with_inode: bool = False) -> None:
        """Write and sync `data`; durable on return. `with_inode` for a new file.

        Raises OSError. Then nothing of `data` counts, and nothing may be written here any more.
        """
        try:
            write_all(self._osio, self.fd, data)
        except OSError:
            self._cut_back()
            raise
        try:
            (self._osio.fsync if with_inode else self._osio.fdatasync)(self.fd)
        except OSError:
            self.poisoned = True
            raise
        self.synced += len(data)
        self.allocated = max(self.allocated, self.synced)

    def release(self) -> None:
        """Give back what is preallocated; the file is complete. Raises OSError."""
        self._osio.ftruncate(self.fd, self.synced)
        self.allocated = self.synced

    def close(self) -> None:
        self._osio.close(self.fd)

    def _cut_back(self) -> None:
        self.allocated = self.synced
        try:
            self._osio.ftruncate(self.fd, self.synced)
        except OSError:
            # The bytes stay, and do not count: the next segment's header says where this one ends.
            return

    def _allocate(self, size: int) -> bool:
        try:
            self._osio.fallocate(self.fd, self.allocated, size)
        except OSError as error:
            if error.errno in UNSUPPORTED:
                self._can_allocate = False
                self.allocated = self.synced + self._osio.free_bytes(self.fd)
                return True
            if error.errno in NO_SPACE:
                return False
            raise
        self.allocated += size
        return True
