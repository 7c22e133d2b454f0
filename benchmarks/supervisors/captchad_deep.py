"""captchad with a million tasks in its queue. A fork of a parent that holds so many stops it for 100 to 250 ms."""

__all__ = ["TASKS", "CaptchadDeep"]

from collections.abc import Mapping
from typing import Any

from benchmarks.queue.captchad_store import SEGMENT_MB
from benchmarks.queue.subprocesses import run_json
from benchmarks.supervisors.captchad_daemon import CaptchadDaemon
from benchmarks.supervisors.contender import Kind, Place

TASKS = 1_000_000


class CaptchadDeep(CaptchadDaemon):
    """A whole daemon on a journal of TASKS pending tasks, of which it submits one."""

    title = "captchad, a million tasks queued"

    def __init__(self, place: Place, kind: Kind) -> None:
        super().__init__(place, kind)
        state = self.directory / "state"
        state.mkdir()
        run_json("build", "pending", state, TASKS, SEGMENT_MB)

    def more_overrides(self) -> Mapping[str, Any]:
        # One captcha that is not polled: the queue stays as it is.
        return {"provider": {"max_in_flight": 1, "first_poll_s": 600.0}, "queue": {"capacity": 10 * TASKS}}
