"""What the spool offers, judged by the queue (implements `captchad.spool.intake.Sink`)."""

__all__ = ["QueueSink"]

from collections.abc import Callable

from captchad.model.compact import to_json
from captchad.queue.queue import Queue
from captchad.spool.intake import Offer, Verdict

#: Characters of a task's tags, as JSON. Longer ones are not counted with: they would stand in several of its records.
TAGS_MOST = 1000


class QueueSink:
    """Accepts, recognises and refuses tasks. Accepted means staged: durable once `after_commit` effects run."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def offer(self, offer: Offer) -> Verdict:
        """Take one task. Raises RecordTooLarge when it can never be taken; nothing is staged then."""
        if not self._queue.accepts_work or self._queue.view.unfinished >= self._queue.settings.capacity:
            known = self._known(offer)
            return Verdict.FULL if known is None else known
        known = self._known(offer)
        if known is not None:
            return known
        task_id = next(task_id for task_id in offer.candidate_ids if task_id not in self._queue.view.tasks)
        self._accept(task_id, offer)
        return Verdict.ACCEPTED

    def after_commit(self, fn: Callable[[], None]) -> None:
        self._queue.after_commit(fn)

    def _known(self, offer: Offer) -> Verdict | None:
        """DUPLICATE or CONFLICT when this task, or another with its id, is here already."""
        free = False
        for task_id in offer.candidate_ids:
            known = self._queue.view.tasks.peek(task_id)
            if known is None:
                free = True
                continue
            if known.origin == offer.origin:
                return Verdict.DUPLICATE  # this very drop: the file outlived a crash
            if offer.explicit:
                return Verdict.DUPLICATE if known.fingerprint == offer.fingerprint else Verdict.CONFLICT
        return None if free else Verdict.CONFLICT

    def _accept(self, task_id: str, offer: Offer) -> None:
        task = offer.task
        deadline_at = None
        if task.deadline_s is not None:
            since = task.submitted_at if task.submitted_at is not None else self._queue.clock.time()
            deadline_at = since + task.deadline_s
        data = {
            "pr": int(task.priority),
            "ex": int(offer.explicit),
            "fp": offer.fingerprint,
            "org": offer.origin,
            "src": offer.source,
            "line": offer.line,
            "m": task.method,
            "h": task.host,
            "dl": deadline_at,
        }
        if task.dedupe_key is not None:
            data["dk"] = task.dedupe_key
        tags = to_json(dict(sorted(task.tags.items()))) if task.tags else ""
        if 0 < len(tags) <= TAGS_MOST:
            data["tg"] = tags
        self._queue.accept(task_id, data, offer.raw)
