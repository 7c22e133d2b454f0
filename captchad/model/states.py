"""States of a task, priorities, and the four categories of failure."""

__all__ = ["Category", "Priority", "State"]

from enum import IntEnum, StrEnum


class State(StrEnum):
    """Where a task stands. The transition table is `captchad.policy.lifecycle`."""

    PENDING = "pending"  # ready, or delayed until a time
    HELD = "held"  # waits for an operator
    SUBMITTING = "submitting"  # a submit is ordered; whether it began only its worker knows
    SUBMITTED = "submitted"  # the provider has it, under a captcha id
    SOLVED = "solved"
    DEAD = "dead"  # in the dead-letter queue
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in _ENDED


_ENDED = frozenset({State.SOLVED, State.DEAD, State.EXPIRED, State.CANCELLED})


class Priority(IntEnum):
    """Lower runs first."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3

    @property
    def word(self) -> str:
        return self.name.lower()


class Category(StrEnum):
    """What a provider's error code says about whom to blame (protocol notes, section 3)."""

    TRANSIENT = "transient"  # the same call may work later
    PERMANENT = "permanent"  # key, account or address: stop the provider, tell the operator
    TASK = "task"  # this task only: once more, then the dead-letter queue
    BUDGET = "budget"  # money or capacity: pause the provider, not the task
