"""captchad's queue as its parent process holds it, and the one place that knows how a task comes in."""

__all__ = ["SEGMENT_MB", "SETTINGS", "Enqueuer", "commit", "finish", "open_queue"]

import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks.queue.work import Work, intake_fields
from captchad.journal.store import Journal
from captchad.model.clock import Clock
from captchad.policy.retry import RetrySettings
from captchad.queue.queue import Queue, QueueSettings

#: The default of `queue.segment_mb`.
SEGMENT_MB = 64

#: The defaults of `[queue]` and `[retry]`, but room for all that the benchmark puts in.
SETTINGS = QueueSettings(
    capacity=10_000_000,
    id_ttl_s=86_400.0,
    dead_ttl_s=30 * 86_400.0,
    max_redrives=3,
    hold_unknown=False,
    retry=RetrySettings(max_attempts=8, base_delay_s=2.0, max_delay_s=300.0),
)


def open_queue(directory: Path, clock: Clock, *, segment_mb: int = SEGMENT_MB) -> Queue:
    """Open the journal below `directory`, replay it, and begin an epoch: what the parent does at its start."""
    journal = Journal.open(directory / "journal", segment_bytes=segment_mb << 20, clock=clock)
    queue = Queue(journal, SETTINGS, clock, random.Random(1))
    queue.replay()
    queue.stage("epoch", {"epoch": queue.view.epoch + 1, "pid": 0, "t": clock.time()})
    commit(queue)
    return queue


def commit(queue: Queue) -> None:
    """Make all that is staged durable, and what goes with it in the parent's turn. Raises RuntimeError."""
    queue.commit()
    if queue.down_reason:
        raise RuntimeError(queue.down_reason)
    queue.journal.prepare()


class Enqueuer:
    """Tasks on their way in: what `captchad.daemon.intake` does with an offer, one commit at the end."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._number = 0

    def stage(self, work: Work) -> None:
        """Not durable yet. Raises RuntimeError when the queue takes no work."""
        if not self._queue.accepts_work:
            raise RuntimeError(f"the queue takes no work: {self._queue.down_reason or 'no room'}")
        self._queue.accept(work.id, intake_fields(self._number), work.payload)
        self._number += 1

    def enqueue(self, work: Work) -> None:
        """Durable on return."""
        self.stage(work)
        commit(self._queue)

    def enqueue_many(self, works: Sequence[Work]) -> None:
        """Durable on return, with one commit."""
        for work in works:
            self.stage(work)
        commit(self._queue)


def finish(queue: Queue, n: int, token: str) -> None:
    """Stage that attempt `n` was taken by the provider and solved."""
    queue.submitted(n, str(n))
    queue.solved(n, {"token": token, "answer": None, "extra": {}})
