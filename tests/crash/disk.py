"""The disk of a story: it records what is done to it, and it can be full. And processes that die on it."""

__all__ = ["Disk", "Fate", "Mortal"]

import errno
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.journal.kit import HookOs, Killed, KillingOs
from tests.journal.model import RecordingOs


class Disk(RecordingOs):
    """Has `left` bytes of room; None is enough for all."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.left: int | None = None

    def around(self, name, args, call):
        if self.left is None or name not in ("write", "fallocate", "free_bytes"):
            return super().around(name, args, call)
        if name == "free_bytes":
            return 0
        size = min(self.left, len(args[1])) if name == "write" else 0
        if not size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= size
        args = (args[0], bytes(args[1])[:size])
        return super().around(name, args, lambda: self.do(name, args))


@dataclass
class Fate:
    """At which system call of all processes together (from 1; 0: none) one is killed, and how.

    `how` is "before", "after", or where a write tears: so many bytes are written, from its end if negative.
    """

    at: int = 0
    how: str | int = "before"
    really: bool = False
    died: bool = False
    torn: int = 0  # bytes of the write in which it died
    calls: list[str] = field(default_factory=list)  # what was called

    @property
    def count(self) -> int:
        """How many calls there were."""
        return len(self.calls)

    @property
    def hit(self) -> bool:
        """Whether it came as it was meant: inside a write, if so."""
        return self.died and (isinstance(self.how, str) or self.torn > 0)


class Mortal(KillingOs):
    """The system calls of one process of a story, on the disk that all share."""

    def __init__(self, fate: Fate, disk: HookOs) -> None:
        super().__init__(fate.at, "before", inner=disk, really=fate.really)
        self.fate = fate

    def around(self, name, args, call):
        if self.dead:
            if name == "close":
                return None  # it was closed when the process ended
            raise Killed
        self.fate.calls.append(name)
        if self.fate.count != self.fate.at:
            return self._do(name, args)
        how = self.fate.how
        if isinstance(how, int):
            self._tear(name, args, how)
        elif how == "after":
            with suppress(OSError):
                self._do(name, args)
        self.fate.died = True
        return self._die()

    def _tear(self, name, args, how):
        size = len(args[1]) if name == "write" else 0
        self.fate.torn = max(0, min(size, how if how >= 0 else size + how))
        if self.fate.torn:
            with suppress(OSError):
                self._do(name, (args[0], bytes(args[1])[: self.fate.torn]))

    def end(self) -> None:
        """The process is over: its descriptors are closed, and nothing of it does anything any more."""
        if not self.dead:
            self.dead = True
            for fd in self.open_fds:
                os.close(fd)
