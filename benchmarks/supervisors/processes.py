"""Trees of processes: who is in them, what state they are in, and their end."""

__all__ = ["adopt_orphans", "end_children", "end_tree", "is_at_work", "tree"]

import ctypes
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_GONE_S = 10.0


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent dies: so they can be found at the end.

    Sessions and groups do not tell who belongs to whom: circus and supervisord give each worker one of its own.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def tree(pid: int) -> list[int]:
    """The process and all that descend from it; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return [pid, *(child.pid for child in root.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def is_at_work(pid: int) -> bool:
    """Whether the process is there and neither dead nor stopped."""
    return _state(pid) not in (None, psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED, psutil.STATUS_DEAD)


def end_tree(pid: int) -> None:
    """Kill a child of this process and all that descends from it; all of them are gone on return."""
    # Stopped first: a supervisor that runs would replace what is killed here.
    _send(pid, signal.SIGSTOP)
    members = tree(pid)
    for member in members:
        _send(member, signal.SIGKILL)
    _reap(members)


def end_children() -> None:
    """Kill whatever still descends from this process, and reap what it has adopted."""
    # Again and again: what was started between the look and the kill is adopted meanwhile.
    while left := tree(os.getpid())[1:]:
        for pid in left:
            _send(pid, signal.SIGKILL)
        _reap(left)


def _state(pid: int) -> str | None:
    try:
        return psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return None


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _reap(pids: Iterable[int]) -> None:
    """Wait until all are dead, and reap those whose parent this process is, or has become."""
    deadline = time.monotonic() + _GONE_S
    left = set(pids)
    while left:
        for pid in list(left):
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if _state(pid) in (None, psutil.STATUS_ZOMBIE):
                left.discard(pid)
        if time.monotonic() > deadline and left:
            raise RuntimeError(f"processes that SIGKILL does not end: {sorted(left)}")
        time.sleep(0.01)  # between two looks: nobody tells of the end of a process that is not a child
