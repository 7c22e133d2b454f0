"""Who acts in a story: the daemon's parent, put together as the daemon does it, and workers that follow the protocol.

Queue, journal, dispatcher, orphans and side files are the real ones.
"""

__all__ = ["SEGMENT_BYTES", "SETTINGS", "LoggingJournal", "Parent", "Worker", "later_parent"]

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from captchad.daemon.dispatch import Dispatcher
from captchad.daemon.office import Office
from captchad.daemon.orphans import Orphans
from captchad.daemon.providers import Providers
from captchad.journal.osio import Os
from captchad.journal.sidefile import SideFile, remove_side_files, side_files
from captchad.journal.store import Journal
from captchad.model.clock import Clock
from captchad.model.errors import JournalDown
from captchad.notify import Notify
from captchad.policy.breaker import BreakerSettings
from captchad.policy.retry import RetrySettings
from captchad.queue.queue import Queue, QueueSettings
from tests.crash.disk import Fate, Mortal
from tests.crash.world import Logged, Seen, World, seen
from tests.journal.kit import HookOs
from tests.support.clock import FakeClock

SETTINGS = QueueSettings(
    capacity=100, id_ttl_s=12.0, dead_ttl_s=16.0, max_redrives=2, hold_unknown=False, retry=RetrySettings(3, 1.0, 4.0)
)

#: Small, so that there are many of them.
SEGMENT_BYTES = 4096

_LATER = 1_900_000_000.0  # than anything that a story does

_log = logging.getLogger("story")


#: Tells the world what has happened.
Tell = Callable[[str, Any], None]


class LoggingJournal(Journal):
    """Tells of every record that is staged."""

    tell: Tell = staticmethod(lambda what, value: None)

    def append_ready(self, ready):
        self.tell("staged", Logged(ready.kind.decode(), ready))
        return super().append_ready(ready)


class Parent:
    """One start of the daemon, up to where its first workers would be forked."""

    def __init__(self, directory: Path, osio: Os, clock: Clock, rng: random.Random) -> None:
        self.directory = directory
        self.osio = osio
        self.journal = LoggingJournal.open(
            directory, segment_bytes=SEGMENT_BYTES, reserve_bytes=4096, clock=clock, osio=osio, lock_wait_s=0.0
        )
        self.queue = Queue(self.journal, SETTINGS, clock, rng)
        self.queue.replay(from_index=True)
        self.dispatcher = Dispatcher(
            self.queue,
            clock,
            Providers(clock, BreakerSettings(5, 3.0, 2), lambda reason: None, _log),
            20.0,
            lambda: {"m": "config"},
            lambda key: None,
            _log,
        )
        self.office = Office(self.queue, Notify({}, clock, 1), clock, lambda: None, lambda: True)
        self.orphans = Orphans(directory, self.queue, self.dispatcher.outcome, self._remove_side_file, _log)
        self.epoch = 0

    def seen(self) -> Seen:
        return seen(self.queue.view)

    def start(self) -> int:
        """Settle what the last life left; how many tasks are held because their history has a hole."""
        used = [side.epoch for side in side_files(self.directory)]
        self.epoch = max([self.queue.view.epoch, *used]) + 1
        self.queue.stage("epoch", {"epoch": self.epoch, "t": self.queue.clock.time()})
        self.queue.commit()
        self.orphans.start(self.epoch, submit_s=1e9)
        self.queue.settle_all_followers()
        held = self.queue.hold_broken()
        self.queue.commit()
        return held

    def _remove_side_file(self, path: Path) -> None:
        remove_side_files([path], self.osio)


@contextmanager
def later_parent(directory: Path) -> Iterator[Parent]:
    """A start long after the story, on the disk as it is; it is gone at the end, whatever happens."""
    osio = Mortal(Fate(), HookOs())
    try:
        yield Parent(directory, osio, FakeClock(_LATER), random.Random(0))
    finally:
        osio.end()


class Worker:
    """One worker process: its side file, what it was ordered to do, and what nobody has confirmed."""

    def __init__(self, key: tuple[int, int], directory: Path, osio: Mortal, world: World, tell: Tell) -> None:
        self.key = key
        self.osio = osio
        self.side = SideFile.create(directory, *key, osio=osio, preallocate=4096)
        self.path = directory / "workers" / f"{key[0]}-{key[1]}.jsonl"
        self.orders: dict[int, str] = {}  # submits without an outcome: attempt -> task
        self.unconfirmed: list[dict[str, Any]] = []
        self._world = world
        self._tell = tell

    def begin(self, n: int) -> None:
        """The submit of `n` goes out."""
        self._tell("begun", n)

    def pay(self, n: int) -> dict[str, Any]:
        """The provider has taken attempt `n`, and charges it. The outcome."""
        self._tell("paid", (n, self.orders[n]))
        return {"n": n, "o": "submitted", "cid": f"c{n}"}

    def say(self, outcome: dict[str, Any]) -> None:
        """Keep `outcome` until it is confirmed."""
        self.orders.pop(outcome["n"], None)
        self.unconfirmed.append(outcome)

    def last_words(self) -> None:
        """The parent is gone. What has begun ends: most of it is paid for, some of it nobody will ever know about."""
        for n in [n for n in self.orders if n in self._world.begun]:
            self.say({"n": n, "o": "unknown", "reason": "reset"} if n % 4 == 0 else self.pay(n))
        with suppress(JournalDown):  # then there is no end, and it has said nothing
            self.side.finish(self.unconfirmed)
            self._tell("said", [each["n"] for each in self.unconfirmed if each["o"] == "submitted"])
        self.osio.end()
