"""Redis lists as its documentation has a reliable queue: BLMOVE to a list of what is under way, LREM at the end."""

__all__ = ["RedisListsPeer"]

from collections.abc import Sequence
from typing import Any

from benchmarks.queue.peer import Client, Counts, Taken
from benchmarks.queue.redis_base import RedisPeer
from benchmarks.queue.work import Answer, Work

_WAIT_S = 0.01


class RedisListsPeer(RedisPeer):
    """The lists `work` and `taken`."""

    def enqueue(self, work: Work) -> None:
        self.producer().rpush("work", work.payload)

    def enqueue_many(self, works: Sequence[Work]) -> None:
        self.producer().rpush("work", *(work.payload for work in works))

    def client(self) -> Client:
        return _Consumer(self.connect())

    def counts(self) -> Counts:
        client = self.connect()
        return Counts(client.llen("work"), client.hlen("answers"))


class _Consumer:
    def __init__(self, client: Any) -> None:
        self.locked = 0
        self._client = client

    def take(self) -> Taken | None:
        payload = self._client.blmove("work", "taken", _WAIT_S, "LEFT", "RIGHT")
        return None if payload is None else Taken(payload, payload)

    def complete(self, taken: Taken, answer: Answer) -> None:
        pipe = self._client.pipeline(transaction=True)
        pipe.hset("answers", answer.token[:14], answer.text)
        pipe.lrem("taken", 1, taken.handle)
        pipe.execute()
