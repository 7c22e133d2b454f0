"""What a worker of a contender says of itself: one line with its pid and the time. Imports as little as it can."""

__all__ = ["BROKEN_VARIABLE", "FILE_VARIABLE", "PORT_VARIABLE", "begin", "note"]

import os
import time

#: The file that the lines go to, and whether the worker is to die here; set by the benchmark.
FILE_VARIABLE = "BENCH_NOTES"
BROKEN_VARIABLE = "BENCH_BROKEN"

#: Where circus's watchdog listens; a worker without it sends no heartbeats.
PORT_VARIABLE = "BENCH_BEAT_PORT"


def note() -> None:
    """Say that this process is here now. CLOCK_MONOTONIC is one clock for all processes; one write, so no lines mix."""
    now = time.monotonic()
    fd = os.open(os.environ[FILE_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, b"%d %.6f\n" % (os.getpid(), now))
    os.close(fd)


def begin() -> None:
    """The worker has come to the point where it could work: say so. A broken one says so, too, and dies."""
    note()
    if os.environ.get(BROKEN_VARIABLE):
        raise RuntimeError("this worker is broken on purpose")
