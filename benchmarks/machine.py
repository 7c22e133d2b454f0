"""What this machine gives: processor time and memory of processes, and the time of the barest recovery."""

__all__ = ["bare_forks", "cpu_s", "pss_mb"]

import gc
import os
import signal
import time
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path


def cpu_s(pids: Iterable[int]) -> float:
    """Processor seconds of all threads, in the scheduler's nanoseconds: clock ticks of 10 ms are too coarse here."""
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def pss_mb(pid: int) -> float:
    """Memory of a process in MB; a page that n processes share counts as the n-th part of one."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def bare_forks(number: int) -> list[float]:
    """Seconds from the SIGKILL of a child to one byte from the next, with a worker's modules in memory."""
    import_module("captchad.worker")
    import_module("requests")
    gc.collect()
    gc.freeze()
    taken = []
    child = _fork_child()
    for _ in range(number):
        start = time.monotonic()
        _end_child(*child)
        child = _fork_child()
        taken.append(time.monotonic() - start)
    _end_child(*child)
    return taken


def _fork_child() -> tuple[int, int]:
    """Fork a child, and read the byte that it writes. Returns its pid and the pipe, whose end tells of its death."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        os.write(writable, b"!")
        while True:
            signal.pause()
    os.close(writable)
    os.read(readable, 1)
    return pid, readable


def _end_child(pid: int, readable: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.read(readable, 1)
    os.close(readable)
    os.waitpid(pid, 0)
