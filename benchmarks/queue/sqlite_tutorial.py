"""sqlite3 as the common tutorial does it: a table with a status, SELECT, then UPDATE, a commit each."""

__all__ = ["TutorialPeer"]

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.queue.peer import Client, Counts, Peer, Taken
from benchmarks.queue.work import Answer, Work

T = TypeVar("T")

_SCHEMA = """CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, payload TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'pending', result TEXT)"""


class TutorialPeer(Peer):
    """Python's defaults throughout: implicit transactions, rollback journal, five seconds of waiting for a lock."""

    _connection: sqlite3.Connection | None = None

    def start(self) -> None:
        connection = sqlite3.connect(self._path)
        connection.execute(_SCHEMA)
        connection.commit()
        connection.close()

    def stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _path(self) -> Path:
        return self.directory / "jobs.db"

    def _connected(self) -> sqlite3.Connection:
        # Not in `start`: a connection must not go through a fork.
        if self._connection is None:
            self._connection = sqlite3.connect(self._path)
        return self._connection

    def enqueue(self, work: Work) -> None:
        connection = self._connected()
        connection.execute("INSERT INTO jobs (payload) VALUES (?)", (work.payload.decode(),))
        connection.commit()

    def enqueue_many(self, works: Sequence[Work]) -> None:
        connection = self._connected()
        connection.executemany("INSERT INTO jobs (payload) VALUES (?)", [(work.payload.decode(),) for work in works])
        connection.commit()

    def client(self) -> Client:
        return _Consumer(self._path)

    def counts(self) -> Counts:
        connection = sqlite3.connect(self._path)
        (pending,) = connection.execute("SELECT count(*) FROM jobs WHERE status = 'pending'").fetchone()
        (finished,) = connection.execute("SELECT count(*) FROM jobs WHERE result IS NOT NULL").fetchone()
        connection.close()
        return Counts(pending, finished)


class _Consumer:
    def __init__(self, path: Path) -> None:
        self.locked = 0
        self._connection = sqlite3.connect(path)

    def take(self) -> Taken | None:
        return self._retried(self._take)

    def complete(self, taken: Taken, answer: Answer) -> None:
        self._retried(lambda: self._complete(taken, answer))

    def _take(self) -> Taken | None:
        row = self._connection.execute(
            "SELECT id, payload FROM jobs WHERE status = 'pending' ORDER BY id LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        self._connection.execute("UPDATE jobs SET status = 'running' WHERE id = ?", (row[0],))
        self._connection.commit()
        return Taken(row[1].encode(), row[0])

    def _complete(self, taken: Taken, answer: Answer) -> None:
        self._connection.execute(
            "UPDATE jobs SET status = 'done', result = ? WHERE id = ?", (answer.text.decode(), taken.handle)
        )
        self._connection.commit()

    def _retried(self, step: Callable[[], T]) -> T:
        while True:
            try:
                return step()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                self.locked += 1
                self._connection.rollback()
