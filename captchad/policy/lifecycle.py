"""The life of a task, in one table: (state, record kind) -> state.

Docs, metrics and tests are made from this table. A pair that is not listed is a fault of the caller's: `next_state`
raises. Kinds that may arrive for a task that has ended (`submitted`, `solved` of a superseded attempt) are listed with
the ended state itself: they are recorded and counted, and change nothing about how the task ended.
"""

__all__ = ["FORGOTTEN", "KINDS", "TRANSITIONS", "Kind", "NotAllowed", "next_state", "table_markdown"]

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from captchad.model.states import State


class Kind(StrEnum):
    """What a journal record says about one task."""

    ACCEPT = "accept"  # taken from the spool; carries the payload
    SUBMITTING = "submitting"  # an attempt is ordered: provider, worker, sequence number
    SUBMITTED = "submitted"  # the provider took it, under a captcha id
    NOT_SENT = "not_sent"  # nothing reached the provider
    REFUSED = "refused"  # in.php answered with an error code
    UNKNOWN = "unknown"  # began, no answer that can be parsed: perhaps charged; to be run again
    UNKNOWN_HOLD = "unknown_hold"  # the same; waits for an operator
    FAILED = "failed"  # res.php answered with an error code that ends the attempt
    TIMEOUT = "timeout"  # the attempt outlived its time; still polled, slowly
    LATE_END = "late_end"  # a superseded attempt ended without an answer
    SOLVED = "solved"  # the answer; carries it as payload
    DEAD = "dead"  # into the dead-letter queue
    EXPIRED = "expired"  # its deadline passed
    CANCELLED = "cancelled"
    HOLD = "hold"
    RELEASE = "release"
    CRASH = "crash"  # its worker died or hung while executing it
    PUBLISHING = "publishing"  # the result's temporary file is synced
    DELIVERED = "delivered"  # the result is in place
    REPORTED = "reported"  # a consumer's word on its answer is about to be sent
    REDRIVE = "redrive"  # a new run of a dead task
    FORGET = "forget"  # its id is free again
    KEEP = "keep"  # a snapshot, written when the segment that it lived in is cleaned
    KEEP_ANSWER = "keep_answer"  # the answer that goes with it
    ENDED = "ended"  # rows of tasks that are over, written likewise: all that is remembered of them


KINDS: Final = tuple(Kind)

#: In place of a state: the task is not known, before its first record and after its last.
FORGOTTEN: Final = None

_UNFINISHED = (State.PENDING, State.HELD, State.SUBMITTING, State.SUBMITTED)
_ENDED = (State.SOLVED, State.DEAD, State.EXPIRED, State.CANCELLED)


def _table() -> dict[tuple[State | None, Kind], State | None]:
    table: dict[tuple[State | None, Kind], State | None] = {
        (FORGOTTEN, Kind.ACCEPT): State.PENDING,
        (State.PENDING, Kind.SUBMITTING): State.SUBMITTING,
        (State.SUBMITTING, Kind.SUBMITTED): State.SUBMITTED,
        (State.SUBMITTING, Kind.NOT_SENT): State.PENDING,
        (State.SUBMITTING, Kind.REFUSED): State.PENDING,
        (State.SUBMITTING, Kind.UNKNOWN): State.PENDING,
        (State.SUBMITTING, Kind.UNKNOWN_HOLD): State.HELD,
        (State.SUBMITTED, Kind.FAILED): State.PENDING,
        (State.SUBMITTED, Kind.TIMEOUT): State.PENDING,
        (State.PENDING, Kind.HOLD): State.HELD,
        (State.HELD, Kind.RELEASE): State.PENDING,
        (State.PENDING, Kind.RELEASE): State.PENDING,  # waits for another task's answer no more
        (State.DEAD, Kind.REDRIVE): State.PENDING,
        (State.SOLVED, Kind.REPORTED): State.SOLVED,
    }
    for state in _UNFINISHED:
        table[state, Kind.SOLVED] = State.SOLVED
        table[state, Kind.DEAD] = State.DEAD
        table[state, Kind.EXPIRED] = State.EXPIRED
        table[state, Kind.CANCELLED] = State.CANCELLED
        table[state, Kind.CRASH] = state
    for state in _ENDED:
        table[state, Kind.PUBLISHING] = state
        table[state, Kind.DELIVERED] = state
        table[state, Kind.FORGET] = FORGOTTEN
    # What a superseded attempt may still bring: recorded, counted, without effect on the state.
    for state in (*_UNFINISHED, *_ENDED):
        table[state, Kind.LATE_END] = state
        table.setdefault((state, Kind.SUBMITTED), state)
        table.setdefault((state, Kind.SOLVED), state)
    return table


TRANSITIONS: Final[Mapping[tuple[State | None, Kind], State | None]] = _table()


class NotAllowed(ValueError):
    """A record that the table does not allow in this state."""


def next_state(state: State | None, kind: str) -> State | None:
    """The state after a record of `kind`; NotAllowed for a pair that is not in the table."""
    try:
        return TRANSITIONS[state, kind]  # type: ignore[index]  # a Kind is its word
    except KeyError:
        raise NotAllowed(f"a task that is {state or 'unknown'} takes no {kind} record") from None


def table_markdown() -> str:
    """The table for docs/lifecycle.md."""
    rows = ["| state | record | becomes |", "|---|---|---|"]
    rows += [f"| {state or '-'} | `{kind}` | {after or '-'} |" for (state, kind), after in TRANSITIONS.items()]
    return "\n".join(rows) + "\n"
