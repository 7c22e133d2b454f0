"""What can be answered, and done, with the daemon down: through the journal alone.

Reading takes no lock and writes nothing. Writing takes the segments' lock for one commit; while a daemon runs it holds
that lock, so the two never meet.
"""

__all__ = [
    "bill",
    "dlq_list",
    "history",
    "list_tasks",
    "redrive",
    "show",
    "states",
    "worker_actions",
    "worker_deaths",
]

import json
import random
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from captchad.journal.places import RecordFiles
from captchad.journal.store import Journal, read_all
from captchad.model.clock import SystemClock, iso_utc
from captchad.model.errors import JournalDown, NeedsOperator
from captchad.model.money import amount
from captchad.model.states import State
from captchad.policy.lifecycle import NotAllowed
from captchad.policy.retry import RetrySettings
from captchad.queue.bill import OTHER, Columns, Row
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


def states(state_dir: Path, ids: Iterable[str]) -> dict[str, State]:
    """Where each of these tasks stands, of those that the journal knows. Raises JournalDown when it cannot be read."""
    view = _view(state_dir)
    found = ((task_id, view.tasks.peek(task_id)) for task_id in ids)
    return {task_id: task.state for task_id, task in found if task is not None}


def list_tasks(state_dir: Path, state: str | None, limit: int) -> list[dict[str, Any]]:
    """Tasks in the order in which they were accepted."""
    return task_list(_view(state_dir), state, limit)


def dlq_list(state_dir: Path, limit: int) -> list[dict[str, Any]]:
    """The dead-letter queue."""
    return dead_letters(_view(state_dir), limit)


def worker_actions(state_dir: Path, limit: int) -> list[dict[str, Any]]:
    """What was done about workers, and why: the latest `limit`, the oldest first.

    Raises NeedsOperator without a journal, JournalDown when it cannot be read. Likewise `worker_deaths`.
    """
    _demand_journal(state_dir)
    return _view(state_dir).crew.actions()[-limit:]


def worker_deaths(state_dir: Path, limit: int) -> list[dict[str, Any]]:
    """How workers died: the latest `limit`, the oldest first."""
    _demand_journal(state_dir)
    return _view(state_dir).crew.deaths()[-limit:]


def bill(state_dir: Path, by: str, since: str | None, until: str | None) -> dict[str, Any]:
    """What was charged, answered and paid, by `day`, `method`, `host`, `provider` or `tag:NAME`.

    `since` and `until` are UTC days like `2026-11-22`, both included; None: no bound. `charges_before` were made before
    the first day that is known. Raises NeedsOperator without a journal, JournalDown when it cannot be read.
    """
    _demand_journal(state_dir)
    view = _view(state_dir)
    rows: dict[str, Columns] = {}
    first_day, total, known = None, Columns(), 0
    for day, found in view.bill.days():
        first_day = first_day or day
        known += sum(columns.charges for columns in found.values())
        if (since or day) <= day <= (until or day):
            for row, columns in found.items():
                rows.setdefault(_name(by, day, row), Columns()).add(columns)
                total.add(columns)
    return {
        "schema": 1,
        "by": by,
        "since": since,
        "until": until,
        "first_day": first_day,
        "charges_before": max(0, view.totals.charges - known),
        "rows": [{"name": name, **_plain(columns)} for name, columns in sorted(rows.items())],
        "sum": _plain(total),
    }


def _name(by: str, day: str, row: Row) -> str:
    if by == "day":
        return day
    if not by.startswith("tag:"):
        return str(getattr(row, by))
    if row.tags in ("", OTHER):
        return row.tags
    return str(json.loads(row.tags).get(by.removeprefix("tag:"), ""))


def _plain(columns: Columns) -> dict[str, Any]:
    return asdict(columns) | {"cost": amount(columns.cost)}


def _demand_journal(state_dir: Path) -> None:
    if not (state_dir / "journal").is_dir():
        raise NeedsOperator(f"there is no journal in {state_dir}", hint="name the right configuration with --config")


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
    _demand_journal(state_dir)
    settings = QueueSettings(capacity, 0.0, 0.0, max_redrives, hold_unknown=False, retry=RetrySettings(1, 0.0, 0.0))
    journal = Journal.open(
        state_dir / "journal",
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
