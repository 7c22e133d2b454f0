"""From the start of a whole daemon to READY=1, as systemd would see it, with many tasks in its journal."""

__all__ = ["Start", "measure_starts", "start_report"]

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.markdown import table
from benchmarks.queue.captchad_store import SEGMENT_MB
from benchmarks.queue.replay import rss_bytes
from benchmarks.queue.subprocesses import figures, run_json
from benchmarks.queue.subprocesses import start as start_module
from tests.support.harness import Daemon
from tests.support.sandbox import Sandbox

#: What belongs to a journal; anything else in its directory can be made again from that.
_JOURNAL_FILES = ("lock", "workers", "quarantine")

_READY_S = 1800.0

#: `Queue.replay` reports every so many records: with fewer there is nothing to extend.
_REPORTED_AFTER = 10_000


@dataclass(frozen=True, slots=True)
class Start:
    """One kind of journal. Seconds to READY; bytes of memory for each task beyond an empty daemon's."""

    title: str
    tasks: int
    full_s: float
    again_s: float
    extended: bool
    replay_s: float
    records: int
    replay_bytes: float
    parent_bytes: float
    again_bytes: float


class Listener:
    """systemd's end of the notification protocol."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="bench-"))
        self.path = self._directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self.said: list[str] = []

    def wait_ready(self, daemon: Daemon) -> None:
        """Read until READY=1. Raises RuntimeError when the daemon ends before, or takes for ever."""
        deadline = time.monotonic() + _READY_S
        self._socket.settimeout(1.0)
        while not (self.said and "READY=1" in self.said[-1].split("\n")):
            try:
                self.said.append(self._socket.recv(8192).decode())
            except TimeoutError:
                if not daemon.running or time.monotonic() > deadline:
                    raise RuntimeError(f"the daemon does not get ready:\n{daemon.log()[-4000:]}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.close()
        shutil.rmtree(self._directory)


def measure_starts(directory: Path, tasks: int, kinds: Sequence[str]) -> list[Start]:
    """With no tasks, and with `tasks` of each kind that `benchmarks.queue.build` makes."""
    for kind in ("nothing", *kinds):
        (directory / kind / "state").mkdir(parents=True)
    # Side by side: nothing is timed here.
    builds = [start_module("build", kind, directory / kind / "state", tasks, SEGMENT_MB) for kind in kinds]
    held = {kind: figures(build) for kind, build in zip(kinds, builds, strict=True)}
    for kind in kinds:
        if held[kind][kind] != tasks:
            raise RuntimeError(f"the journal of {tasks} {kind} tasks was not made well: {held[kind]}")
    with Sandbox() as sandbox:
        empty = _start(directory / "nothing", sandbox, "no tasks", 0, 0)
        starts = [
            _start(directory / kind, sandbox, f"{tasks:,} {kind}", tasks, round(empty.parent_bytes)) for kind in kinds
        ]
    return [empty, *starts]


def _start(directory: Path, sandbox: Sandbox, title: str, tasks: int, empty_bytes: int) -> Start:
    """Start a daemon twice: with nothing but its journal, then after a clean stop. Before, read the journal alone."""
    journal = directory / "state" / "journal"
    _drop_derived(journal)
    replay = run_json("replay", directory / "state", SEGMENT_MB)
    _drop_derived(journal)
    each = max(1, tasks)
    full_s, full_bytes, said = _ready(directory, sandbox)
    again_s, again_bytes, _ = _ready(directory, sandbox)
    return Start(
        title=title,
        tasks=tasks,
        full_s=full_s,
        again_s=again_s,
        extended=_extended(said),
        replay_s=replay["seconds"],
        records=replay["records"],
        replay_bytes=replay["bytes"] / each,
        parent_bytes=(full_bytes - empty_bytes) / each,
        again_bytes=(again_bytes - empty_bytes) / each,
    )


def _drop_derived(journal: Path) -> None:
    """Remove whatever can be made from the segments, so that a start must read them all."""
    if not journal.exists():
        return
    for path in journal.iterdir():
        if path.name not in _JOURNAL_FILES and path.suffix != ".jsonl":
            with suppress(FileNotFoundError):
                path.unlink()


def _ready(directory: Path, sandbox: Sandbox) -> tuple[float, int, Sequence[str]]:
    """Start, wait for READY=1, stop cleanly: seconds, resident bytes of the parent, and what it said until then."""
    overrides = {
        "daemon": {"workers": 4, "min_workers": 2},
        "supervision": {"heartbeat_s": 1.0},
        # One captcha that is not polled: the queue stays as it is.
        "provider": {"max_in_flight": 1, "first_poll_s": 600.0},
        "queue": {"capacity": 10_000_000},
    }
    with Listener() as listener:
        daemon = Daemon(directory, sandbox, overrides, {"NOTIFY_SOCKET": str(listener.path)})
        try:
            begin = time.monotonic()
            daemon.start(wait=False)
            listener.wait_ready(daemon)
            seconds = time.monotonic() - begin
            held = rss_bytes(daemon.pid)
            daemon.stop(timeout=120.0)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            shutil.rmtree(daemon.runtime_dir, ignore_errors=True)
        return seconds, held, listener.said


def _extended(said: Sequence[str]) -> bool:
    """Whether systemd was asked for more time before it was told that the daemon is ready."""
    return any(line.startswith("EXTEND_TIMEOUT_USEC=") for message in said[:-1] for line in message.split("\n"))


def start_report(starts: Sequence[Start]) -> str:
    """Seconds to READY, and memory."""
    head = [
        "journal",
        "READY, only the journal, s",
        "READY after a clean stop, s",
        "time extended before READY",
        "replay alone, s",
        "records",
        "parent, bytes a task",
        "after a clean stop",
        "replay alone",
    ]
    rows = [
        [
            start.title,
            f"{start.full_s:.2f}",
            f"{start.again_s:.2f}",
            "yes" if start.extended else "no" if start.records >= _REPORTED_AFTER else "-",
            f"{start.replay_s:.2f}",
            f"{start.records:,}",
            *(
                f"{value:,.0f}" if start.tasks else "-"
                for value in (start.parent_bytes, start.again_bytes, start.replay_bytes)
            ),
        ]
        for start in starts
    ]
    aims = "Aims for 1,000,000: pending ready in < 5 s by full replay, < 0.3 s from a checkpoint, < 200 bytes a task;"
    return f"{table(head, rows)}\n\n{aims} finished < 2 s."
