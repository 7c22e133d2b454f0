"""Results on their way out: temporary file, `publishing`, rename, `delivered`.

The order is what keeps the promise: a restart that finds `publishing` renames the temporary file if it is still there;
if it is not, the result was published, and a file that a consumer has removed does not come back.
"""

__all__ = ["Publisher", "result_document"]

import json
import logging
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

from captchad.model.clock import Clock, iso_utc
from captchad.model.errors import JournalDamaged, JournalDown, SpoolDown
from captchad.model.logevents import Event, fields
from captchad.model.money import amount
from captchad.model.states import State
from captchad.queue.queue import Queue
from captchad.queue.task import Task
from captchad.spool.results import Results

#: Results a turn: each costs a sync, and heartbeats must not wait for many.
RESULTS_A_TURN = 16

#: A spool that takes no write is tried again after this.
RETRY_S = 1.0

#: How often results are looked at for their age, and how many at most.
EXPIRE_EVERY_S = 10.0
EXPIRE_A_TIME = 1000

_STATUS = {State.SOLVED: "solved", State.DEAD: "failed", State.EXPIRED: "expired", State.CANCELLED: "cancelled"}


def result_document(queue: Queue, task: Task) -> dict[str, Any]:
    """The result file of a task that has ended (design, section 3). Raises JournalDamaged, JournalDown."""
    if task.state is State.SOLVED and task.answer is None:
        raise JournalDamaged("the answer was lost with damaged bytes of the journal")
    answer = queue.answer(task) if task.state is State.SOLVED else {}
    document = _document(task) | {
        "token": answer.get("token"),
        "answer": answer.get("answer"),
        "tags": json.loads(queue.payload(task)).get("tags", {}),
    }
    if answer.get("extra"):
        document["extra"] = answer["extra"]
    return document


def _damaged_document(task: Task, error: JournalDamaged) -> dict[str, Any]:
    """The answer, or the task, cannot be read from the journal: the consumer must hear that, not wait for ever."""
    return _document(task) | {
        "status": "failed",
        "error": "JOURNAL_DAMAGED",
        "category": "task",
        "message": str(error),
    }


def _document(task: Task) -> dict[str, Any]:
    """What is known of a task without its payload and its answer."""
    document: dict[str, Any] = {
        "id": task.id,
        "status": _STATUS[task.state],
        "token": None,
        "answer": None,
        "error": task.error,
        "category": task.category,
        "provider": task.provider,
        "captcha_id": task.cid,
        "attempts": task.attempts,
        "charges": task.charges,
        "cost": None if task.cost is None else amount(task.cost),
        "solve_time": task.solve_time,
        "queued_at": iso_utc(task.queued_at),
        "finished_at": iso_utc(task.finished_at or 0.0),
        "expires_at": iso_utc(task.expires_at) if task.expires_at is not None else None,
        "tags": {},
        "source": {"file": task.source, "line": task.line},
    }
    if task.text:
        document["message"] = task.text
    return document


class Publisher:
    """Moves ended tasks to `results/`, a few each turn."""

    def __init__(self, queue: Queue, results: Results, clock: Clock, log: logging.Logger) -> None:
        self.down_reason = ""
        self.delivered = 0
        self._queue = queue
        self._results = results
        self._clock = clock
        self._log = log
        self._retry_at = 0.0
        self._expire_at = 0.0
        self._renames: list[Task] = []

    def resume(self) -> None:
        """After a start: finish what was being published."""
        view = self._queue.view
        self._renames = [view.tasks[task_id] for task_id in view.undelivered if view.tasks[task_id].delivery]
        try:
            self._results.sweep(lambda task_id: task_id in view.undelivered)
        except SpoolDown as error:
            self._log.warning(f"stale temporary results stay: {error}")

    def withdraw(self, task_ids: Sequence[str]) -> None:
        """Remove the results of a former run: who waits for the new one must not read them."""
        try:
            self._results.withdraw(task_ids)
        except SpoolDown as error:
            self._log.warning(f"results of a former run stay until the new ones replace them: {error}")

    def expire(self, ttl_s: float) -> None:
        """Remove results that nobody fetched within `ttl_s`; now and then, a bounded slice."""
        now = self._clock.monotonic()
        if now < self._expire_at:
            return
        self._expire_at = now + EXPIRE_EVERY_S
        try:
            self._results.expire(ttl_s, EXPIRE_A_TIME)
        except SpoolDown as error:
            self._log.warning(f"old results stay: {error}")

    @property
    def busy(self) -> bool:
        """Whether a turn has something to do now."""
        if self._queue.down_reason or self._clock.monotonic() < self._retry_at:
            return False
        return bool(self._renames) or len(self._queue.view.undelivered) > len(self._renames)

    def wait_s(self) -> float | None:
        """Seconds until a retry; None when nothing waits, or when it waits for the journal."""
        if not self.down_reason or self._queue.down_reason or not self._queue.view.undelivered:
            return None
        return max(0.0, self._retry_at - self._clock.monotonic())

    def turn(self) -> None:
        """One slice. A spool that takes no write is said and tried again; nothing is lost by it."""
        if not self._queue.view.undelivered:
            self.down_reason = ""  # what could not be delivered was redriven meanwhile
        if not self.busy:
            return
        try:
            self._publish()
            self._prepare()
        except (SpoolDown, JournalDown) as error:
            if str(error) != self.down_reason:
                self._log.error(f"results wait: {error}", extra=fields(Event.RESULTS_WAIT))
            self.down_reason = str(error)
            self._retry_at = self._clock.monotonic() + RETRY_S
        else:
            self.down_reason = ""

    def _publish(self) -> None:
        if not self._renames:
            return
        tasks = self._renames[:RESULTS_A_TURN]
        self._results.publish([task.id for task in tasks])
        del self._renames[: len(tasks)]
        for task in tasks:
            self._queue.delivered(task)
        self.delivered += len(tasks)

    def _prepare(self) -> None:
        view = self._queue.view
        waiting = (task for task_id in view.undelivered if not (task := view.tasks[task_id]).delivery)
        prepared: list[Task] = []
        for task in list(islice(waiting, RESULTS_A_TURN)):
            try:
                document = result_document(self._queue, task)
            except JournalDamaged as error:
                document = _damaged_document(task, error)
            self._results.prepare(task.id, document)
            prepared.append(task)
        if prepared:
            # `publishing` says that the temporary file is there: its name must be on disk first, too.
            self._results.sync()
        for task in prepared:
            self._queue.publishing(task)
            self._queue.after_commit(partial(self._renames.append, task))
