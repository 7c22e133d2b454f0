"""A worker that has no work: it beats, and comes to grief as its fate says, for real."""

__all__ = ["body", "order"]

import contextlib
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captchad.ipc.channel import Channel
from captchad.ipc.loop import Loop, next_beat
from captchad.model.clock import SystemClock
from captchad.supervisor.template import SOCKET_FD, serve
from tests.supervisor.simulator import Broken, Fate, Process


def order(fate: Fate, beat_s: float) -> dict[str, Any]:
    """What the template is to be told."""
    values = {name: getattr(fate, name) for name in ("boot_s", "after_s", "drain_s", "leak", "tasks")}
    return {"broken": str(fate.broken), "beat_s": beat_s, **values}


def body(told: dict[str, Any], fds: Sequence[int]) -> int:
    """Be the worker that was ordered."""
    faulthandler.register(signal.SIGUSR2, file=os.open(os.devnull, os.O_WRONLY), all_threads=True)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    beat_s = told.pop("beat_s")
    fate = Fate(**{**told, "broken": Broken(told["broken"])})
    return _Puppet(fate, beat_s, Channel(fds[0])).live()


class _Puppet:
    def __init__(self, fate: Fate, beat_s: float, channel: Channel) -> None:
        self.fate = fate
        self.beat_s = beat_s
        self.channel = channel
        self.loop = Loop(SystemClock())
        self.process = Process(0, fate, time.monotonic())
        self.leaves_at: float | None = None
        self.due = time.monotonic()  # the next beat

    def live(self) -> int:
        with contextlib.suppress(KeyboardInterrupt):
            self.loop.watch(self.channel.fd, readable=self._read)
            match self.fate.broken:
                case Broken.BOOT_EXITS:
                    self.loop.call_later(self.fate.boot_s, lambda: os._exit(70))
                case Broken.BOOT_DISK:
                    self.loop.call_later(self.fate.boot_s, lambda: os._exit(os.EX_IOERR))
                case Broken.BOOT_HANGS:
                    pass
                case Broken.EXITS:
                    self.loop.call_later(self.fate.after_s, lambda: os._exit(1))
                    self._beat()
                case Broken.SIGNALLED:
                    self.loop.call_later(self.fate.after_s, lambda: os.kill(os.getpid(), signal.SIGSEGV))
                    self._beat()
                case Broken.EATEN:
                    self.loop.call_later(self.fate.after_s, _eat)
                    self._beat()
                case Broken.HANGS:
                    self.loop.call_later(self.fate.after_s, lambda: os.kill(os.getpid(), signal.SIGSTOP))
                    self._beat()
                case _:
                    self._beat()
            while not self.channel.gone and (self.leaves_at is None or time.monotonic() < self.leaves_at):
                self.loop.turn(0.02)
        return 0

    def _read(self) -> None:
        for message in self.channel.receive():
            if message["m"] == "drain":
                self.leaves_at = time.monotonic() + self.fate.drain_s
                self.loop.call_at(self.leaves_at, lambda: None)

    def _beat(self) -> None:
        now = time.monotonic()
        lag_s = max(0.0, now - self.due)
        said = self.process.says(now)
        self.channel.send(
            {
                "m": "beat",
                "phase": said.phase,
                "in_flight": said.in_flight,
                "submits": said.submits,
                "calls": said.calls,
                "beyond_s": said.beyond_s,
                "oldest_beyond_s": said.oldest_beyond_s,
                "lag_s": lag_s,
                "completed": said.completed,
                "starved": 0,
                "rss": said.rss_bytes,
                "private": said.private_bytes,
            }
        )
        self.due = next_beat(now, self.beat_s)
        self.loop.call_at(self.due, self._beat)


def _eat() -> None:
    """Until the kernel has had enough of it. It takes this process first, not the parent."""
    Path("/proc/self/oom_score_adj").write_text("900")
    eaten = []
    while True:
        eaten.append(bytearray(b"x" * (1 << 20)))


if __name__ == "__main__":
    sys.exit(serve(SOCKET_FD, body))
