"""A Redis server of the benchmark's own: unix socket, append-only file, appendfsync always, no snapshots."""

__all__ = ["RedisPeer"]

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.environment import BENCH_ENVIRONMENT
from benchmarks.queue.install import find_program
from benchmarks.queue.peer import Peer
from benchmarks.queue.servers import Server


class RedisPeer(Peer):
    """Answers are kept in the hash `answers`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._server = Server(directory)
        self._producer: Any = None

    def start(self) -> None:
        # Debian ships the server's program under this name, too, in a package that starts no service.
        program = find_program("redis-server", BENCH_ENVIRONMENT) or find_program("redis-check-rdb", BENCH_ENVIRONMENT)
        if program is None:
            raise RuntimeError("no redis-server")
        options = ["--port", "0", "--unixsocket", str(self._server.socket), "--dir", str(self.directory)]
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        self._server.start(program, ["redis-server", *options, *durable])
        self._wait_loaded()

    def _wait_loaded(self) -> None:
        """After a restart it takes connections before it has read its file."""
        client = self.connect()
        while client.info("persistence")["loading"]:
            continue
        client.close()

    def stop(self) -> None:
        self._producer = None
        self._server.kill()

    def server_pids(self) -> list[int]:
        return self._server.pids()

    @property
    def connect(self) -> Callable[[], Any]:
        path = str(self._server.socket)
        return lambda: import_module("redis").Redis(unix_socket_path=path)

    def producer(self) -> Any:
        """The connection of this process."""
        if self._producer is None:
            self._producer = self.connect()
        return self._producer
