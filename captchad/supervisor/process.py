"""Child processes as their parent sees them: a pidfd that tells of their death, and how they ended.

A child closes what it inherited (a close, never an unlock: locks stay their owners') before it runs its body, and
leaves by `os._exit`, so that nothing of the parent's runs in it.
"""

__all__ = ["Child", "be_child", "become_subreaper", "reap", "reap_strangers", "send_signal"]

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import NoReturn

from captchad.model.errors import TryLater
from captchad.model.logevents import Event, fields

_log = logging.getLogger(__name__)

#: sysexits EX_SOFTWARE: the body raised.
EXIT_BUG = 70

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(slots=True)
class Child:
    """A process whose parent we are. The descriptor is closed by `close`."""

    pid: int
    pidfd: int

    @classmethod
    def of(cls, pid: int) -> "Child":
        """The child `pid`, dead or alive, that was not reaped yet. Raises OSError (EMFILE): then it is gone."""
        try:
            return cls(pid, os.pidfd_open(pid))
        except ProcessLookupError:
            raise
        except OSError:
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so the pid is still its own
            os.waitpid(pid, 0)
            raise

    def close(self) -> None:
        os.close(self.pidfd)


def become_subreaper() -> None:
    """From now on the processes of our descendants that have lost their parents are our children (Linux 3.4).

    So the workers that a template has forked are reaped here, and outlive it. Raises TryLater when the system refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        reason = os.strerror(ctypes.get_errno())
        raise TryLater(f"cannot become the reaper of our workers (prctl): {reason}")


def be_child(body: Callable[[], int], keep: Iterable[int]) -> NoReturn:
    """In a fresh fork: run `body` with only `keep` and 0, 1, 2 open, and leave with its status."""
    try:
        _close_others({0, 1, 2, *keep})
        code = body()
    except BaseException:  # noqa: BLE001 - whatever it was, it must not unwind into the parent's frames
        _log.exception("the body of a child fails", extra=fields(Event.INTERNAL_ERROR))
        code = EXIT_BUG
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _close_others(keep: set[int]) -> None:
    low = 0
    for fd in sorted(keep):
        if fd > low:
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def send_signal(child: Child, number: int) -> None:
    """Signal exactly this process, never another that got its pid. A child that is gone already is fine."""
    try:
        signal.pidfd_send_signal(child.pidfd, number)
    except ProcessLookupError:
        return


def reap(child: Child) -> int:
    """Collect the exit of a dead child: its exit code, or minus the signal that killed it."""
    result = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    if result is None:
        raise RuntimeError(f"pid {child.pid} is not dead")
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def reap_strangers(known: Collection[int]) -> None:
    """Collect dead children that nobody waits for: forked by a template that died before it could say so."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        # Behind one that its owner will collect there may be others: they are met the next time.
        if found is None or found.si_pid in known:
            return
        os.waitpid(found.si_pid, 0)
