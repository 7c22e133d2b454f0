"""Redis Streams with one consumer group: XADD, XREADGROUP, and XACK with XDEL at the end."""

__all__ = ["RedisStreamsPeer"]

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from benchmarks.queue.peer import Client, Counts, Taken
from benchmarks.queue.redis_base import RedisPeer
from benchmarks.queue.work import Answer, Work


class RedisStreamsPeer(RedisPeer):
    """The stream `work`, the group `solvers`."""

    def start(self) -> None:
        super().start()
        client = self.connect()
        try:
            client.xgroup_create("work", "solvers", id="0", mkstream=True)
        except import_module("redis").ResponseError as error:
            if "BUSYGROUP" not in str(error):  # there already: the server was started again
                raise
        client.close()

    def enqueue(self, work: Work) -> None:
        self.producer().xadd("work", {"p": work.payload})

    def enqueue_many(self, works: Sequence[Work]) -> None:
        pipe = self.producer().pipeline(transaction=True)
        for work in works:
            pipe.xadd("work", {"p": work.payload})
        pipe.execute()

    def client(self) -> Client:
        return _Consumer(self.connect())

    def counts(self) -> Counts:
        client = self.connect()
        (group,) = client.xinfo_groups("work")
        # What was handed out and not acknowledged is not pending in our sense.
        return Counts(client.xlen("work") - group["pending"], client.hlen("answers"))


class _Consumer:
    def __init__(self, client: Any) -> None:
        self.locked = 0
        self._client = client
        self._name = f"solver-{os.getpid()}"

    def take(self) -> Taken | None:
        found = self._client.xreadgroup("solvers", self._name, {"work": ">"}, count=1)
        if not found:
            return None
        entries = next(iter(found.values()))[0] if isinstance(found, dict) else found[0][1]
        number, fields = entries[0]
        return Taken(fields[b"p"], number)

    def complete(self, taken: Taken, answer: Answer) -> None:
        pipe = self._client.pipeline(transaction=True)
        pipe.hset("answers", answer.token[:14], answer.text)
        pipe.xack("work", "solvers", taken.handle)
        pipe.xdel("work", taken.handle)
        pipe.execute()
