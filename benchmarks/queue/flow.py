"""Tasks through the whole queue, turn by turn as in the daemon: in, submitted, solved, delivered, forgotten."""

__all__ = ["Flow"]

from collections.abc import Iterator
from itertools import islice

from benchmarks.queue.captchad_store import Enqueuer, commit, finish
from benchmarks.queue.fake_clock import FakeClock
from benchmarks.queue.work import Work, answer_for
from captchad.daemon.parent import FORGET_A_TURN
from captchad.queue.queue import Queue
from captchad.queue.task import Task


class Flow:
    """Each turn moves every task on by one durable step. `per_turn` tasks come in a turn."""

    def __init__(self, queue: Queue, clock: FakeClock, *, per_turn: int, turn_s: float) -> None:
        self._queue = queue
        self._clock = clock
        self._enqueuer = Enqueuer(queue)
        self._per_turn = per_turn
        self._turn_s = turn_s
        self._submitting: list[tuple[int, Task]] = []
        self._solved: list[Task] = []
        self._publishing: list[Task] = []
        self.peak_bytes = 0  # the most that the journal held; to be set to 0 where it begins to count

    def run(self, works: Iterator[Work]) -> None:
        """Until all are delivered."""
        while self._turn(list(islice(works, self._per_turn))):
            continue

    def _turn(self, works: list[Work]) -> bool:
        """Whether anything is left to move."""
        queue = self._queue
        for task in self._publishing:
            queue.delivered(task)
        for task in self._solved:
            queue.publishing(task)
        for n, task in self._submitting:
            finish(queue, n, answer_for(task.id).token)
        self._publishing, self._solved = self._solved, [task for _, task in self._submitting]
        self._submitting = list(self._orders())
        for work in works:
            self._enqueuer.stage(work)
        # What the parent does in each of its turns.
        queue.forget(FORGET_A_TURN)
        queue.clean()
        commit(queue)
        self.peak_bytes = max(self.peak_bytes, queue.journal.size_bytes)
        self._clock.advance(self._turn_s)
        return bool(works or self._submitting or self._solved or self._publishing)

    def _orders(self) -> Iterator[tuple[int, Task]]:
        for number in range(self._per_turn):
            task = self._queue.view.peek_ready()
            if task is None:
                return
            self._queue.payload(task)  # the daemon reads it to make the submit
            yield self._queue.order(task, "bench", (1, number % 8), "k"), task
