"""sqlite3 by somebody who knows it: WAL, synchronous=FULL, BEGIN IMMEDIATE, UPDATE ... RETURNING, a partial index."""

__all__ = ["WalPeer"]

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from benchmarks.queue.peer import Client, Counts, Peer, Taken
from benchmarks.queue.work import Answer, Work

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS jobs (id INTEGER PRIMARY KEY, payload TEXT NOT NULL,"
    " status INTEGER NOT NULL DEFAULT 0, result TEXT)",
    "CREATE INDEX IF NOT EXISTS ready ON jobs (id) WHERE status = 0",
)
_INSERT = "INSERT INTO jobs (payload) VALUES (?)"
_TAKE = (
    "UPDATE jobs SET status = 1 WHERE id = (SELECT id FROM jobs WHERE status = 0 ORDER BY id LIMIT 1)"
    " RETURNING id, payload"
)
_COMPLETE = "UPDATE jobs SET status = 2, result = ? WHERE id = ?"


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60.0, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


class WalPeer(Peer):
    """One table, one row a task."""

    _connection: sqlite3.Connection | None = None

    def start(self) -> None:
        connection = _connect(self._path)
        for statement in _SCHEMA:
            connection.execute(statement)
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
            self._connection = _connect(self._path)
        return self._connection

    def enqueue(self, work: Work) -> None:
        self._connected().execute(_INSERT, (work.payload.decode(),))

    def enqueue_many(self, works: Sequence[Work]) -> None:
        connection = self._connected()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_INSERT, [(work.payload.decode(),) for work in works])
        connection.execute("COMMIT")

    def client(self) -> Client:
        return _Consumer(self._path)

    def counts(self) -> Counts:
        connection = _connect(self._path)
        (pending,) = connection.execute("SELECT count(*) FROM jobs WHERE status = 0").fetchone()
        (finished,) = connection.execute("SELECT count(*) FROM jobs WHERE result IS NOT NULL").fetchone()
        connection.close()
        return Counts(pending, finished)


class _Consumer:
    def __init__(self, path: Path) -> None:
        self.locked = 0
        self._connection = _connect(path)

    def take(self) -> Taken | None:
        self._connection.execute("BEGIN IMMEDIATE")
        row = self._connection.execute(_TAKE).fetchone()
        self._connection.execute("COMMIT")
        return None if row is None else Taken(row[1].encode(), row[0])

    def complete(self, taken: Taken, answer: Answer) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute(_COMPLETE, (answer.text.decode(), taken.handle))
        self._connection.execute("COMMIT")
