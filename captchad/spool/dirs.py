"""The three directories of the spool.

`incoming/` takes files from whoever may write there, `results/` and `rejected/` are written by the daemon alone. A file
goes from one to another by rename, so all three lie on one file system.
"""

__all__ = ["SpoolDirs"]

import os
import stat
from pathlib import Path

from captchad.model.errors import NeedsOperator, SpoolDown, UnsafeFilesystem

#: Set-group-id, sticky, and no listing for the group: submitters cannot see or remove each other's files.
INCOMING_MODE = 0o3730
#: Set-group-id, so that results belong to the group of the directory; the group reads.
OUTGOING_MODE = 0o2750


class SpoolDirs:
    """Where the spool's directories are; `make` brings them about."""

    __slots__ = ("incoming", "rejected", "results", "root")

    def __init__(self, root: Path) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self.results = root / "results"
        self.rejected = root / "rejected"

    def make(self) -> None:
        """Create what is missing and check what is there. Modes and owners of existing directories stay as they are.

        Raises NeedsOperator when one is no real directory or may not get its mode, UnsafeFilesystem when they lie on
        several file systems, SpoolDown when the file system takes no write.
        """
        try:
            self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
            devices = {
                _make(self.incoming, INCOMING_MODE),
                _make(self.results, OUTGOING_MODE),
                _make(self.rejected, OUTGOING_MODE),
            }
        except FileExistsError:
            raise NeedsOperator(f"{self.root} is not a directory", hint="make daemon.spool_dir a directory") from None
        except OSError as exc:
            raise SpoolDown(f"cannot make the spool in {self.root}: {exc.strerror}") from exc
        if len(devices) != 1:
            hint = "put incoming/, results/ and rejected/ on one file system"
            raise UnsafeFilesystem(f"{self.root}: the spool's directories lie on several file systems", hint=hint)


def _make(path: Path, mode: int) -> int:
    """Make or check one directory; its device number. What cannot be made whole is not left there half made."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            hint = "move it away; captchad makes the directory"
            raise NeedsOperator(f"{path} is not a real directory", hint=hint) from None
        return status.st_dev
    # mkdir ignores the set-group-id bit and heeds the umask; the descriptor is of what we made just now.
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, mode)
        return os.fstat(fd).st_dev
    except OSError as exc:
        path.rmdir()
        if not isinstance(exc, PermissionError):
            raise
        # RestrictSUIDSGID= of the unit, for one.
        hint = f'make it before, with mode {mode:o}: operations.md, "A spool elsewhere"'
        raise NeedsOperator(f"{path}: captchad may not give a directory its mode here", hint=hint) from exc
    finally:
        os.close(fd)
