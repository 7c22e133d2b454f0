"""What a contender is: a store with a way in, and clients in processes of their own that take and complete."""

__all__ = ["Client", "Counts", "Peer", "Taken", "one_at_a_time"]

import multiprocessing.connection
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from benchmarks.queue.work import Answer, Work


class Taken(NamedTuple):
    """A task in the hands of a client. `handle` is what the contender knows it by."""

    payload: bytes
    handle: Any


class Counts(NamedTuple):
    """What the store itself says it holds, from its disk or its server, not from memory of the benchmark."""

    pending: int
    finished: int  # answers that it keeps


class Client(Protocol):
    """One consumer in a process of its own. It has one task at a time."""

    locked: int  #: times that the store said "locked" instead of doing it

    def take(self) -> Taken | None:
        """The next task, nobody else's; None when there is none. Durable on return where the contender can do that."""

    def complete(self, taken: Taken, answer: Answer) -> None:
        """The task is done and its answer kept: durable on return."""


class Peer(ABC):
    """One contender on one directory."""

    batches: ClassVar[bool] = True  #: whether many tasks at a time are something that it offers

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @abstractmethod
    def start(self) -> None:
        """Make the store or open the one that is there; start the server, if it has one. Keeps no connection open."""

    @abstractmethod
    def stop(self) -> None:
        """End it: connections are closed, a server gets SIGKILL. What was acknowledged must be there after `start`."""

    def server_pids(self) -> list[int]:
        """The server's processes, for their processor time."""
        return []

    @abstractmethod
    def enqueue(self, work: Work) -> None:
        """One task; durable on return."""

    @abstractmethod
    def enqueue_many(self, works: Sequence[Work]) -> None:
        """All of them, with as few syncs as it offers; durable on return."""

    @abstractmethod
    def client(self) -> Client:
        """A client; called in the process that it is for."""

    def seats(self, number: int) -> list[Callable[[], Client]]:
        """For each of so many processes what makes its client; called after the fork, in that process."""
        return [self.client] * number

    def attend(self, pidfds: Sequence[int]) -> None:
        """Return when all these processes have ended; a contender that serves from this process does so meanwhile."""
        left = set(pidfds)
        while left:
            left.difference_update(fd for fd in multiprocessing.connection.wait(left) if isinstance(fd, int))

    @abstractmethod
    def counts(self) -> Counts:
        """What is in the store now. Nobody else may use it meanwhile."""


def one_at_a_time(enqueue: Callable[[Work], None], works: Sequence[Work]) -> None:
    """For the contenders that take no batch."""
    for work in works:
        enqueue(work)
