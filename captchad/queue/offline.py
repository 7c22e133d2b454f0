"""What can be answered, and done, with the daemon down: through the journal alone.

Reading takes no lock and writes nothing. Writing takes the segments' lock for one commit; while a daemon runs it holds
that lock, so the two never meet.
"""

__all__ = ["dlq_list", "history", "list_tasks", "redrive", "show"]

import random
from pathlib import Path
from typing import Any

from captchad.journal.places import RecordFiles
from captchad.journal.store import Journal, read_all
from captchad.model.clock import SystemClock, iso_utc
from captchad.model.errors import JournalDown, NeedsOperator
from captchad.policy.lifecycle import NotAllowed
from captchad.policy.retry import RetrySettings
from captchad.queue.describe import dead_letters, describe, task_list
from captchad.queue.queue import Queue, QueueSettings
from captchad.queue.view import View


def _view(state_dir: Path) -> View:
    view = View(RecordFiles(state_dir / "journal").read)
    for record in read_all(state_dir / "journal", lazy=View.LAZY):
        try:
            view.replay(record)
        except NotAllowed:
            continue  # a damaged line before it is missing; `journal verify` names it
    return view


def show(state_dir: Path, task_id: str) -> dict[str, Any] | None:
    """One task with its history; None when the journal does not know it."""
    view = _view(state_dir)
    task = view.tasks.peek(task_id)
    return None if task is None else describe(view, task) | {"history": history(state_dir, task_id)}


def history(state_dir: Path, task_id: str) -> list[str]:
    """The life of one task, a line for each record; also beside a running daemon, since it takes no lock."""
    records = (record for record in read_all(state_dir / "journal") if record.fields.get("id") == task_id)
    return [_line(record.kind, record.fields) for record in records]


def list_tasks(state_dir: Path, state: str | None, limit: int) -> list[dict[str, Any]]:
    """Tasks in the order in which they were accepted."""
    return task_list(_view(state_dir), state, limit)


def dlq_list(state_dir: Path, limit: int) -> list[dict[str, Any]]:
    """The dead-letter queue."""
    return dead_letters(_view(state_dir), limit)


def redrive(
    state_dir: Path,
    ids: list[str] | None,
    *,
    max_redrives: int,
    capacity: int,
    segment_mb: int,
    allow_weak_fs: bool = False,
) -> dict[str, Any]:
    """Redrive dead tasks (all with None). Durable on return.

    Raises LockHeld while a daemon runs, NeedsOperator when the caller may not write there, the file system is weak or
    the journal is damaged, JournalDown when it takes no write.
    """
    journal_dir = state_dir / "journal"
    if not journal_dir.is_dir():
        raise NeedsOperator(f"there is no journal in {state_dir}", hint="name the right configuration with --config")
    settings = QueueSettings(capacity, 0.0, 0.0, max_redrives, hold_unknown=False, retry=RetrySettings(1, 0.0, 0.0))
    journal = Journal.open(
        journal_dir,
        segment_bytes=segment_mb << 20,
        clock=SystemClock(),
        lock_wait_s=0.0,
        allow_weak_fs=allow_weak_fs,
    )
    try:
        queue = Queue(journal, settings, SystemClock(), random.Random())
        queue.replay()
        redriven, refused = queue.redrive_many(ids)
        queue.commit()
        if queue.down_reason:
            raise JournalDown(queue.down_reason, hint="nothing was redriven; make room and try again")
    finally:
        journal.close()
    return {"redriven": redriven, "refused": refused}


def _line(kind: str, fields: dict[str, Any]) -> str:
    said = " ".join(f"{key}={value}" for key, value in fields.items() if key not in ("id", "t") and value is not None)
    stamp = iso_utc(float(fields["t"])) if "t" in fields else "-"
    return f"{stamp} {kind} {said}".rstrip()
