"""One task as the view holds it, and the records that say all of one task.

These do: `accept`, as long as no other names the task; `keep`; `delivered` and `reported` with the final state in them.
A row of an `ended` record says what little must be known of a task that is over: its id, so that it is not taken twice.
"""

__all__ = [
    "Attempt",
    "Captcha",
    "Task",
    "WorkerKey",
    "accept_head",
    "ended_row",
    "final_state",
    "of_accept",
    "of_record",
    "of_row",
    "of_snapshot",
    "refresh",
    "row_at",
    "row_of_snapshot",
    "snapshot",
    "unreadable_task",
]

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quote
from typing import Any

from captchad.journal.records import REPAIR_HINT, Entry, Record
from captchad.model.errors import JournalDamaged
from captchad.model.states import Category, Priority, State
from captchad.policy.account import may_be_reported
from captchad.policy.lifecycle import Kind

WorkerKey = tuple[int, int]  # (epoch, number): one worker process, never used twice


@dataclass(slots=True)
class Attempt:
    """A submit that is ordered and has no outcome yet."""

    n: int
    task_id: str
    provider: str
    worker: WorkerKey
    ordered_at: float
    key_id: str  # names the API key without telling it
    tag: str = ""  # the tag whose charges are capped


@dataclass(slots=True)
class Captcha:
    """A captcha that a provider has taken and that may still be polled."""

    n: int
    task_id: str
    provider: str
    cid: str
    submitted_at: float
    key_id: str  # it is polled under the key that it was submitted with
    late: bool = False  # outlived its time-out: polled slowly, and another may be submitted meanwhile


@dataclass(slots=True, eq=False)
class Task:
    """One task as far as captchad must know it between turns. Times are UTC seconds, as recorded."""

    id: str
    state: State
    priority: Priority
    explicit: bool
    fingerprint: str
    origin: str
    source: str
    line: int
    method: str
    host: str
    dedupe_key: str | None
    queued_at: float
    deadline_at: float | None
    payload: Entry | None  # of one that is over: the record that says so
    due_at: float = 0.0
    attempts: int = 0
    charges: int = 0
    crashes: int = 0
    alone_crashes: int = 0
    stalls: int = 0
    unknown_submits: int = 0
    late_submits: int = 0
    redrives: int = 0
    faults: int = 0  # submits in a row that never reached the provider
    task_errors: int = 0
    waits_for: str | None = None  # the task whose answer this one will share
    n: int = 0  # the current attempt; 0 when there is none
    provider: str | None = None
    cid: str | None = None
    error: str | None = None
    category: Category | None = None
    text: str = ""
    solve_time: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    cost: int | None = None  # of its answer, in millionths
    tags: str = ""  # a JSON object; "" without any
    answer: Entry | None = None
    delivery: str = ""  # "", "publishing", "delivered"
    reported: str = ""  # "", "good", "bad"
    where: str = ""  # which waiting line it stands in; derived, not recorded
    ticket: int = 0  # its newest place in that line; derived
    numbers: tuple[int, ...] = ()  # its attempts that may still be under way; derived

    @property
    def tried(self) -> bool:
        """Whether its next submit is not its first one."""
        return self.attempts > 0 or self.faults > 0 or self.error is not None


_DERIVED = frozenset({"id", "payload", "answer", "where", "ticket", "numbers"})

#: Fields of a snapshot: all but what is derived or stands in the record's own place.
_KEPT = tuple(field.name for field in fields(Task) if field.name not in _DERIVED)

#: Those that a snapshot names whatever they are.
_ALWAYS = ("fingerprint", "origin", "source", "method", "host", "line", "dedupe_key", "deadline_at", "queued_at")

#: Values of a row of which no report can be made.
_PLAIN_ROW = 8

_INITIAL = {field.name: field.default for field in fields(Task) if field.name in _KEPT}


def accept_head(task_id: str, now: str, data: Mapping[str, Any], matters: Mapping[str, Any] | None = None) -> bytes:
    """The fields of an `accept` record, encoded. `matters`: what of them matters before the task is run.

    That stands between `pr` and `ex`, so that a reader sees at once that there is none of it.
    """
    tags = f',"tg":{_quote(data["tg"])}' if "tg" in data else ""
    extra = "".join([f',"{key}":{json.dumps(value)}' for key, value in matters.items()]) if matters else ""
    return (
        f',"id":{_quote(task_id)},"t":{now},"pr":{data["pr"]:d}{extra},"ex":{data["ex"]:d}'
        f',"fp":{_quote(data["fp"])},"org":{_quote(data["org"])},"line":{data["line"]:d}'
        f"{_origin(data['src'], data['m'], data['h'])}{tags}"
    ).encode("ascii")


@lru_cache(maxsize=256)
def _origin(source: str, method: str, host: str) -> str:
    """The same for most tasks that come together."""
    return f',"src":{_quote(source)},"m":{_quote(method)},"h":{_quote(host)}'


def of_accept(data: Mapping[str, Any], entry: Entry) -> Task:
    """The task of an `accept` record."""
    return Task(
        id=data["id"],
        state=State.PENDING,
        priority=Priority(data["pr"]),
        explicit=bool(data["ex"]),
        fingerprint=data["fp"],
        origin=data["org"],
        source=data["src"],
        line=int(data["line"]),
        method=data["m"],
        host=data["h"],
        dedupe_key=data.get("dk"),
        queued_at=float(data["t"]),
        deadline_at=data.get("dl"),
        payload=entry,
        waits_for=data.get("wait"),
        tags=data.get("tg", ""),
    )


def of_record(record: Record) -> Task:
    """The task of a record that says all of it. Raises JournalDamaged when it does not."""
    match record.kind:
        case Kind.ACCEPT:
            return of_accept(record.fields, record.entry)
        case Kind.KEEP | Kind.DELIVERED | Kind.REPORTED:
            return of_snapshot(record.fields, record.entry)
    raise JournalDamaged(f"a record of kind {record.kind} does not say all of a task", hint=REPAIR_HINT)


def snapshot(task: Task) -> dict[str, Any]:
    """All that `of_snapshot` needs, as plain values."""
    data: dict[str, Any] = {"id": task.id}
    data |= {name: value for name in _KEPT if (value := getattr(task, name)) not in (None, 0, "", False)}
    if task.cost is not None:
        data["cost"] = task.cost  # also one that cost nothing
    data |= {"state": task.state, "priority": int(task.priority), "explicit": task.explicit}
    data |= {name: getattr(task, name) for name in _ALWAYS}
    return data


def final_state(task: Task) -> dict[str, Any]:
    """The snapshot of a task whose result is in place: what its `delivered` record says of it."""
    return snapshot(task) | {"delivery": "delivered"}


def of_snapshot(data: Mapping[str, Any], payload: Entry | None) -> Task:
    """The task of a snapshot."""
    return Task(id=data["id"], payload=payload, **_kept(data))


def refresh(task: Task, data: Mapping[str, Any]) -> None:
    """Make `task` what the snapshot says of it."""
    for name, value in (_INITIAL | _kept(data)).items():
        setattr(task, name, value)


def ended_row(task: Task) -> list[Any]:
    """What is remembered of a task that is over, as a row of an `ended` record: if solved, also what a report needs."""
    return row_of_snapshot(snapshot(task))


def row_of_snapshot(data: Mapping[str, Any]) -> list[Any]:
    """The same from its snapshot, as its last record says it."""
    names = ("id", "state", "queued_at", "finished_at", "explicit", "fingerprint", "origin", "charges")
    task_id, state, queued_at, finished_at, explicit, fingerprint, origin, charges = map(data.get, names)
    row = [task_id, state, queued_at, finished_at, int(bool(explicit)), fingerprint, origin, charges or 0]
    if state != State.SOLVED or "cid" not in data:
        return row
    return [*row, data.get("provider"), data["cid"], data.get("solve_time"), data.get("reported", "")]


def row_at(row: list[Any], now: float) -> list[Any]:
    """The same without what a report needs, once it is too late for one."""
    if len(row) == _PLAIN_ROW or may_be_reported(row[3] - (row[_PLAIN_ROW + 2] or 0.0), now):
        return row
    return row[:_PLAIN_ROW]


def of_row(row: Sequence[Any], entry: Entry) -> Task:
    """The task of a row in the record at `entry`; of the rest nothing is known any more."""
    task_id, state, queued_at, finished_at, explicit, fingerprint, origin, charges = row[:_PLAIN_ROW]
    task = _blank(task_id, State(state), entry)
    task.queued_at, task.finished_at, task.charges = queued_at, finished_at, charges
    task.explicit, task.fingerprint, task.origin = bool(explicit), fingerprint, origin
    task.delivery = "delivered"
    if len(row) > _PLAIN_ROW:
        task.provider, task.cid, task.solve_time, task.reported = row[_PLAIN_ROW:]
    return task


def unreadable_task(task_id: str, state: State, entry: Entry) -> Task:
    """A task whose record the disk has lost: only its id and its state are known."""
    task = _blank(task_id, state, entry)
    if state.ended:
        task.delivery = "delivered"
    return task


def _blank(task_id: str, state: State, payload: Entry | None) -> Task:
    return Task(
        id=task_id,
        state=state,
        priority=Priority.NORMAL,
        explicit=True,
        fingerprint="",
        origin="",
        source="",
        line=0,
        method="",
        host="",
        dedupe_key=None,
        queued_at=0.0,
        deadline_at=None,
        payload=payload,
    )


def _kept(data: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: data[name] for name in _KEPT if name in data}
    kept["state"] = State(kept["state"])
    kept["priority"] = Priority(kept["priority"])
    kept["category"] = Category(kept["category"]) if kept.get("category") else None
    return kept
