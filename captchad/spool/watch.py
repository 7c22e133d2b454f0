"""inotify for one process: events as hints that a look is worth while.

Hints get lost: the kernel's queue overflows (`IN_Q_OVERFLOW`), a directory is replaced (`IN_MOVE_SELF`, then silence),
another host writes to a shared file system. Whoever uses this looks by itself from time to time as well.
"""

__all__ = [
    "IN_CLOSE_WRITE",
    "IN_CREATE",
    "IN_DELETE_SELF",
    "IN_IGNORED",
    "IN_MOVED_TO",
    "IN_MOVE_SELF",
    "IN_Q_OVERFLOW",
    "Event",
    "Watch",
    "open_watch",
]

import ctypes
import os
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

IN_CLOSE_WRITE = 0x0008
IN_MOVED_TO = 0x0080
IN_CREATE = 0x0100
IN_DELETE_SELF = 0x0400
IN_MOVE_SELF = 0x0800
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
_IN_ONLYDIR = 0x0100_0000
_WANTED = IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE_SELF | IN_MOVE_SELF | _IN_ONLYDIR

_HEAD = struct.Struct("iIII")  # watch descriptor, mask, cookie, length of the name that follows
_BUFFER = 65_536


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to `name`; b"" is the directory itself or the queue of events."""

    name: bytes
    mask: int


class Watch:
    """One inotify descriptor, non-blocking and closed on exec. Raises OSError when the kernel gives none."""

    def __init__(self, path: Path) -> None:
        self._fd = _checked(_libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._watched: set[int] = set()
        try:
            self.add(path)
        except OSError:
            self.close()
            raise

    def add(self, path: Path) -> None:
        """Watch one directory more. Raises OSError."""
        self._watched.add(_checked(_libc().inotify_add_watch(self._fd, os.fsencode(path), _WANTED)))

    def clear(self) -> None:
        """Watch nothing; the descriptor stays the same."""
        for descriptor in self._watched:
            # The kernel has dropped the watch by itself when its directory is gone.
            _libc().inotify_rm_watch(self._fd, descriptor)
        self._watched.clear()

    def fileno(self) -> int:
        return self._fd

    def read(self) -> list[Event]:
        """Events since the last read, at most one buffer of them; [] when there are none."""
        try:
            data = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return []
        return _parse(data)

    def close(self) -> None:
        """Give the descriptor back; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_watch(path: Path) -> Watch | None:
    """A watch, or None where there is no inotify, no instance left, or nothing to watch: then look by the clock."""
    try:
        return Watch(path)
    except (OSError, AttributeError):  # AttributeError: a C library without inotify
        return None


def _parse(data: bytes) -> list[Event]:
    events = []
    at = 0
    while at < len(data):
        _, mask, _, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        events.append(Event(data[at : at + length].rstrip(b"\0"), mask))
        at += length
    return events


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
