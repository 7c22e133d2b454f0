"""A task as plain values, for `show` and `list`. Neither payload nor answer: tokens are their owners' business."""

__all__ = ["dead_letters", "describe", "task_list"]

from typing import Any

from captchad.model.clock import iso_utc
from captchad.model.money import amount
from captchad.model.states import State
from captchad.queue.task import Task
from captchad.queue.view import View


def describe(view: View, task: Task) -> dict[str, Any]:
    """One task with what is under way for it."""
    return _row(task) | {
        "captchas": [
            {
                "n": captcha.n,
                "provider": captcha.provider,
                "captcha_id": captcha.cid,
                "submitted_at": iso_utc(captcha.submitted_at),
                "late": captcha.late,
            }
            for captcha in view.captchas_of(task)
        ],
        "submits": [
            {"n": attempt.n, "provider": attempt.provider, "ordered_at": iso_utc(attempt.ordered_at)}
            for attempt in view.attempts_of(task)
        ],
        "waits_for": task.waits_for,
        "message": task.text or None,
    }


def task_list(view: View, state: str | None, limit: int) -> list[dict[str, Any]]:
    """Tasks in the order in which they were accepted, at most `limit`."""
    return [_row(task) for task in view.first(None if state is None else State(state), limit)]


def dead_letters(view: View, limit: int) -> list[dict[str, Any]]:
    """The dead-letter queue."""
    return [_row(task) | {"message": task.text or None} for task in view.first(State.DEAD, limit)]


def _row(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "state": str(task.state),
        "priority": task.priority.word,
        "method": task.method,
        "host": task.host,
        "provider": task.provider,
        "captcha_id": task.cid,
        "attempts": task.attempts,
        "charges": task.charges,
        "cost": None if task.cost is None else amount(task.cost),
        "crashes": task.crashes,
        "stalls": task.stalls,
        "unknown_submits": task.unknown_submits,
        "late_submits": task.late_submits,
        "redrives": task.redrives,
        "queued_at": iso_utc(task.queued_at) if task.queued_at else None,  # of one whose record the disk has lost
        "due_at": iso_utc(task.due_at) if task.due_at else None,
        "deadline_at": iso_utc(task.deadline_at) if task.deadline_at is not None else None,
        "finished_at": iso_utc(task.finished_at) if task.finished_at is not None else None,
        "reported": task.reported or None,
        "error": task.error,
        "category": str(task.category) if task.category else None,
        "source": f"{task.source}:{task.line}" if task.line else task.source,
    }
