"""The life of a worker and of its place, one table each, and the reasons that every decision carries.

Documents, metrics and tests are made from these tables. A pair that is not listed is a fault of the caller's:
`after` raises.
"""

__all__ = [
    "FAULTS",
    "SEATS",
    "STALLS",
    "WORDS",
    "WORKERS",
    "NotAllowed",
    "Reason",
    "SeatEvent",
    "SeatState",
    "WorkerEvent",
    "WorkerState",
    "after",
    "diagram",
    "table_markdown",
]

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, TypeVar


class WorkerState(StrEnum):
    """Of one process."""

    FORKING = "forking"  # ordered from the template
    BOOTING = "booting"  # there, and not heard of yet
    READY = "ready"  # its heartbeats come: it works in a seat, or waits in reserve
    DRAINING = "draining"  # told to end what it has begun, and go
    CONDEMNED = "condemned"  # hung: it gets the time to write its stack
    KILLED = "killed"  # SIGKILL was sent
    DEAD = "dead"  # gone, and its pipe was read dry


class WorkerEvent(StrEnum):
    """What happens to a process."""

    FORK = "fork"
    FORK_FAIL = "fork_fail"
    BEAT = "beat"
    RETIRE = "retire"
    CONDEMN = "condemn"
    KILL = "kill"
    DIE = "die"


class SeatState(StrEnum):
    """Of a place for one worker; it outlives the processes in it."""

    EMPTY = "empty"  # to be filled now
    WAITING = "waiting"  # to be filled later: who was here died at once, or no process can be made
    TAKEN = "taken"


class SeatEvent(StrEnum):
    """What happens to a place."""

    TAKE = "take"
    LEAVE = "leave"
    DELAY = "delay"


class Reason(StrEnum):
    """Why something was done, or how a worker died. It goes to log, journal, metrics and `workers --why`."""

    START = "start"
    SCALE_UP = "scale_up"
    SCALE_DOWN = "scale_down"
    RESERVE = "reserve"
    SURPLUS = "surplus"
    EXIT = "exit"
    CRASH = "crash"
    SIGNAL = "signal"
    OOM = "oom"
    DISK = "disk"
    BOOT_FAILED = "boot_failed"
    BOOT_TIMEOUT = "boot_timeout"
    SILENT = "silent"
    WEDGED = "wedged"
    STUCK_CALL = "stuck_call"
    MAX_TASKS = "max_tasks"
    MAX_MEMORY = "max_memory"
    MAX_AGE = "max_age"
    RELOAD = "reload"
    OPERATOR = "operator"
    STOP = "stop"
    STOP_AGAIN = "stop_again"
    DRAIN_OVERDUE = "drain_overdue"
    UNDYING = "undying"
    NONSENSE = "nonsense"
    PIPE_CLOSED = "pipe_closed"
    FORK_FAILED = "fork_failed"
    TEMPLATE_HUNG = "template_hung"
    TEMPLATE_DIED = "template_died"
    QUEUE_AGE = "queue_age"
    IDLE = "idle"
    DESCRIPTORS = "descriptors"
    PROCESSES = "processes"
    MEMORY = "memory"
    RECOVERED = "recovered"
    HEALTHY = "healthy"
    JOURNAL = "journal"
    WORKERS = "workers"


#: Each of them for people. Of a start or a move it says why the seat was free.
WORDS: Final[Mapping[Reason, str]] = {
    Reason.START: "the daemon starts",
    Reason.SCALE_UP: "more workers are wanted",
    Reason.SCALE_DOWN: "fewer workers are wanted",
    Reason.RESERVE: "a worker is kept booted for the next one that dies",
    Reason.SURPLUS: "a reserve that is not needed any more",
    Reason.EXIT: "ended what it had begun and went, as it was told",
    Reason.CRASH: "left by itself, with whatever status",
    Reason.SIGNAL: "a signal that was not ours",
    Reason.OOM: "the kernel took it for its memory",
    Reason.DISK: "could not make or finish its side file: the disk did not take it",
    Reason.BOOT_FAILED: "died before its first heartbeat",
    Reason.BOOT_TIMEOUT: "no first heartbeat within supervision.boot_s",
    Reason.SILENT: "no heartbeat for supervision.stall_s: its loop does not turn",
    Reason.WEDGED: "its loop turns, and every call is supervision.stall_s beyond its time-out",
    Reason.STUCK_CALL: "one call is supervision.stall_s beyond its time-out, and the others go on",
    Reason.MAX_TASKS: "has done supervision.max_tasks, or up to a tenth fewer",
    Reason.MAX_MEMORY: "private memory beyond supervision.max_private_mb, or up to a tenth less",
    Reason.MAX_AGE: "older than supervision.max_age_s, or up to a tenth less",
    Reason.RELOAD: "a setting has changed that a worker takes at its start",
    Reason.OPERATOR: "an operator wants it so",
    Reason.STOP: "the daemon stops",
    Reason.STOP_AGAIN: "the daemon was told to stop for the second time, or its time is over",
    Reason.DRAIN_OVERDUE: "did not go within supervision.drain_s",
    Reason.UNDYING: "killed, and still there: the seat goes to another",
    Reason.NONSENSE: "says what is not of the protocol",
    Reason.PIPE_CLOSED: "closed its end of the pipe and lives on",
    Reason.FORK_FAILED: "the system made no process",
    Reason.TEMPLATE_HUNG: "the template, which forks the workers, does not answer",
    Reason.TEMPLATE_DIED: "the template, which forks the workers, died",
    Reason.QUEUE_AGE: "the oldest task has waited for too long, and the workers are busy",
    Reason.IDLE: "nothing waits, and one worker fewer would do",
    Reason.DESCRIPTORS: "no file descriptor is left (EMFILE, ENFILE)",
    Reason.PROCESSES: "no process or thread can be made (EAGAIN, ENOMEM)",
    Reason.MEMORY: "memory is under pressure",
    Reason.RECOVERED: "nothing has been short for a while",
    Reason.HEALTHY: "all is well",
    Reason.JOURNAL: "the journal neither took a write nor is it being tried again",
    Reason.WORKERS: "some workers fail and are not being dealt with",
}

#: Reasons of a kill that mean that the worker hung.
STALLS: Final = frozenset({Reason.SILENT, Reason.WEDGED, Reason.BOOT_TIMEOUT})

#: Deaths that nobody had ordered.
FAULTS: Final = frozenset(
    {
        Reason.CRASH,
        Reason.SIGNAL,
        Reason.OOM,
        Reason.DISK,
        Reason.BOOT_FAILED,
        Reason.NONSENSE,
        Reason.PIPE_CLOSED,
        *STALLS,
    }
)

_W, _E = WorkerState, WorkerEvent

WORKERS: Final[Mapping[tuple[WorkerState, WorkerEvent], WorkerState]] = {
    (_W.FORKING, _E.FORK): _W.BOOTING,
    (_W.FORKING, _E.FORK_FAIL): _W.DEAD,
    (_W.BOOTING, _E.BEAT): _W.READY,
    (_W.BOOTING, _E.RETIRE): _W.DRAINING,
    (_W.BOOTING, _E.CONDEMN): _W.CONDEMNED,
    (_W.BOOTING, _E.KILL): _W.KILLED,
    (_W.BOOTING, _E.DIE): _W.DEAD,
    (_W.READY, _E.BEAT): _W.READY,
    (_W.READY, _E.RETIRE): _W.DRAINING,
    (_W.READY, _E.CONDEMN): _W.CONDEMNED,
    (_W.READY, _E.KILL): _W.KILLED,
    (_W.READY, _E.DIE): _W.DEAD,
    (_W.DRAINING, _E.BEAT): _W.DRAINING,
    (_W.DRAINING, _E.CONDEMN): _W.CONDEMNED,
    (_W.DRAINING, _E.KILL): _W.KILLED,
    (_W.DRAINING, _E.DIE): _W.DEAD,
    (_W.CONDEMNED, _E.BEAT): _W.CONDEMNED,
    (_W.CONDEMNED, _E.KILL): _W.KILLED,
    (_W.CONDEMNED, _E.DIE): _W.DEAD,
    (_W.KILLED, _E.BEAT): _W.KILLED,
    (_W.KILLED, _E.KILL): _W.KILLED,
    (_W.KILLED, _E.DIE): _W.DEAD,
}

_S, _T = SeatState, SeatEvent

SEATS: Final[Mapping[tuple[SeatState, SeatEvent], SeatState]] = {
    (_S.EMPTY, _T.TAKE): _S.TAKEN,
    (_S.EMPTY, _T.DELAY): _S.WAITING,
    (_S.WAITING, _T.TAKE): _S.TAKEN,  # its time has come
    (_S.WAITING, _T.DELAY): _S.WAITING,
    (_S.TAKEN, _T.LEAVE): _S.EMPTY,
    (_S.TAKEN, _T.TAKE): _S.TAKEN,  # a successor sits down at once
}

State = TypeVar("State", WorkerState, SeatState)
Event = TypeVar("Event", WorkerEvent, SeatEvent)


class NotAllowed(ValueError):
    """An event that the table does not allow in this state."""


def after(table: Mapping[tuple[State, Event], State], state: State, event: Event) -> State:
    """The state after `event`. Raises NotAllowed for a pair that is not in the table."""
    try:
        return table[state, event]
    except KeyError:
        raise NotAllowed(f"{state} takes no {event}") from None


def table_markdown(table: Mapping[Any, StrEnum]) -> str:
    """The table for docs/supervision.md."""
    rows = [f"| {pair[0]} | `{pair[1]}` | {then} |" for pair, then in table.items()]
    return "\n".join(["| state | event | becomes |", "|---|---|---|", *rows]) + "\n"


def diagram(table: Mapping[Any, StrEnum]) -> str:
    """The same as a Mermaid diagram; what changes nothing is left out."""
    arrows: dict[str, list[str]] = {}
    for pair, then in table.items():
        if pair[0] is not then:
            arrows.setdefault(f"{pair[0]} --> {then}", []).append(str(pair[1]))
    first = next(iter(table))[0]
    lines = [f"    {arrow}: {', '.join(events)}" for arrow, events in arrows.items()]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {first}", *lines]) + "\n"
