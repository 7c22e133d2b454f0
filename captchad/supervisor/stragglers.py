"""Workers of a dead parent that do not end by themselves: found by the side file that they hold open, and killed.

That a process has our side file open proves that it is ours: its name is never used twice, and nobody but the worker
that made it keeps it open. The proof is made again after the pidfd is open, so that a process which got the pid of a
dead one is never hit.
"""

__all__ = ["kill_holders"]

import os
import signal
from pathlib import Path


def kill_holders(path: Path) -> list[int]:
    """Kill (SIGKILL) every other process that has `path` open; their pids. What may not be looked at is not ours."""
    target = os.path.realpath(path)
    return [pid for pid in _pids() if pid != os.getpid() and _holds(pid, target) and _kill(pid, target)]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _holds(pid: int, target: str) -> bool:
    directory = f"/proc/{pid}/fd"
    try:
        return any(os.readlink(f"{directory}/{fd}") == target for fd in os.listdir(directory))
    except OSError:
        return False  # gone meanwhile, or another user's


def _kill(pid: int, target: str) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not _holds(pid, target):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True
