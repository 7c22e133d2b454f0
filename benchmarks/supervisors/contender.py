"""What a contender is: a supervisor, started with workers that do nothing, and what is known of these workers."""

__all__ = ["PROGRAMS", "Contender", "Kind", "Place"]

import os
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from benchmarks.supervisors.processes import end_tree, is_at_work, tree
from benchmarks.supervisors.programs.note import BROKEN_VARIABLE, FILE_VARIABLE
from tests.support.harness import eventually

#: The programs that the contenders run.
PROGRAMS = Path(__file__).parent / "programs"

_START_S = 60.0


class Kind(Enum):
    """How a contender is configured."""

    DEFAULT = "default"  # as it comes
    LIMITED = "limited"  # with a limit of 2 s for a worker that is silent, if it has such a thing
    BROKEN = "broken"  # as it comes, with workers that die at boot


@dataclass(frozen=True, slots=True)
class Place:
    """Where contenders run: their files, the Python that has them, and how many workers each gets."""

    directory: Path
    python: Path
    workers: int
    url: str  # of the practice provider, which captchad needs
    key: str


class Contender(ABC):
    """One supervisor. A context manager: leaving it ends all of its processes."""

    title: ClassVar[str]
    package: ClassVar[str | None] = None  #: what must be installed for it; its module has the same name

    def __init__(self, place: Place, kind: Kind) -> None:
        self.place = place
        self.kind = kind
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.title}-", dir=place.directory))
        # Not below `directory`: the path of a socket is limited to 107 bytes.
        self.runtime = Path(tempfile.mkdtemp(prefix="bench-"))
        self._notes = self.directory / "notes"
        self._log = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._process = self.launch()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @abstractmethod
    def launch(self) -> subprocess.Popen[bytes]:
        """Start it, in a session of its own; need not wait for anything."""

    def stop(self) -> None:
        """End its processes and remove its sockets. Its files go with the directory of the run."""
        if self._process is not None:
            end_tree(self._process.pid)
            self._process.wait()
        shutil.rmtree(self.runtime, ignore_errors=True)

    def run(self, command: Sequence[str], environ: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start the command of a contender whose workers write notes."""
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.directory,
                env={**os.environ, **self.note_environ(), **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def note_environ(self) -> dict[str, str]:
        """What `programs/note.py` reads."""
        return {FILE_VARIABLE: str(self._notes)} | ({BROKEN_VARIABLE: "1"} if self.kind is Kind.BROKEN else {})

    def wait_ready(self) -> None:
        """Until all workers are there. Raises RuntimeError when the supervisor ends before, or takes for ever."""
        eventually(self._is_ready, _START_S, every=0.1)

    def _is_ready(self) -> bool:
        if not self.lives:
            raise RuntimeError(f"{self.title} has ended:\n{self.log()[-2000:]}")
        return len(self.workers()) == self.place.workers

    def log(self) -> str:
        """What it and its workers said."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def lives(self) -> bool:
        """Whether the supervisor itself lives."""
        return self._process is not None and self._process.poll() is None

    def pids(self) -> list[int]:
        """All of its processes."""
        return [] if self._process is None else tree(self._process.pid)

    def workers(self) -> dict[int, float]:
        """The workers that are at work now: pid -> monotonic time at which each could begin."""
        return {pid: ready_at for pid, ready_at in self.told() if is_at_work(pid)}

    def told(self) -> Sequence[tuple[int, float]]:
        """Pid and time of workers that were ready once; those that are dead by now may be among them."""
        return self._noted()

    def starts(self) -> int:
        """How often a worker wrote a note."""
        return len(self._noted())

    def _noted(self) -> list[tuple[int, float]]:
        lines = self._notes.read_text().splitlines() if self._notes.exists() else []
        return [(int(pid), float(at)) for pid, at in (line.split() for line in lines)]
