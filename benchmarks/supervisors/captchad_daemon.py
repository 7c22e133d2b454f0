"""captchad: `captchad run` with the practice provider, and what it says of its workers itself.

A worker of captchad is ready when the daemon may give it work: it has made its side file and synced it, sits in its
slot, and its heartbeat has reached the parent. That is later than a note that it would write as the others do.
"""

__all__ = ["CaptchadDaemon"]

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.supervisors.contender import PROGRAMS, Contender, Kind, Place
from tests.support.harness import Daemon

#: What tests/support/harness.py makes small for tests is here as it is shipped.
_AS_SHIPPED = {"heartbeat_s": 1.0, "stall_s": 120.0, "restart_max_delay_s": 30.0}


class CaptchadDaemon(Contender):
    """A whole daemon."""

    title = "captchad"

    def __init__(self, place: Place, kind: Kind) -> None:
        super().__init__(place, kind)
        limits = {"heartbeat_s": 0.5, "stall_s": 2.0} if kind is Kind.LIMITED else {}
        overrides = {
            "daemon": {"workers": place.workers, "min_workers": place.workers},
            "supervision": _AS_SHIPPED | limits,
            **self.more_overrides(),
        }
        self._daemon = Daemon(self.directory, place, overrides, self._environ())

    def more_overrides(self) -> Mapping[str, Any]:
        """Tables of the configuration that are otherwise than those of the harness."""
        return {}

    def _environ(self) -> dict[str, str]:
        if self.kind is not Kind.BROKEN:
            return {}
        return self.note_environ() | {"PYTHONPATH": os.pathsep.join([str(PROGRAMS / "broken"), str(PROGRAMS)])}

    def launch(self) -> subprocess.Popen[bytes]:
        self._daemon.start(wait=False)
        if self._daemon.process is None:
            raise RuntimeError("captchad was not started")
        return self._daemon.process

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self._daemon.runtime_dir, ignore_errors=True)

    def told(self) -> Sequence[tuple[int, float]]:
        status = self._daemon.status()
        rows = status["workers"]["list"] if status else []
        ready = [(row["pid"], _ready_at(row)) for row in rows if row["state"] == "running"]
        return [(pid, at) for pid, at in ready if at is not None]


def _ready_at(row: Mapping[str, Any]) -> float | None:
    """When this worker could be given work, by CLOCK_MONOTONIC; a daemon that does not say it tells the first beat."""
    at: float | None = row["ready_mono_s"] if "ready_mono_s" in row else row["first_beat_mono_s"]
    return at
