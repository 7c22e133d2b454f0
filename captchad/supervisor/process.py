"""Fork a child with a pipe, know of its death by its pidfd.

The parent is single-threaded, so a plain fork is safe. Signals are blocked around it: the child must not run the
parent's handlers. The child first closes every descriptor that it inherited (a close, never an unlock: the lock of the
segments stays the parent's), then runs its body and leaves by `os._exit`, so that nothing of the parent's runs in it.
"""

__all__ = ["Child", "fork_child", "reap", "send_signal"]

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from captchad.ipc.channel import Channel

#: Made once: a set of enum members for each fork costs more than the rest of the preparation.
_ALL_SIGNALS = signal.valid_signals()

#: sysexits EX_SOFTWARE: the body raised.
EXIT_BUG = 70


@dataclass(slots=True)
class Child:
    """A forked process as its parent sees it. The descriptors are closed by `close`."""

    pid: int
    pidfd: int
    channel: Channel

    def close(self) -> None:
        self.channel.close()
        os.close(self.pidfd)


def fork_child(body: Callable[[int], int], *, keep: Iterable[int] = ()) -> Child:
    """Fork; in the child run `body(channel_fd)` with all signals still blocked and only `keep` and 0, 1, 2 open.

    Raises OSError (EAGAIN, ENOMEM, EMFILE) when no process can be made.
    """
    ours, theirs = multiprocessing.Pipe()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _be_child(body, theirs.fileno(), keep)
        return _as_child(pid, ours.fileno())
    finally:
        # Only the parent comes here: the child leaves by os._exit.
        ours.close()
        theirs.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _as_child(pid: int, channel_fd: int) -> Child:
    """What the parent keeps of a fresh fork. When there is no descriptor left for it the child goes again."""
    fds: list[int] = []
    try:
        fds.append(os.pidfd_open(pid))
        fds.append(os.dup(channel_fd))  # the Connection would close its own when collected
    except OSError:
        for fd in fds:
            os.close(fd)
        os.kill(pid, signal.SIGKILL)  # not reaped yet, so the pid is still its own
        os.waitpid(pid, 0)
        raise
    return Child(pid, fds[0], Channel(fds[1]))


def _be_child(body: Callable[[int], int], channel_fd: int, keep: Iterable[int]) -> None:
    try:
        _close_others({0, 1, 2, channel_fd, *keep})
        code = body(channel_fd)
    except BaseException:  # noqa: BLE001 - whatever it was, it must not unwind into the parent's frames
        traceback.print_exc()
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
