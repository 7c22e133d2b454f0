"""A server process of a contender: started on a unix socket, killed without a goodbye."""

__all__ = ["Server"]

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_START_S = 20.0


class Server:
    """One process. Its log goes to `directory`, its socket to a short path of its own (107 bytes at most)."""

    def __init__(self, directory: Path) -> None:
        self._log = directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._runtime = Path(tempfile.mkdtemp(prefix="bench-"))
        self.socket = self._runtime / "socket"

    def start(self, executable: str, arguments: Sequence[str]) -> None:
        """Start it; returns when it takes connections. `arguments` begin with the name that it is called by."""
        self._runtime.mkdir(exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(arguments, executable=executable, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{arguments[0]} does not start:\n{self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(str(self.socket))
            return True
        return False

    def pids(self) -> list[int]:
        return [] if self._process is None else [self._process.pid]

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        shutil.rmtree(self._runtime, ignore_errors=True)
