"""A queue of a certain depth in a process of its own, measured whenever a line comes in.

    python -m benchmarks.queue.depth_host DIRECTORY DEPTH

Each line of standard input is a number of operations; the answer is a line of JSON with what each of them took, in
nanoseconds: an enqueue and a take, without and with their commit.
"""

__all__ = ["main"]

import gc
import json
import sys
import time
from pathlib import Path

from benchmarks.queue.captchad_store import Enqueuer, commit, finish, open_queue
from benchmarks.queue.work import Work, answer_for, make_work
from captchad.model.clock import SystemClock
from captchad.queue.queue import Queue

_BATCH = 1000


def measure(queue: Queue, enqueuer: Enqueuer, works: list[Work]) -> dict[str, list[int]]:
    """For each task one enqueue of it and one take of the oldest; the depth stays."""
    took: dict[str, list[int]] = {"enqueue": [], "enqueue_commit": [], "take": [], "take_commit": []}
    for work in works:
        begin = time.perf_counter_ns()
        enqueuer.stage(work)
        staged = time.perf_counter_ns()
        commit(queue)
        durable = time.perf_counter_ns()
        task = queue.view.peek_ready()
        if task is None:
            raise RuntimeError("the queue is empty")
        queue.payload(task)
        n = queue.order(task, "bench", (1, 1), "k")
        ordered = time.perf_counter_ns()
        commit(queue)
        done = time.perf_counter_ns()
        took["enqueue"].append(staged - begin)
        took["enqueue_commit"].append(durable - begin)
        took["take"].append(ordered - durable)
        took["take_commit"].append(done - durable)
        finish(queue, n, answer_for(task.id).token)
        queue.publishing(task)
        queue.delivered(task)
        commit(queue)
    return took


def main() -> int:
    """Build, say how deep it is, then measure on demand."""
    directory, depth = Path(sys.argv[1]), int(sys.argv[2])
    queue = open_queue(directory, SystemClock())
    enqueuer = Enqueuer(queue)
    for first in range(0, depth, _BATCH):
        enqueuer.enqueue_many(list(make_work(min(_BATCH, depth - first), first)))
    gc.collect()
    gc.freeze()  # as after a start: the tasks that were there are not looked at again
    print(json.dumps({"depth": queue.view.unfinished}), flush=True)
    for line in sys.stdin:
        works = list(make_work(int(line), depth))
        depth += len(works)
        print(json.dumps(measure(queue, enqueuer, works)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
