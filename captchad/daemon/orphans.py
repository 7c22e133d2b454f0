"""Last words of workers whose parent died: read once their lock is free, then forgotten.

A submit that is `submitting` under a worker of an earlier epoch is resolved here: by what its side file says; as never
begun when the file ends properly and does not name it; as unknown when there is no proper end.
"""

__all__ = ["Orphans"]

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from captchad.journal.sidefile import SidePath, read_side_file, side_files
from captchad.model.errors import CaptchadError, FixInput
from captchad.model.logevents import Event, fields
from captchad.queue.queue import Queue
from captchad.queue.task import WorkerKey
from captchad.supervisor.stragglers import kill_holders

#: What a worker may take for its last words beyond its last submit, on a disk that is slow to take them.
LAST_WORDS_S = 10.0

Outcome = Callable[[int, dict[str, object]], None]


class Orphans:
    """Side files of earlier epochs. `absorb` is called now and then until `waiting` is empty."""

    def __init__(
        self,
        directory: Path,
        queue: Queue,
        outcome: Outcome,
        remove: Callable[[Path], None],
        log: logging.Logger,
    ) -> None:
        self._directory = directory
        self._queue = queue
        self._outcome = outcome
        self._remove = remove
        self._log = log
        self._epoch = 0
        self._patience_ends = 0.0
        self._files: dict[WorkerKey, SidePath] = {}

    def start(self, epoch: int, submit_s: float) -> None:
        """Look for the side files of every epoch before `epoch`.

        Who still holds one when the longest submit (`submit_s`) must have ended is killed.
        """
        self._epoch = epoch
        self._patience_ends = self._queue.clock.monotonic() + submit_s + LAST_WORDS_S
        self._files = {(side.epoch, side.number): side for side in side_files(self._directory) if side.epoch < epoch}
        self.absorb()

    @property
    def waiting(self) -> int:
        """Workers of a dead parent that still live."""
        return len(self._files)

    def absorb(self) -> None:
        """Take in every side file whose worker is gone; then settle the submits that nobody answers for."""
        for key, side in list(self._files.items()):
            try:
                report = read_side_file(side.path)
            except (OSError, CaptchadError) as error:
                text = f"side file {side.path.name} cannot be read: {error}; its submits count as unknown"
                self._log.warning(text, extra=fields(worker=side.path.stem))
                del self._files[key]
                continue
            if report is None:
                self._hurry(side)
                continue  # its lock says that it lives
            del self._files[key]
            nonsense = sum(not self._say(outcome) for outcome in report.outcomes)
            # What makes no sense may have been said of a submit that began.
            self._settle(key, ended=report.ended and not nonsense)
            # What it said must be on disk before the file that says it goes.
            self._queue.after_commit(partial(self._remove, side.path))
        self._settle_lost()

    def _hurry(self, side: SidePath) -> None:
        if self._queue.clock.monotonic() >= self._patience_ends:
            for pid in kill_holders(side.path):
                text = f"worker {side.path.stem} of an earlier start (pid {pid}) did not end: killed"
                self._log.warning(text, extra=fields(Event.STRAGGLER_KILLED, worker=side.path.stem))

    def _say(self, outcome: dict[str, object]) -> bool:
        try:
            self._outcome(int(str(outcome["n"])), outcome)
        except (KeyError, TypeError, ValueError, FixInput) as error:
            self._log.warning(f"a side file says something that makes no sense ({error!r}): skipped")
            return False
        return True

    def _settle(self, key: WorkerKey, *, ended: bool) -> None:
        for attempt in [attempt for attempt in self._queue.view.attempts.values() if attempt.worker == key]:
            if ended and attempt.task_id not in self._queue.broken:
                self._queue.not_sent(attempt.n, "never began", backoff=False)
            else:
                self._queue.unknown(attempt.n, "its worker died with its parent", by_crash=True)

    def _settle_lost(self) -> None:
        """Submits of earlier epochs whose worker left no file at all."""
        lost = {
            attempt.worker
            for attempt in self._queue.view.attempts.values()
            if attempt.worker[0] < self._epoch and attempt.worker not in self._files
        }
        for key in lost:
            self._settle(key, ended=False)
