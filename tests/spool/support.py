"""A queue for the intake, and a way to drive it until something is so."""

import os
import select
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from captchad.model.clock import SystemClock
from captchad.spool.dirs import SpoolDirs
from captchad.spool.intake import Intake, Offer, Verdict

DEADLINE_S = 60.0
PAGE = "https://example.com/login"
TASK = '{"sitekey": "k", "pageurl": "https://example.com/login"}'


def task(**more):
    return {"sitekey": "k", "pageurl": PAGE, **more}


@contextmanager
def public_directory() -> Iterator[Path]:
    """A directory that other users may walk through; those of pytest are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o711)
        yield path


def as_user(user: int, group: int, function: Callable[[], object]) -> None:
    """Run it in a process of another user, who has no other groups; fail when it does."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(group)
            os.setuid(user)
            function()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Queue:
    """Keeps what was offered; the rules of ids as design.md has them. Durable once `commit` is called."""

    def __init__(self, *, auto: bool = True, capacity: int = 10**9) -> None:
        self.auto = auto
        self.capacity = capacity
        self.offers: list[Offer] = []
        self.tasks: dict[str, Offer] = {}
        self.callbacks: list[Callable[[], None]] = []
        self.fail: Exception | None = None

    def offer(self, offer: Offer) -> Verdict:
        if self.fail is not None:
            raise self.fail
        if len(self.tasks) >= self.capacity:
            return Verdict.FULL
        self.offers.append(offer)
        for name in offer.candidate_ids:
            there = self.tasks.get(name)
            if there is None:
                self.tasks[name] = offer
                return Verdict.ACCEPTED
            if there.origin == offer.origin or (offer.explicit and there.fingerprint == offer.fingerprint):
                return Verdict.DUPLICATE
        return Verdict.CONFLICT

    def after_commit(self, fn: Callable[[], None]) -> None:
        self.callbacks.append(fn)
        if self.auto:
            self.commit()

    def commit(self) -> None:
        while self.callbacks:
            self.callbacks.pop(0)()


class Bench:
    """A spool, a queue and an intake on them."""

    def __init__(self, root: Path, queue: Queue | None = None, **settings) -> None:
        self.dirs = SpoolDirs(root)
        self.dirs.make()
        self.queue = queue or Queue()
        self.settings = {"scan_interval_s": 0.05, "stable_s": 0.05, **settings}
        self.intake = self.new_intake()
        self.longest_step_s = 0.0

    def new_intake(self) -> Intake:
        return Intake(self.dirs, self.queue, SystemClock(), ["example.com", "*.example.com"], **self.settings)

    def drop(self, name: str | bytes, content: str | bytes) -> bytes:
        """Rename a file in, as one should; its path."""
        data = content.encode() if isinstance(content, str) else content
        path = self.path(name)
        outside = os.path.join(os.fsencode(self.dirs.root), b"outside")
        Path(os.fsdecode(outside)).write_bytes(data)
        os.rename(outside, path)
        return path

    def path(self, name: str | bytes) -> bytes:
        return os.path.join(os.fsencode(self.dirs.incoming), os.fsencode(name))

    def run_until(self, condition: Callable[[], bool], *, room: int = 1000) -> None:
        """Turn as the daemon's loop does."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"not so within {DEADLINE_S} s: {self.state()}"
            self.turn(room)

    def turn(self, room: int = 1000) -> None:
        due = self.intake.due()
        wait_s = 0.01 if due is None else min(0.01, max(0.0, due - time.monotonic()))
        fd = self.intake.fileno()
        if fd is None:
            time.sleep(wait_s)
        elif select.select([fd], [], [], wait_s)[0]:
            self.intake.on_readable()
        begin = time.thread_time()
        self.intake.step(room)
        self.longest_step_s = max(self.longest_step_s, time.thread_time() - begin)

    def is_at_rest(self) -> bool:
        """Nothing to do but the next scan, with a scan_interval_s of an hour."""
        due = self.intake.due()
        return due is not None and due > time.monotonic() + 3000

    def turn_for(self, seconds: float) -> None:
        """Turn on, to see that something does not happen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn()

    def state(self) -> str:
        return f"{os.listdir(self.dirs.incoming)} {os.listdir(self.dirs.rejected)} {self.intake.down_reason}"

    def rejected(self) -> dict[str, bytes]:
        """What lies in rejected/: name and content, or b"" for what is no regular file."""
        with closing(os.scandir(self.dirs.rejected)) as entries:
            return {e.name: Path(e.path).read_bytes() if e.is_file(follow_symlinks=False) else b"" for e in entries}

    def incoming(self) -> set[str]:
        return set(os.listdir(self.dirs.incoming))
