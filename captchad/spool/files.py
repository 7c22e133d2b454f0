"""Names and files of a directory where others write too.

Between any two looks a name may stand for another file. So a file is known by its `Identity`, and what is moved or
removed is checked afterwards and put back when it was another one.
"""

__all__ = [
    "DIRECTORY",
    "ChangedError",
    "Identity",
    "display",
    "identity",
    "look",
    "move_checked",
    "open_regular",
    "remove_checked",
    "remove_leftover",
    "special_kind",
    "write_all",
    "write_new",
]

import ctypes
import os
import stat
from contextlib import suppress
from dataclasses import dataclass

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST_NAME = 255
_RENAME_NOREPLACE = 1
_LEFTOVER = b".gone-"
_SPECIAL = (
    (stat.S_ISLNK, "symlink"),
    (stat.S_ISFIFO, "fifo"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISDIR, "directory"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


class ChangedError(Exception):
    """The file is not, or no longer, the one that was looked at."""


@dataclass(frozen=True, slots=True)
class Identity:
    """This file with this content, as far as the file system tells."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    def same_file(self, other: "Identity") -> bool:
        return (self.device, self.inode) == (other.device, other.inode)


def identity(status: os.stat_result) -> Identity:
    return Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def look(directory: int, name: bytes) -> os.stat_result:
    """The status of what `name` stands for; links are not followed. Raises OSError."""
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def special_kind(status: os.stat_result) -> str:
    """The word for what is no regular file, or "" for one."""
    return next((word for test, word in _SPECIAL if test(status.st_mode)), "")


def open_regular(directory: int, name: bytes, expected: Identity) -> int:
    """Open for reading what was looked at; never waits, whatever it has become. Raises ChangedError and OSError."""
    fd = os.open(name, _READ, dir_fd=directory)
    if identity(os.fstat(fd)) != expected:
        os.close(fd)
        raise ChangedError
    return fd


def write_new(directory: int, name: bytes, data: bytes, mode: int = 0o640) -> None:
    """Write a file of our own and sync it; one of that name is replaced. The mode is exact, whatever the umask.

    Raises OSError.
    """
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
    fd = os.open(name, _CREATE, mode, dir_fd=directory)
    try:
        os.fchmod(fd, mode)
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it; a full disk takes a part and then raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def move_checked(source: int, name: bytes, target: int, new_name: bytes, expected: Identity) -> bool:
    """Rename one file to another directory; False, and nothing moved, when `name` is another file by now.

    Raises OSError.
    """
    if not identity(look(source, name)).same_file(expected):
        return False
    os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
    if identity(look(target, new_name)).same_file(expected):
        return True
    _put_back(target, new_name, source, name)
    return False


def remove_checked(directory: int, name: bytes, expected: Identity) -> None:
    """Remove `name` if it still stands for that file; another one that took the name stays. Raises OSError.

    The file gets a name of ours first: between a look and an unlink somebody could rename a new task over it.
    """
    aside = _LEFTOVER + b"%d-" % expected.inode + name
    try:
        if len(aside) > _LONGEST_NAME:
            if identity(look(directory, name)).same_file(expected):
                os.unlink(name, dir_fd=directory)
        elif move_checked(directory, name, directory, aside, expected):
            os.unlink(aside, dir_fd=directory)
    except FileNotFoundError:
        return


def remove_leftover(directory: int, name: bytes) -> bool:
    """Finish a `remove_checked` that a crash cut short; False when `name` is no such thing. Raises OSError."""
    if not name.startswith(_LEFTOVER):
        return False
    inode, dash, original = name.removeprefix(_LEFTOVER).partition(b"-")
    if not dash or not original or not inode.isdigit():
        return False
    try:
        status = look(directory, name)
        if not stat.S_ISREG(status.st_mode):  # somebody else's; such names are free to choose
            return False
        if status.st_ino == int(inode):
            os.unlink(name, dir_fd=directory)
        else:
            _put_back(directory, name, directory, original)
    except FileNotFoundError:
        pass  # gone by itself, which is what was wanted
    return True


def _put_back(source: int, name: bytes, target: int, original: bytes) -> None:
    """Give a file its name back, unless a newer one has taken it: then it was replaced by its owner."""
    try:
        _rename_new(source, name, target, original)
    except FileExistsError:
        os.unlink(name, dir_fd=source)


def _rename_new(source: int, name: bytes, target: int, new_name: bytes) -> None:
    """Rename, but over nothing. Raises FileExistsError and other OSErrors."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(source, name, target, new_name, _RENAME_NOREPLACE) == 0:
        return
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def display(name: bytes) -> str:
    """A file name, whatever its bytes, as one line of printable text."""
    text = name.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
