"""A small service that says by captchad.notify what it is told by signals: HUP reloads, USR1 stops the pings."""

import os
import signal
import time

from captchad.model.clock import SystemClock
from captchad.notify import Notify


def main() -> None:
    """Ping until SIGTERM."""
    wanted = (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    notify = Notify(os.environ, SystemClock(), os.getpid())
    notify.clear_for_children()
    notify.extend_timeout(5.0)
    notify.ready(f"up → {notify.watchdog_s}")
    due = time.monotonic()
    pings = True
    while True:
        if pings and time.monotonic() >= due:
            notify.watchdog()
            due += (notify.watchdog_s or 1.0) / 4
        told = signal.sigtimedwait(wanted, 0.05)
        match told.si_signo if told else None:
            case signal.SIGHUP:
                notify.reloading()
                notify.status("reloading")
                notify.ready(f"reloaded, {notify.failures} lost")
            case signal.SIGUSR1:
                pings = False
            case signal.SIGTERM:
                notify.stopping()
                notify.status("bye")
                return


if __name__ == "__main__":
    main()
