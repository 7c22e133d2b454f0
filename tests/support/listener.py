"""The other end of systemd's notification socket, for a daemon that runs without systemd."""

__all__ = ["Listener"]

import socket
from pathlib import Path
from types import TracebackType
from typing import Self


class Listener:
    """Keeps every datagram. A context manager; `environ` is what the daemon needs."""

    def __init__(self, path: Path) -> None:
        self.environ = {"NOTIFY_SOCKET": str(path)}
        self._heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.close()

    def heard(self) -> list[str]:
        """All messages until now, the oldest first."""
        while True:
            try:
                self._heard.append(self._socket.recv(8192).decode())
            except BlockingIOError:
                return self._heard
