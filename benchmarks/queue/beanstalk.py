"""beanstalkd -b DIR -f0: a binary log, a sync with each entry. The client is greenstalk.

A reservation is not logged: after a crash the job is ready again. It keeps no answers: they are put into a tube of
their own before the job is deleted, two synced entries. A batch is pipelined by hand; the protocol has none.
"""

__all__ = ["BeanstalkPeer"]

import socket
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.environment import BENCH_ENVIRONMENT
from benchmarks.queue.install import find_program
from benchmarks.queue.peer import Client, Counts, Peer, Taken
from benchmarks.queue.servers import Server
from benchmarks.queue.work import Answer, Work

_TTR_S = 600

#: With 1,000 under way on a unix socket beanstalkd 1.12 did not go on within a minute; with 100 it does.
_PIPELINED = 100


class BeanstalkPeer(Peer):
    """Jobs in the tube `work`, answers in the tube `answers`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._server = Server(directory)
        self._producer: Any = None
        self._pipe: socket.socket | None = None

    def start(self) -> None:
        log = self.directory / "binlog"
        log.mkdir(exist_ok=True)
        program = find_program("beanstalkd", BENCH_ENVIRONMENT)
        if program is None:
            raise RuntimeError("no beanstalkd")
        self._server.start(program, ["beanstalkd", "-l", f"unix:{self._server.socket}", "-b", str(log), "-f", "0"])

    def stop(self) -> None:
        self._producer = self._pipe = None
        self._server.kill()

    def server_pids(self) -> list[int]:
        return self._server.pids()

    def _client(self) -> Any:
        return import_module("greenstalk").Client(str(self._server.socket), encoding=None, use="work", watch="work")

    def enqueue(self, work: Work) -> None:
        if self._producer is None:
            self._producer = self._client()
        self._producer.put(work.payload, ttr=_TTR_S)

    def enqueue_many(self, works: Sequence[Work]) -> None:
        if self._pipe is None:
            self._pipe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._pipe.connect(str(self._server.socket))
            self._pipe.sendall(b"use work\r\n")
            self._pipe.recv(4096)
        for start in range(0, len(works), _PIPELINED):
            self._put_pipelined(self._pipe, works[start : start + _PIPELINED])

    @staticmethod
    def _put_pipelined(pipe: socket.socket, works: Sequence[Work]) -> None:
        head = b"put 65536 0 %d %d\r\n%b\r\n"
        pipe.sendall(b"".join(head % (_TTR_S, len(work.payload), work.payload) for work in works))
        answers = b""
        while answers.count(b"\n") < len(works):
            answers += pipe.recv(65_536)
        if answers.count(b"INSERTED") != len(works):
            raise RuntimeError(f"beanstalkd refused: {answers[-200:]!r}")

    def client(self) -> Client:
        return _Consumer(self._client())

    def counts(self) -> Counts:
        client = self._client()
        return Counts(self._ready(client, "work"), self._ready(client, "answers"))

    @staticmethod
    def _ready(client: Any, tube: str) -> int:
        try:
            return int(client.stats_tube(tube)["current-jobs-ready"])
        except import_module("greenstalk").NotFoundError:
            return 0


class _Consumer:
    def __init__(self, client: Any) -> None:
        self.locked = 0
        self._client = client
        self._client.use("answers")
        self._none = import_module("greenstalk").TimedOutError

    def take(self) -> Taken | None:
        try:
            job = self._client.reserve(timeout=0)
        except self._none:
            return None
        return Taken(job.body, job)

    def complete(self, taken: Taken, answer: Answer) -> None:
        self._client.put(answer.text)
        self._client.delete(taken.handle)
