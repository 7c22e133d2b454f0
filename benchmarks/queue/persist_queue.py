"""persist-queue: SQLiteAckQueue, a commit for each call, in WAL mode with sqlite's default, synchronous=FULL.

It takes no batches: SQLiteQueue(auto_commit=False), which is meant for them, syncs each `put` in version 1.1 as well.
It keeps no answers: they replace the item's data by `update`, a commit of its own before the one of `ack`.
"""

__all__ = ["PersistQueuePeer"]

import sqlite3
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.queue.peer import Client, Counts, Peer, Taken, one_at_a_time
from benchmarks.queue.work import Answer, Work

_LOCK_WAIT_S = 60.0


def _ack_queue(directory: Path) -> Any:
    # Not resumed: each consumer that starts would give back what the others hold.
    module = import_module("persistqueue")
    return module.SQLiteAckQueue(str(directory), auto_resume=False, timeout=_LOCK_WAIT_S)


class PersistQueuePeer(Peer):
    """`put`, `get`, `update` and `ack`: a commit each."""

    batches: ClassVar[bool] = False
    _queue: Any = None

    def start(self) -> None:
        _ack_queue(self.directory).close()

    def stop(self) -> None:
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    def enqueue(self, work: Work) -> None:
        if self._queue is None:
            self._queue = _ack_queue(self.directory)
        self._queue.put(work.payload)

    def enqueue_many(self, works: Sequence[Work]) -> None:
        one_at_a_time(self.enqueue, works)

    def client(self) -> Client:
        return _Consumer(self.directory)

    def counts(self) -> Counts:
        connection = sqlite3.connect(self.directory / "data.db")
        (pending,) = connection.execute("SELECT count(*) FROM ack_queue_default WHERE status < '2'").fetchone()
        (finished,) = connection.execute("SELECT count(*) FROM ack_queue_default WHERE status = '5'").fetchone()
        connection.close()
        return Counts(pending, finished)


class _Consumer:
    def __init__(self, directory: Path) -> None:
        self.locked = 0
        self._queue = _ack_queue(directory)
        self._empty = import_module("persistqueue").Empty

    def take(self) -> Taken | None:
        while True:
            try:
                item = self._queue.get(block=False, raw=True)
            except self._empty:
                return None
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                self.locked += 1
            else:
                return Taken(item["data"], item["pqid"])

    def complete(self, taken: Taken, answer: Answer) -> None:
        self._queue.update(answer.text, id=taken.handle)
        self._queue.ack(id=taken.handle)
