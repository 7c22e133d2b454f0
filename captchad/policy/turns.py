"""Whose turn it is among the ready tasks: by priority, and one turn in a few by age, so that nobody waits for ever.

Priorities that rise with the time waited are the usual way. In a backlog longer than a few steps they make all tasks
equal: a critical one then waits behind thousands that are old. Turns by age keep most turns for the urgent ones however
long the backlog is, and since the oldest comes first in them, each task waits at most for those that are older.
"""

__all__ = ["AGED_S", "after", "by_age"]

#: A task that has waited so long may take a turn by age. Shorter than most deadlines, and long enough that a burst of
#: urgent tasks goes first as a whole.
AGED_S = 60.0

#: Of so many turns one is by age.
AGED_EVERY = 5


def by_age(since: int) -> bool:
    """Whether the next turn goes to the oldest task, if one is aged, after `since` turns by priority."""
    return since >= AGED_EVERY - 1


def after(since: int, *, aged: bool) -> int:
    """The new `since` after a turn that went to an aged task, or by priority."""
    return 0 if aged else min(since + 1, AGED_EVERY - 1)
