"""What the crew reports goes into the journal, and to systemd. The watchdog's ping is earned here and in the core."""

__all__ = ["Office"]

from collections.abc import Callable
from typing import Any

from captchad.model.clock import Clock
from captchad.notify import Notify
from captchad.queue.queue import Queue


class Office:
    """Implements `captchad.supervisor.worker.Office`."""

    def __init__(
        self,
        queue: Queue,
        notify: Notify,
        clock: Clock,
        went_down: Callable[[], None],
        retry_ahead: Callable[[], bool],
    ) -> None:
        """`went_down` has a journal that is down tried again; `retry_ahead` says whether that is going to happen."""
        self._queue = queue
        self._notify = notify
        self._clock = clock
        self._went_down = went_down
        self._retry_ahead = retry_ahead
        self._commits = 0

    def write(self, fields: dict[str, Any]) -> None:
        """Stage the record of an action, or of a death. It is durable with the turn.

        On a full disk, and while the journal is down, only deaths are recorded: the reserve is for outcomes, and what
        cannot be written waits in memory. The log has the rest.
        """
        if fields["do"] != "death" and not self._queue.accepts_work:
            return
        self._queue.stage("crew", {"t": self._clock.time(), **fields})

    def journal_lives(self) -> bool:
        """Whether the journal took a write since this was asked before, or takes one now, or is known to be down.

        It is known to be down when its next try is ahead.
        """
        if not self._queue.down_reason and self._queue.journal.commits == self._commits:
            # Nothing was written since: it must show that it still can.
            self._queue.stage("beat", {"t": self._clock.time()})
            self._queue.commit()
            self._went_down()
        written = self._queue.journal.commits != self._commits
        self._commits = self._queue.journal.commits
        return written or (bool(self._queue.down_reason) and self._retry_ahead())

    def ping(self) -> None:
        """Tell systemd that all is well."""
        self._notify.watchdog()
