"""A child of the test's own, forked by the test process itself: for what is tried without a parent or a template."""

__all__ = ["fork_child"]

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable

from captchad.ipc.channel import Channel
from captchad.logs import start_logging
from captchad.supervisor.process import Child, be_child


def fork_child(body: Callable[[int], int], *, keep: Iterable[int] = ()) -> tuple[Child, Channel]:
    """Fork; in the child run `body(channel_fd)` with all signals blocked and only `keep` and 0, 1, 2 open besides.

    Returns the child and our end of its pipe; both are the caller's to close. The caller has one thread.
    """
    ours, theirs = multiprocessing.Pipe()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            start_logging({})  # what the child says goes to stderr, not to pytest's memory of another process
            be_child(lambda: body(theirs.fileno()), [theirs.fileno(), *keep])
        return Child.of(pid), Channel(os.dup(ours.fileno()))  # the Connection closes its own
    finally:
        # Only the parent comes here: the child leaves by os._exit.
        ours.close()
        theirs.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
