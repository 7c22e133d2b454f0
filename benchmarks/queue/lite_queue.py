"""litequeue, with synchronous=FULL instead of its NORMAL, which does not sync at a commit.

It keeps no answers: they go into a second queue in the same file, in one transaction with `done`.
"""

__all__ = ["LiteQueuePeer"]

import sqlite3
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.queue.peer import Client, Counts, Peer, Taken
from benchmarks.queue.work import Answer, Work


def _open(path: Path) -> tuple[Any, Any]:
    """The queue and, on the same connection, the queue of answers."""
    module = import_module("litequeue")
    queue = module.LiteQueue(str(path), timeout=60.0)
    answers = module.LiteQueue(queue.conn, queue_name="Answers")
    queue.conn.execute("PRAGMA synchronous = FULL")
    return queue, answers


class LiteQueuePeer(Peer):
    """Its own verbs, its own transactions."""

    _queue: Any = None

    def start(self) -> None:
        _open(self._path)[0].close()

    def stop(self) -> None:
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    @property
    def _path(self) -> Path:
        return self.directory / "queue.db"

    def _opened(self) -> Any:
        if self._queue is None:
            self._queue, _ = _open(self._path)
        return self._queue

    def enqueue(self, work: Work) -> None:
        self._opened().put(work.payload.decode())

    def enqueue_many(self, works: Sequence[Work]) -> None:
        queue = self._opened()
        with queue.transaction():
            for work in works:
                queue.put(work.payload.decode())

    def client(self) -> Client:
        return _Consumer(self._path)

    def counts(self) -> Counts:
        connection = sqlite3.connect(self._path)
        (pending,) = connection.execute("SELECT count(*) FROM Queue WHERE status = 0").fetchone()
        (finished,) = connection.execute("SELECT count(*) FROM Answers").fetchone()
        connection.close()
        return Counts(pending, finished)


class _Consumer:
    def __init__(self, path: Path) -> None:
        self.locked = 0
        self._queue, self._answers = _open(path)

    def take(self) -> Taken | None:
        message = self._queue.pop()
        return None if message is None else Taken(message.data.encode(), message.message_id)

    def complete(self, taken: Taken, answer: Answer) -> None:
        with self._queue.transaction(mode="IMMEDIATE"):
            self._answers.put(answer.text.decode())
            self._queue.done(taken.handle)
