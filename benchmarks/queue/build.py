"""Journals of many tasks, made by a process of their own that ends without a goodbye.

    python -m benchmarks.queue.build pending|finished|flowing DIRECTORY TASKS SEGMENT_MB

pending: none of them was touched yet. finished: all were delivered, cleaning has rewritten them, their ids are still
remembered. flowing: ten times the life of an id passes meanwhile, so that nine tenths are forgotten on the way; cleaned
thoroughly only after it was weighed. Prints what the directory holds and weighs, as JSON.
"""

__all__ = ["main"]

import json
import os
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

from benchmarks.queue.captchad_store import Enqueuer, open_queue
from benchmarks.queue.fake_clock import FakeClock
from benchmarks.queue.flow import Flow
from benchmarks.queue.work import make_work
from captchad.model.clock import SystemClock
from captchad.model.states import State
from captchad.queue.queue import Queue

_BATCH = 1000

#: Below the ids that a turn may forget, or the queue falls behind; about what eight busy workers bring.
_PER_TURN = 40

#: Lives of an id that pass while `flowing`.
_LIVES = 10


def _pending(directory: Path, tasks: int, segment_mb: int) -> Queue:
    queue = open_queue(directory, SystemClock(), segment_mb=segment_mb)
    enqueuer = Enqueuer(queue)
    works = make_work(tasks)
    for _ in range(0, tasks, _BATCH):
        enqueuer.enqueue_many(list(islice(works, _BATCH)))
    return queue


def _through(directory: Path, tasks: int, segment_mb: int, lives: int) -> tuple[Queue, int]:
    """All of `tasks` through the queue while `lives` times the life of an id passes.

    Returns the queue, and the most that its journal held during the second half.
    """
    clock = FakeClock(SystemClock().time())
    queue = open_queue(directory, clock, segment_mb=segment_mb)
    queue.settings = replace(queue.settings, dead_ttl_s=queue.settings.id_ttl_s)
    turn_s = queue.settings.id_ttl_s * lives / (tasks / _PER_TURN)
    flow = Flow(queue, clock, per_turn=_PER_TURN, turn_s=turn_s)
    works = make_work(tasks)
    flow.run(islice(works, tasks // 2))
    flow.peak_bytes = 0
    flow.run(works)
    return queue, flow.peak_bytes


def main() -> int:
    """Build, print, end at once."""
    kind, directory, tasks, segment_mb = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    peak = 0
    if kind == "pending":
        queue = _pending(directory, tasks, segment_mb)
    else:
        queue, peak = _through(directory, tasks, segment_mb, _LIVES if kind == "flowing" else 0)
        if kind == "finished":
            queue.clean_all()
    states = queue.view.states
    held = {
        "pending": states[State.PENDING],
        "finished": states[State.SOLVED],
        "peak_bytes": peak,
        "bytes": sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()),
    }
    if kind == "flowing":
        queue.clean_all()  # weighed already; now it shows what cleaning leaves of a task
    print(json.dumps(held), flush=True)
    os._exit(0)  # as a crash does: what a stop would write beside the journal is not there


if __name__ == "__main__":
    sys.exit(main())
