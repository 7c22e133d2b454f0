"""huey on SQLite with fsync=True: the verbs of its storage, which its API calls, without its pickling.

Taking a task deletes it: what a consumer that dies has in its hands is gone. It takes no batches.
"""

__all__ = ["HueyPeer"]

import sqlite3
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.queue.peer import Client, Counts, Peer, Taken, one_at_a_time
from benchmarks.queue.work import Answer, Work


def _open(path: Path) -> Any:
    module = import_module("huey.storage")
    return module.SqliteStorage(name="bench", filename=str(path), fsync=True, timeout=60)


class HueyPeer(Peer):
    """`enqueue`, `dequeue`, `put_data`: a commit each."""

    batches: ClassVar[bool] = False
    _storage: Any = None

    def start(self) -> None:
        _open(self._path).close()

    def stop(self) -> None:
        if self._storage is not None:
            self._storage.close()
            self._storage = None

    @property
    def _path(self) -> Path:
        return self.directory / "huey.db"

    def enqueue(self, work: Work) -> None:
        if self._storage is None:
            self._storage = _open(self._path)
        self._storage.enqueue(work.payload)

    def enqueue_many(self, works: Sequence[Work]) -> None:
        one_at_a_time(self.enqueue, works)

    def client(self) -> Client:
        return _Consumer(self._path)

    def counts(self) -> Counts:
        connection = sqlite3.connect(self._path)
        (pending,) = connection.execute("SELECT count(*) FROM task").fetchone()
        (finished,) = connection.execute("SELECT count(*) FROM kv").fetchone()
        connection.close()
        return Counts(pending, finished)


class _Consumer:
    def __init__(self, path: Path) -> None:
        self.locked = 0
        self._storage = _open(path)

    def take(self) -> Taken | None:
        data = self._storage.dequeue()
        return None if data is None else Taken(bytes(data), None)

    def complete(self, taken: Taken, answer: Answer) -> None:
        self._storage.put_data(answer.token[:14], answer.text, is_result=True)
