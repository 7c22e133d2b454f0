"""A real FUSE file system of one empty directory. It refuses every change, and notes what it was asked for."""

__all__ = ["WRITES", "EmptyFuse"]

import ctypes
import errno
import os
import struct
import threading
from pathlib import Path

_LOOKUP, _FORGET, _GETATTR, _STATFS, _INIT, _INTERRUPT, _BATCH_FORGET = 1, 2, 3, 17, 26, 36, 42

#: The kernel's numbers of the calls that change something: setattr, symlink, mknod, mkdir, unlink, rmdir, rename, link,
#: write, setxattr, removexattr, create, fallocate, rename2.
WRITES = frozenset({4, 6, 8, 9, 10, 11, 12, 13, 16, 21, 24, 35, 43, 45})

_HEADER = struct.Struct("=IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, padding
_ANSWER = struct.Struct("=IiQ")  # length, error, unique
_DETACH = 2  # MNT_DETACH


class EmptyFuse:
    """Mounts itself at `path`, which must be an empty directory. A context manager; needs root and /dev/fuse."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[int] = []
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._server = threading.Thread(target=self._serve)

    def __enter__(self):
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fd},rootmode=40755,user_id=0,group_id=0,allow_other".encode()
        if self._libc.mount(b"captchad-test", bytes(self.path), b"fuse", 0, options):
            os.close(self._fd)
            raise OSError(ctypes.get_errno(), "mount")
        self._server.start()
        if not self.path.is_mount():
            raise RuntimeError("the test would look at the real disk")
        return self

    def __exit__(self, *_):
        self._libc.umount2(bytes(self.path), _DETACH)
        self._server.join(20)
        os.close(self._fd)

    def _serve(self):
        while True:
            try:
                request = os.read(self._fd, 1 << 18)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return  # ENODEV: it was unmounted
            _, opcode, unique, *_ = _HEADER.unpack_from(request)
            self.asked.append(opcode)
            if opcode not in (_FORGET, _INTERRUPT, _BATCH_FORGET):
                error, body = self._answer(opcode)
                os.write(self._fd, _ANSWER.pack(_ANSWER.size + len(body), -error, unique) + body)

    def _answer(self, opcode):
        if opcode == _INIT:
            return 0, struct.pack("=IIIIHHIIHHI28x", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, 0)
        if opcode == _GETATTR:
            attributes = struct.pack("=6Q3I7I", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
            return 0, struct.pack("=QII", 0, 0, 0) + attributes
        if opcode == _STATFS:
            return 0, struct.pack("=5Q4I24x", 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096, 0)
        if opcode == _LOOKUP:
            return errno.ENOENT, b""
        return (errno.EROFS if opcode in WRITES else errno.ENOSYS), b""
