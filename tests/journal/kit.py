"""What the journal's tests share: a clock, seams that count, fail or kill, and a small application with a checker.

The application writes records numbered from 0. Whatever happens to it, what is recovered must be a run of those numbers
without a gap: from one that was not dropped, through everything that was promised, to nothing that was never staged.
"""

__all__ = ["CALLS", "App", "Clock", "FailingOs", "HookOs", "Killed", "KillingOs", "Promises", "padding", "reopen"]

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from captchad.journal.osio import Os
from captchad.journal.store import Journal
from captchad.model.errors import CaptchadError

#: Every call of the seam.
CALLS = [name for name in vars(Os) if not name.startswith("_")]


class Clock:
    """Stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_700_000_000.0 + self.now


class HookOs(Os):
    """Passes each call to `around`, which may do it, or not.

    It reserves one page at a time, whatever it is asked for: a file system in memory would fill all of them.
    """

    def around(self, name: str, args: tuple[Any, ...], call: Callable[[], Any]) -> Any:
        return call()

    def do(self, name: str, args: tuple[Any, ...]) -> Any:
        if name == "fallocate":
            args = (*args[:2], min(args[2], 4096))
        return getattr(Os, name)(self, *args)


def _hooked(name: str) -> Callable[..., Any]:
    def method(self: HookOs, *args: Any) -> Any:
        return self.around(name, args, lambda: self.do(name, args))

    return method


for _name in CALLS:
    setattr(HookOs, _name, _hooked(_name))


class Killed(BaseException):
    """The process is gone. Nothing of it does anything any more."""


class KillingOs(HookOs):
    """Dies at its call number `at` (from 1): before it, after it, or inside it, which tears a write.

    Only calls of the names in `only` are counted. With `really`, by SIGKILL; else by an exception after which no call
    does anything, and its descriptors are closed.
    """

    def __init__(
        self, at: int, how: str, *, really: bool = False, inner: HookOs | None = None, only: Sequence[str] = CALLS
    ) -> None:
        super().__init__()
        self.at, self.how, self.really, self.inner, self.only = at, how, really, inner, only
        self.count = 0
        self.dead = False
        self.open_fds: set[int] = set()

    def around(self, name, args, call):
        if self.dead:
            raise Killed
        self.count += name in self.only
        if self.count != self.at or name not in self.only:
            return self._do(name, args)
        if self.how == "inside" and name == "write":
            self._do(name, (args[0], bytes(args[1])[: max(1, len(args[1]) * 2 // 3)]))
        elif self.how == "after":
            with suppress(OSError):
                self._do(name, args)
        return self._die()

    def _do(self, name, args):
        result = getattr(self.inner, name)(*args) if self.inner else self.do(name, args)
        if name == "open":
            self.open_fds.add(result)
        elif name == "close":
            self.open_fds.discard(args[0])
        return result

    def _die(self) -> NoReturn:
        if self.really:
            os.kill(os.getpid(), signal.SIGKILL)
        self.dead = True
        for fd in self.open_fds:
            os.close(fd)
        raise Killed


class FailingOs(HookOs):
    """Raises OSError(`error`) instead of call number `at` (from 1), once or from then on, in the calls named `only`."""

    def __init__(self, error: int, at: int, *, for_good: bool = False, only: Sequence[str] = CALLS) -> None:
        super().__init__()
        self.error, self.at, self.for_good, self.only = error, at, for_good, only
        self.count = 0
        self.failed: list[str] = []

    def around(self, name, args, call):
        if name in self.only:
            self.count += 1
            if self.count == self.at or (self.for_good and self.count > self.at):
                self.failed.append(name)
                if name == "close":
                    call()  # the descriptor is gone, whatever close says
                raise OSError(self.error, os.strerror(self.error))
        return call()


def padding(number: int) -> bytes:
    """The payload of record `number`: sizes differ, and some cross a page."""
    size = 5000 if number % 7 == 3 else 30 + number % 50
    return b'{"n":%d,"text":"%s"}' % (number, (b"abcdefghij" * (size // 10 + 1))[:size])


@dataclass
class Promises:
    """What the application has told the world."""

    staged: int = 0  # records 0 to staged-1 may be there
    promised: int = 0  # records 0 to promised-1 must be there, unless they were dropped
    droppable: int = 0  # records 0 to droppable-1 may be gone
    log: list[str] = field(default_factory=list)

    def tell(self, what: str, value: int) -> None:
        setattr(self, what, max(getattr(self, what), value))

    def breach(self, found: Sequence[int]) -> str:
        """How `found` breaks the promises, or ""."""
        if not found:
            return f"nothing found, {self.promised} promised" if self.promised > self.droppable else ""
        first, behind = found[0], found[-1] + 1
        if list(found) != list(range(first, behind)):
            return f"not a run of numbers: {list(found)}"
        if first > self.droppable:
            return f"begins at {first}, only {self.droppable} were to be dropped"
        if behind < self.promised:
            return f"ends at {behind}, {self.promised} promised"
        if behind > self.staged:
            return f"ends at {behind}, {self.staged} staged"
        return ""


class App:
    """One life: opens the journal, replays, then does as it is told."""

    def __init__(self, directory: Path, tell: Callable[[str, int], None], osio: Os | None = None, **options: Any):
        self.tell = tell
        self.clock = Clock()
        options = {"segment_bytes": 2500, "reserve_bytes": 4096, "lock_wait_s": 0.0, **options}
        self.journal = Journal.open(directory, clock=self.clock, osio=osio, **options)
        self.found: list[int] = []
        self.entries: dict[int, Any] = {}
        try:
            self._replay()
        except CaptchadError:
            self.close()
            raise
        self.next = self.found[-1] + 1 if self.found else 0
        self.tell("promised", self.next)  # it acts on what it has read

    def _replay(self) -> None:
        for record in self.journal.replay():
            number = record.fields["n"]
            if record.payload != padding(number) or record.kind != "add":
                raise AssertionError(f"record {number} is not what was written")
            self.found.append(number)
            self.entries[number] = record.entry

    def run(self, plan: Sequence[str]) -> None:
        """Do the steps of `plan`: a number commits so many records, `drop` drops a segment, `recover` recovers.

        `prepare` takes one step to make the next segment ahead.
        """
        for step in plan:
            if step == "drop":
                self.drop()
            elif step == "recover":
                self.journal.recover()
                self.tell("promised", self.next)
            elif step == "prepare":
                self.journal.prepare()
            else:
                self.commit(int(step))

    def commit(self, count: int) -> None:
        for _ in range(count):
            self.entries[self.next] = self.journal.append("add", {"n": self.next}, padding(self.next))
            self.next += 1
        self.tell("staged", self.next)
        self.journal.commit()
        self.tell("promised", self.next)

    def drop(self) -> None:
        if len(self.journal.segments()) > 1:
            oldest = self.journal.oldest
            here = [number for number, entry in self.entries.items() if entry.segment == oldest]
            self.tell("droppable", max(here, default=-1) + 1)
            self.journal.drop_oldest()

    def close(self) -> None:
        with suppress(Killed):
            self.journal.close()


def reopen(directory: Path) -> list[int]:
    """The numbers that a new life finds."""
    app = App(directory, lambda what, value: None, HookOs())
    app.close()
    return app.found
