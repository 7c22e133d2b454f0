"""The lock that makes one process the writer of the segments.

It is a flock on the file `lock`, held for the life of the descriptor. The file says who holds it: pid, start time and
boot, so that a holder can be proved to be the process that wrote it. It is never deleted, never renamed, never stolen.
"""

__all__ = ["LOCK_NAME", "Awaited", "Holder", "keep_lock", "lock_holder", "own_identity", "process_start", "take_lock"]

import fcntl
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from captchad.journal.osio import Os, read_file, read_path, write_all
from captchad.model.errors import LockHeld

LOCK_NAME: Final = "lock"

#: Told that somebody else holds the lock, who, and for how many seconds at most it is waited for.
Awaited = Callable[[LockHeld, float], None]

_PAUSE_S = 0.05
_KERNEL_LOCK = re.compile(r"[0-9]+: FLOCK +[A-Z]+ +[A-Z]+ +([0-9]+) ([0-9a-f]+):([0-9a-f]+):([0-9]+) ")
# One length for every holder: it is written over in place, which needs no space on a full disk.
_TEXT_BYTES = 160


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, named so that no other one is ever taken for it."""

    pid: int
    start: int  # in clock ticks after the boot, as /proc has it
    boot: str  # the kernel's boot id


def take_lock(osio: Os, directory: Path, wait_s: float, awaited: Awaited | None = None) -> int:
    """Lock `directory` and return the descriptor that holds the lock; closing it in every process gives it back.

    Tries for `wait_s` seconds; if it has to wait, `awaited` is told once, before. Raises LockHeld with the holder's pid
    (0 when nobody can tell), or OSError.
    """
    path = directory / LOCK_NAME
    waited = 0.0
    while (fd := _try_lock(osio, path)) is None:
        if waited >= wait_s:
            raise _held(osio, directory)
        if awaited is not None:
            awaited(_held(osio, directory), wait_s)
            awaited = None
        osio.sleep(_PAUSE_S)
        waited += _PAUSE_S
    _write_holder(osio, fd)
    return fd


def keep_lock(osio: Os, directory: Path, fd: int) -> int:
    """The descriptor that holds the lock now: `fd`, or a new one if the file was removed, replaced or mounted anew.

    Raises LockHeld when somebody else holds it, or has held it since we began: what he wrote would not count. OSError
    when it cannot be told. Then `fd` stays open.
    """
    path = directory / LOCK_NAME
    try:
        if os.path.samestat(osio.fstat(fd), osio.stat(path)):
            return fd
    except FileNotFoundError:
        pass  # the file is gone: it is made anew, unless the directory is gone, too
    fresh = _try_lock(osio, path)
    if fresh is None:
        raise _held(osio, directory)
    try:
        other, own = _parse(read_file(osio, fresh, _TEXT_BYTES)), own_identity()
        if other and other.boot == own.boot and other != own and other.start >= own.start:
            raise LockHeld(
                f"process {other.pid} took the lock of {directory}, and may have written there",
                pid=other.pid,
                hint="restart captchad",
            )
    except (OSError, LockHeld):
        osio.close(fresh)
        raise
    _write_holder(osio, fresh)
    osio.close(fd)
    return fresh


def lock_holder(directory: Path, osio: Os | None = None) -> Holder | None:
    """Who locked `directory` last, as far as its lock file can be read. Whether it still holds it is not said."""
    try:
        return _parse(read_path(osio or Os(), directory / LOCK_NAME, _TEXT_BYTES))
    except OSError:  # no file, or one that is not ours to read: then the holder is unknown
        return None


def process_start(pid: int) -> int | None:
    """When `pid` began, in clock ticks after the boot; None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(text.rpartition(b")")[2].split()[19])  # the name in brackets may hold anything, brackets too


def own_identity() -> Holder:
    """This process."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return Holder(os.getpid(), process_start(os.getpid()) or 0, boot)


def _try_lock(osio: Os, path: Path) -> int | None:
    fd = osio.open(path, os.O_RDWR | os.O_CREAT)
    try:
        osio.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(osio.fstat(fd), osio.stat(path)):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass  # held, or somebody has taken the file away under us: try again
    except OSError:
        osio.close(fd)
        raise
    osio.close(fd)
    return None


def _held(osio: Os, directory: Path) -> LockHeld:
    pid = _holding_pid(osio, directory)
    who = f"process {pid}" if pid else "a process whose pid cannot be told"
    return LockHeld(f"{directory} is locked by {who}", pid=pid, hint="stop the daemon that runs there")


def _holding_pid(osio: Os, directory: Path) -> int:
    """Who holds the lock: as the kernel lists it; else as the file says, if that is proved; else 0."""
    pid = _kernel_holder(osio, directory / LOCK_NAME)
    if pid and process_start(pid) is not None:
        return pid
    holder = lock_holder(directory, osio)
    return holder.pid if holder and _lives(holder) else 0


def _kernel_holder(osio: Os, path: Path) -> int:
    """The pid in /proc/locks, or 0: another pid namespace, a file system that numbers its devices in its own way."""
    try:
        found = osio.stat(path)
        text = Path("/proc/locks").read_text("ascii")
    except OSError:  # then the kernel does not say
        return 0
    for match in map(_KERNEL_LOCK.match, text.splitlines()):
        if match and (os.makedev(int(match[2], 16), int(match[3], 16)), int(match[4])) == (found.st_dev, found.st_ino):
            return int(match[1])
    return 0


def _lives(holder: Holder) -> bool:
    """Whether the process that wrote the text is still there, and not another one with its pid."""
    return process_start(holder.pid) == holder.start and own_identity().boot == holder.boot


def _write_holder(osio: Os, fd: int) -> None:
    try:
        text = json.dumps(asdict(own_identity())).encode("ascii")
        if read_file(osio, fd, _TEXT_BYTES).strip() != text:
            write_all(osio, fd, text.ljust(_TEXT_BYTES - 1) + b"\n")
            osio.ftruncate(fd, _TEXT_BYTES)
    except OSError:
        # A full disk, or no /proc. The lock holds all the same, and an old text names a process that is gone.
        return


def _parse(text: bytes) -> Holder | None:
    try:
        found = json.loads(text)
        return Holder(int(found["pid"]), int(found["start"]), str(found["boot"]))
    except (ValueError, RecursionError, KeyError, TypeError, OverflowError):
        return None
