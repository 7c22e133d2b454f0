"""The exception tree, named by what the caller does about it.

    CaptchadError                 every exception that captchad raises on purpose
    ├── FixInput                  the input is wrong: tell whoever gave it, change nothing
    │   ├── ConfigError           a configuration (carries all problems at once)
    │   ├── TaskError             a task file or a task in it
    │   └── RecordTooLarge        a record beyond the journal's limit; nothing was written
    ├── TryLater                  true at this moment only: keep what you have, try again
    │   ├── LockHeld              somebody else writes there (carries the holder's pid)
    │   ├── JournalDown           the journal takes no write; nothing of the call is durable
    │   └── SpoolDown             the spool's file system takes no write
    ├── NeedsOperator             a person must act first; the hint names the command
    │   ├── JournalDamaged        a segment is missing or unreadable
    │   ├── NewerVersion          the data were written by a later captchad; left untouched
    │   └── UnsafeFilesystem      locks or syncs are weak there (NFS and the like)
    └── NotRunning                no daemon answers

Every `captchactl` call imports this: no dataclasses here, which bring `inspect` and cost 10 ms.

Each carries `hint`: what to do, in one sentence, or "". Programs print it after the message.
"""

__all__ = [
    "CaptchadError",
    "ConfigError",
    "ConfigProblem",
    "FixInput",
    "JournalDamaged",
    "JournalDown",
    "LockHeld",
    "NeedsOperator",
    "NewerVersion",
    "NotRunning",
    "RecordTooLarge",
    "SpoolDown",
    "TaskError",
    "TryLater",
    "UnsafeFilesystem",
]

from collections.abc import Sequence
from typing import NamedTuple


class CaptchadError(Exception):
    """Base of all; `hint` says what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class FixInput(CaptchadError):
    """The input is wrong; the same call will fail again."""


class ConfigProblem(NamedTuple):
    """One fault of a configuration; prints as `FILE:LINE: KEY: what is wrong (hint)`."""

    file: str
    line: int  # 1-based; 0 when the file as a whole is meant
    key: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        tail = f" ({self.hint})" if self.hint else ""
        return f"{self.file}:{self.line}: {self.key}: {self.message}{tail}"


class ConfigError(FixInput):
    """A configuration with at least one problem; all of them are in `problems`."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class TaskError(FixInput):
    """A task that cannot be taken, with the place: `key`, or `line` and `column` (1-based; 0 is unknown)."""

    def __init__(self, message: str, *, key: str = "", line: int = 0, column: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.key = key
        self.line = line
        self.column = column


class RecordTooLarge(FixInput):
    """A record beyond the journal's limit. Nothing was written."""


class TryLater(CaptchadError):
    """True at this moment only. Keep what you have and try again."""


class LockHeld(TryLater):
    """Somebody else holds the lock; `pid` is the holder's, 0 when unknown."""

    def __init__(self, message: str, *, pid: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.pid = pid


class JournalDown(TryLater):
    """The journal takes no write. What was staged stays staged and is not durable."""


class SpoolDown(TryLater):
    """The spool's file system takes no write now."""


class NeedsOperator(CaptchadError):
    """A person must act first; the hint names the command."""


class JournalDamaged(NeedsOperator):
    """A segment is missing, or bytes that were synced are bad and cannot be set aside."""


class NewerVersion(NeedsOperator):
    """Written by a later captchad; refused and left untouched."""


class UnsafeFilesystem(NeedsOperator):
    """Locks or syncs are weak on this file system."""


class NotRunning(CaptchadError):
    """No daemon answers at the control socket."""
